from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial

import pytest

from lemevit_cli.atomic import (
    placed_together,
    remove_parts,
    replacing,
    written_whole,
)
from lemevit_cli.errors import OutputError
from lemevit_cli.hidden_names import _start_of, beside, mark


def write(target, text):
    with replacing(target, overwrite=True) as path:
        path.write_text(text)


def test_results_that_belong_together_appear_together(tmp_path):
    one, other = tmp_path / "one.tif", tmp_path / "other.gpkg"
    one.write_text("old")
    with placed_together():
        write(one, "new")
        assert one.read_text() == "old"
        write(other, "new")
        assert not other.exists()
    assert one.read_text() == other.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_failure_leaves_none_of_them(tmp_path):
    with suppress(RuntimeError), placed_together():
        write(tmp_path / "one.tif", "new")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    write(tmp_path / "alone.tif", "new")
    assert (tmp_path / "alone.tif").read_text() == "new"


def a_dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_run_removes_what_dead_ones_have_left_and_nothing_of_the_living(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    dead, other = a_dead_process(), os.getppid()
    # A number that has come round: another process has it by now.
    gone = [f"{dead}", f"{dead}-1", f"{os.getpid()}-1", f"{other}-1"]
    there = [mark(), f"{os.getpid()}", f"{other}-{_start_of(other)}", "somebody"]
    for owner in gone + there:
        (tmp_path / f".out.tif.{owner}.x1.part" / "inner").mkdir(parents=True)
        (tmp_path / f".out.tif.{owner}.part.tif").touch()
        (tmp_path / "temporary" / f"lemevit-{owner}-x2" / "inner").mkdir(parents=True)
        (tmp_path / "temporary" / f"lemevit-{owner}-x3-stdin").touch()
    (tmp_path / f".out.tif.more.tif.{dead}.x4.part").mkdir()  # of another target
    write(tmp_path / "out.tif", "new")
    left = {path.name for place in (tmp_path, tmp_path / "temporary") for path in place.iterdir()}
    kinds = (".out.tif.{}.x1.part", ".out.tif.{}.part.tif", "lemevit-{}-x2", "lemevit-{}-x3-stdin")
    ours = {kind.format(owner) for kind in kinds for owner in there}
    assert left == ours | {"out.tif", "temporary", f".out.tif.more.tif.{dead}.x4.part"}


def test_a_killed_process_leaves_what_the_next_run_removes(tmp_path):
    program = (
        "import sys, os; from lemevit_cli.atomic import *\n"
        "with temporary_folder(), replacing(sys.argv[1], overwrite=False) as path:\n"
        "    path.write_text('half'); print('here', flush=True); sys.stdin.read()\n"
    )
    target, temporary = tmp_path / "out.tif", tmp_path / "temporary"
    temporary.mkdir()
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert running.stdout.readline() == b"here\n"
    half = [*tmp_path.glob(".out*"), *temporary.iterdir()]
    assert len(half) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        remove_parts(target)
        assert all(path.exists() for path in half)  # it lives
        running.kill()
        running.communicate()
        remove_parts(target)
    assert list(tmp_path.iterdir()) == [temporary] and not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["a" * 236 + ".tif", "ä" * 118 + ".tif", "b." + "c" * 240])
def test_names_as_long_as_a_file_system_takes_are_written(tmp_path, name):
    write(tmp_path / name, "new")
    with written_whole(tmp_path / name) as path:
        path.write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "newer"
    twin = beside(tmp_path / f"{name[:-1]}_", ".parts")
    assert twin != beside(tmp_path / name, ".parts") and len(os.fsencode(twin.name)) <= 255


def test_a_target_whose_name_is_no_text_is_refused(tmp_path):
    with pytest.raises(OutputError, match="not UTF-8; choose another"):
        write(tmp_path / os.fsdecode(b"out\xff.tif"), "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("writing", [written_whole, partial(replacing, overwrite=False)])
def test_a_full_disk_is_told_with_the_name_of_the_target(tmp_path, writing):
    target = tmp_path / "q.png"
    with pytest.raises(OSError, match=r"No space.*q\.png"), writing(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())
