"""What a person sees: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import unicodedata
from typing import Any

import typer

from lemevit_cli.commands import interruption, lifetime

_SECONDS_BETWEEN_LINES = 12.0
_BEAT_S = 1.0
_LONGEST_LINE = 4_000  # letters of a remark
_WIDEST = 10_000  # columns of a table in a file or a pipe
_NAMES_SHARE = 0.6  # of the terminal, that names may take before they are folded


class Console:
    """Draws the progress of a command on stderr.

    A bar where stderr is a terminal, else a plain line every few seconds, also while a single unit
    takes longer. Warnings and notes come once each, unless quiet. From start to finish a signal
    waits for the next advance, unless the length of the phase is unknown: then none may come.
    """

    def __init__(self, *, quiet: bool = False, show_progress: bool = True) -> None:
        self._quiet = quiet
        self._show = show_progress and not quiet
        self._bar: Any = None
        self._label, self._unit = "", ""
        self._total, self._done = 0, 0
        self._started = 0.0
        self._last_line = time.monotonic()  # of any: several short phases are long, too
        self._figures: dict[str, float] = {}
        self._over = threading.Event()  # of the phase
        self._drawing = threading.Lock()
        self._said: set[str] = set()

    def start(self, label: str, *, total: int, unit: str) -> None:
        if total > 0:
            interruption.hold()
            lifetime.settle()  # all that the command imports is there
        self._label, self._unit, self._total, self._done = label, unit, total, 0
        self._started = time.monotonic()
        self._figures = {}
        self._over.set()
        if not self._show:
            return
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total or None, desc=label, unit=f" {unit}", file=sys.stderr, leave=False
            )
        self._over = threading.Event()
        threading.Thread(target=self._keep_telling, args=(self._over,), daemon=True).start()

    def advance(self, count: int = 1, **figures: float) -> None:
        interruption.check()
        self._done += count
        self._figures = figures
        if self._bar is not None:
            if figures:
                self._bar.set_postfix({k: _figure(v) for k, v in figures.items()}, refresh=False)
            self._bar.update(count)
        else:
            self.tell_if_due()

    def tell_if_due(self) -> None:
        """Write a line of progress, if the last one is some time ago."""
        with self._drawing:
            if self._show and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                self._line()

    def _keep_telling(self, over: threading.Event) -> None:
        """Write lines, or move the bar's clock, until a phase is over."""
        while not over.wait(_BEAT_S):
            if self._bar is None:
                self.tell_if_due()
            else:
                with self._drawing:
                    if not over.is_set():
                        self._bar.refresh()

    def _line(self) -> None:
        elapsed = time.monotonic() - self._started
        if self._done == 0:
            typer.echo(f"{self._label}: {_duration(elapsed)} so far", err=True)
            return
        left = elapsed / self._done * max(self._total - self._done, 0)
        extra = "".join(f", {name} {_figure(value)}" for name, value in self._figures.items())
        typer.echo(
            f"{self._label}: {self._done} of {self._total} {self._unit}{extra}, "
            f"{_duration(left)} left",
            err=True,
        )

    def finish(self) -> None:
        with self._drawing:
            self._over.set()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        interruption.release()

    def warn(self, message: str) -> None:
        self._say(f"warning: {message}")

    def note(self, message: str) -> None:
        self._say(message)

    def _say(self, line: str) -> None:
        if self._quiet or line in self._said:
            return
        self._said.add(line)
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.clear()
        say(line)


def say(line: str) -> None:
    """Say something on stderr in one line that begins with the program's name."""
    words = " ".join(line.split())
    if len(words) > _LONGEST_LINE:  # a stranger's file may name another with 200,000 letters
        words = f"{words[: _LONGEST_LINE // 2]} ... {words[-_LONGEST_LINE // 2 :]}"
    typer.echo(f"lemevit: {printable(words)}", err=True)


def printable(text: str) -> str:
    """Return a text with what steers a terminal, or turns its reading, written out.

    Names of classes and files are a stranger's: ``\\x1b[2J`` clears a screen, and the overrides of
    Unicode's bidirectional writing show ``fdp.exe`` as ``exe.pdf``.
    """
    return "".join(c if c in "\n\t" or not _steers(c) else ascii(c)[1:-1] for c in text)


def _steers(character: str) -> bool:
    # Controls, formats such as bidirectional overrides, surrogates, separators of lines.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print one JSON object, readable by people too."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # JSON's own way to write a character, which reads as the same.
    text = "".join(c if c == "\n" or not _steers(c) else json.dumps(c)[1:-1] for c in text)
    typer.echo(text, err=to_stderr)


def print_table(title: str, columns: list[str], rows: list[list[str]], *, to_stderr: bool) -> None:
    """Print a table with the first column to the left and figures to the right.

    Where the terminal is too narrow for it, each row is a record of its own.
    """
    from rich.table import Table

    console = _console(to_stderr=to_stderr)
    console.print(printable(title), overflow="fold")
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(printable(column), justify="left" if i == 0 else "right")
    rows = [[printable(cell) for cell in row] for row in rows]
    for row in rows:
        table.add_row(*row)
    if _width_of(table, console) <= console.width:
        console.print(table)
        return
    for name, *figures in rows:
        console.print(name, overflow="fold")
        named = zip(columns[1:], figures, strict=True)
        console.print(_record([(f"  {column}", figure) for column, figure in named], console))


def print_record(rows: list[tuple[str, str]], *, to_stderr: bool = False) -> None:
    """Print names and values, side by side; long ones go on below themselves."""
    console = _console(to_stderr=to_stderr)
    console.print(_record(rows, console))


def flatten(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a nested record to rows: ``training.steps`` and its value."""
    rows: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            rows += flatten(value, f"{prefix}{name}.")
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


def _record(rows: list[tuple[str, str]], console: Any) -> Any:
    from rich.table import Table

    longest = max((len(name) for name, _ in rows), default=0)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=longest < _NAMES_SHARE * console.width, overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(printable(name), printable(value))
    return table


def _console(*, to_stderr: bool) -> Any:
    """Return rich's console, as wide as the terminal; as wide as it takes where there is none."""
    from rich.console import Console as RichConsole

    console = RichConsole(stderr=to_stderr, highlight=False, markup=False, emoji=False)
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = _WIDEST
    return console


def _width_of(table: Any, console: Any) -> int:
    return int(table.__rich_measure__(console, console.options.update(width=_WIDEST)).maximum)
