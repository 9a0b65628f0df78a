"""``lemevit info``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json, print_record


def info(
    subject: Annotated[
        str | None,
        typer.Argument(metavar="[SUBJECT]", help="A scene, weights, or a model's timm name."),
    ] = None,
    size: Annotated[
        int, options.option("--size", "Input side for a model's multiply-adds.", min=33)
    ] = 224,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Describe a scene, weights or a model; without a subject, this installation."""
    from lemevit_cli.analysis.information import describe

    record = describe(subject, size=size)
    if json:
        print_json(record)
    else:
        print_record(_lines(record))


def _lines(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a nested record to rows: ``training.steps`` and its value."""
    rows: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            rows += _lines(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        separator = "\n" if value and isinstance(value[0], dict) else ", "
        return separator.join(_text(inner) for inner in value) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
