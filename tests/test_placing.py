from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lemevit_cli.atomic import check_replaceable, placed_together, replacing, written_whole
from lemevit_cli.errors import OutputError

# Writes two results, one of them of three files, and is killed before the operation named.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from lemevit_cli.atomic import check_replaceable, placed_together, replacing

folder, text, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
count = 0
def begin(event="", args=()):
    global count
    is_write = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if event in ("", "os.rename", "os.remove", "os.mkdir", "os.rmdir") or is_write:
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
fsync = os.fsync
os.fsync = lambda descriptor: (begin(), fsync(descriptor))
sys.addaudithook(begin)
layer, raster = folder / "o.shp", folder / "o.tif"
companions = ["o.shx", "o.cpg", "o.prj"]
check_replaceable(layer, overwrite=True, companions=companions)
with placed_together():
    with replacing(layer, overwrite=True, companions=companions) as path:
        for suffix in (".shp", ".shx", ".cpg"):
            path.with_suffix(suffix).write_text(text)
    with replacing(raster, overwrite=True) as path:
        path.write_text(text)
"""


def run(folder, text, at=0):
    command = [sys.executable, "-c", PROGRAM, str(folder), text, str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def seen(folder):
    """Return what each file says, by name; a reader sees no hidden ones."""
    return {p.name: p.read_text() for p in folder.iterdir() if not p.name.startswith(".")}


def test_a_kill_before_any_operation_leaves_old_new_or_nothing(tmp_path):
    old = dict.fromkeys(("o.shp", "o.shx", "o.cpg", "o.prj", "o.tif"), "old")
    new = dict.fromkeys(("o.shp", "o.shx", "o.cpg", "o.tif"), "new")
    found = []
    for at in range(1, 100):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        for name, text in old.items():
            (folder / name).write_text(text)
        if run(folder, "new", at).returncode == 0:
            break
        left = seen(folder)
        found.append(left)
        assert len({left[name] for name in ("o.shp", "o.tif") if name in left}) < 2  # of one run
        if "o.shp" in left:
            of_layer = {name: text for name, text in left.items() if name != "o.tif"}
            whole = old if left["o.shp"] == "old" else new
            assert of_layer == {name: text for name, text in whole.items() if name != "o.tif"}
        if "o.shp" not in left:
            # What it had begun is ended: its own files do not stand in the next one's way.
            with pytest.raises(OutputError, match=r"o\.shp exists"):
                check_replaceable(folder / "o.shp", overwrite=False, companions=["o.shx"])
            assert seen(folder) == new
        elif left != new:
            assert run(folder, "new").returncode == 0
            assert seen(folder) == new
    assert found[0] == old
    assert found[-1] == new
    assert len(found) > 20


def test_a_companion_that_is_there_is_refused_before_the_work(tmp_path):
    (tmp_path / "o.tif.aux.xml").write_text("theirs")
    began = False
    with (
        pytest.raises(OutputError, match=r"o\.tif\.aux\.xml exists and would be read with o\.tif"),
        replacing(tmp_path / "o.tif", overwrite=False, companions=["o.tif.aux.xml"]),
    ):
        began = True
    assert not began
    with replacing(tmp_path / "o.tif", overwrite=True, companions=["o.tif.aux.xml"]) as path:
        path.write_text("ours")
    assert [p.name for p in tmp_path.iterdir()] == ["o.tif"]


def test_a_finished_result_that_may_not_be_placed_is_kept_and_named(tmp_path):
    target = tmp_path / "o.bin"
    for kept in ("o.bin.finished", "o.bin.finished-2"):
        with (
            pytest.raises(OutputError, match=rf"exists.*is kept in .*{kept}$"),
            replacing(target, overwrite=False) as path,
        ):
            path.write_text("hours")
            target.write_text("theirs")
        assert (tmp_path / kept / "o.bin").read_text() == "hours"
        assert target.read_text() == "theirs"
        target.unlink()


def test_a_broken_file_is_not_put_in_place(tmp_path):
    target = tmp_path / "o.tif"
    target.write_text("old")
    with (
        pytest.raises(OutputError, match="is the disk full"),
        replacing(target, overwrite=True) as path,
    ):
        path.write_bytes(b"II*\0\xff\xff\0\0")
    assert [p.name for p in tmp_path.iterdir()] == ["o.tif"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("write", [replacing, lambda path, overwrite: written_whole(path)])
def test_overwriting_keeps_the_mode_and_a_link(tmp_path, write):
    real, link = tmp_path / "real.bin", tmp_path / "link.bin"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real.bin")
    with write(link, overwrite=True) as path:
        path.write_text("new")
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    assert link.readlink() == Path("real.bin")


def test_a_link_to_nothing_is_refused(tmp_path):
    link = tmp_path / "o.tif"
    link.symlink_to("missing.tif")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"is a link to .*missing\.tif, which is not there"):
            check_replaceable(link, overwrite=overwrite)
    assert link.is_symlink()
    (tmp_path / "missing.tif").write_text("old")
    with pytest.raises(OutputError, match=r"exists; replace it with --overwrite"):
        check_replaceable(link, overwrite=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells names")
def test_files_are_on_the_disk_before_their_names_are(tmp_path, monkeypatch):
    calls = []
    fsync = os.fsync

    def told(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    with replacing(tmp_path / "o.bin", overwrite=False) as path:
        path.write_text("new")
    *before, last = calls
    assert any(name.endswith(".part/o.bin") for name in before)
    assert last == str(tmp_path)


def test_results_together_are_kept_together(tmp_path):
    kept = r"one\.bin\.finished and .*other\.bin\.finished$"
    with pytest.raises(OutputError, match=kept), placed_together():
        for name in ("one.bin", "other.bin"):
            with replacing(tmp_path / name, overwrite=False) as path:
                path.write_text(name)
        (tmp_path / "other.bin").write_text("theirs")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "one.bin.finished", "other.bin", "other.bin.finished",
    ]  # fmt: skip
