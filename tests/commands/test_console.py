"""Lines of progress where stderr is no terminal, and tables on terminals of any width."""

from types import SimpleNamespace

import pytest

from lemevit_cli.commands import console as module
from lemevit_cli.commands.console import Console, print_table, say


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module, "_BEAT_S", 3600.0)  # no beat but those of the test
    return clock


def test_a_line_comes_every_fifteen_seconds_also_within_one_unit(clock, capsys):
    console = Console()
    console.start("train", total=240, unit="s")
    told = []
    for second in range(1, 61):
        clock.now += 1.0
        if second == 10:
            console.advance(10, loss=0.51234, step=7)
        console.tell_if_due()  # as the thread does
        told += [(second, line) for line in capsys.readouterr().err.splitlines()]
    console.finish()
    seconds = [second for second, _ in told]
    gaps = [b - a for a, b in zip([0, *seconds], [*seconds, 60], strict=True)]
    assert max(gaps) <= 15
    assert told[0][1] == "train: 10 of 240 s, loss 0.512, step 7, 4:59 left"


def test_a_phase_of_unknown_length_tells_how_long_it_has_lasted(clock, capsys):
    console = Console()
    console.start("open the data", total=0, unit="")
    clock.now += 65.0
    console.tell_if_due()
    console.finish()
    assert capsys.readouterr().err == "open the data: 1:05 so far\n"


def test_several_short_phases_are_no_reason_for_silence(clock, capsys):
    console = Console()
    for label in ("first", "second"):
        console.start(label, total=0, unit="")
        clock.now += 7.0
        console.tell_if_due()
        console.finish()
    assert capsys.readouterr().err == "second: 0:07 so far\n"


@pytest.mark.parametrize("how", [{"quiet": True}, {"show_progress": False}])
def test_no_line_comes_where_none_is_wanted(clock, capsys, how):
    console = Console(**how)
    console.start("train", total=2, unit="steps")
    clock.now += 100.0
    console.advance(loss=1.0)
    console.tell_if_due()
    console.finish()
    assert capsys.readouterr().err == ""


def test_the_thread_of_a_phase_ends_with_it(capsys):
    console = Console()
    console.start("first", total=0, unit="")
    first = console._over
    console.start("second", total=0, unit="")
    assert first.is_set() and not console._over.is_set()
    console.finish()
    assert console._over.is_set()


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


def test_a_remark_of_a_megabyte_keeps_its_beginning_and_its_end(capsys):
    say(f"{'b' * 1_000_000}: no such file")
    said = capsys.readouterr().err
    assert len(said) < 5_000
    assert said.startswith("lemevit: bbb") and said.endswith("bbb: no such file\n")
