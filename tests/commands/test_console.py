"""Tables on terminals of any width."""

import pytest

from lemevit_cli.commands.console import print_table

COLUMNS = ["class", "share of pixels", "hectares", "precision", "recall", "F1 at IoU 0.5"]
ROWS = [["building", "1.2 %", "12.3", "0.11", "0.22", "0.33"], ["[red]", "4", "5", "6", "7", "8"]]


@pytest.mark.parametrize("columns", [30, 60, 80, None])
def test_a_table_fits_the_terminal_and_loses_nothing(columns, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    print_table("a title of some length: /a/path/to/scene.tif", COLUMNS, ROWS, to_stderr=False)
    out = capsys.readouterr().out
    cells = [cell for row in ROWS for cell in row] + COLUMNS[1:]
    assert all(cell in out for cell in cells)
    assert max(map(len, out.splitlines())) <= (columns or 100)
