"""Tables of figures that several commands print."""

from __future__ import annotations

from typing import Any

from lemevit_cli.commands.console import print_table


def print_scores(title: str, figures: dict[str, Any], *, to_stderr: bool) -> None:
    """Print figures by class, then the means, as their task lays them out."""
    from lemevit_cli.tasks import load_tables
    from lemevit_cli.tasks.figure_table import PLAIN

    table = next((table for table in load_tables() if table.headline in figures), PLAIN)
    rows = list(table.rows(figures))
    print_table(title + table.remark(figures), table.titles(), rows, to_stderr=to_stderr)
