from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio

from lemevit_cli.atomic import replacing
from lemevit_cli.errors import OutputError
from lemevit_cli.raster.targets import check_disk, check_target, find_writer, open_sink
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.segmentation.inference import WRITERS


class Stdout:
    """A stdout whose bytes can be looked at, as ``sys.stdout`` has them in ``buffer``."""

    def __init__(self, buffer=None):
        self.buffer = buffer or io.BytesIO()


def test_the_suffix_chooses_and_an_unknown_one_is_told_with_the_known():
    assert find_writer("a/OUT.TIFF", OutputOptions()).driver == "GTiff"
    assert find_writer("out.shp", OutputOptions(), WRITERS).driver == "ESRI Shapefile"
    assert find_writer("out.json", OutputOptions(), WRITERS).driver == "GeoJSON"
    assert find_writer("out.xyz", OutputOptions(format="geojson"), WRITERS).driver == "GeoJSON"
    with pytest.raises(OutputError, match=r"'\.png'; take one of \.tif, \.gpkg"):
        find_writer("out.png", OutputOptions(), WRITERS)
    with pytest.raises(OutputError, match="--format PNG is not known; take one of GTiff, COG"):
        find_writer("out.png", OutputOptions(format="PNG"))


def test_targets_that_cannot_be_written_are_refused_before_work(tmp_path):
    (tmp_path / "old.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    for name, reason in (
        ("missing/out.tif", "the folder .* does not exist"),
        ("folder.tif", "is a folder"),
        ("old.tif", "exists; replace it with --overwrite"),
    ):
        with pytest.raises(OutputError, match=reason):
            check_target(str(tmp_path / name), OutputOptions())
    check_target(str(tmp_path / "old.tif"), OutputOptions(overwrite=True))
    assert {path.name for path in tmp_path.iterdir()} == {"old.tif", "folder.tif"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="may not be written to"):
        check_target(str(tmp_path / "out.tif"), OutputOptions())


def test_a_device_is_no_target():
    with pytest.raises(OutputError, match="-o - writes to stdout"):
        check_target("/dev/null", OutputOptions(format="GTiff"))


def test_options_of_the_other_kind_are_refused(tmp_path):
    with pytest.raises(OutputError, match="--min-area is for polygons, and GTiff holds pixels"):
        check_target(str(tmp_path / "out.tif"), OutputOptions(min_area_m2=5))
    for name, options in (
        ("simplify", {"simplify_m": 0.0}),
        ("fill-holes", {"fill_holes_m2": 1.0}),
    ):
        with pytest.raises(OutputError, match=f"--{name} is for polygons"):
            check_target(str(tmp_path / "out.tif"), OutputOptions(**options))
    with pytest.raises(OutputError, match="--style: scores are no classes"):
        options = OutputOptions(style=True, output_type="scores")
        check_target(str(tmp_path / "out.tif"), options)
    with pytest.raises(OutputError, match="--classes: scores are of all classes"):
        options = OutputOptions(classes=("a",), output_type="scores")
        check_target(str(tmp_path / "out.tif"), options)
    with pytest.raises(OutputError, match="GPKG holds polygons, no scores"):
        check_target(str(tmp_path / "out.gpkg"), OutputOptions(output_type="scores"), WRITERS)


@pytest.mark.parametrize("target", ["-", "out.dat"])
def test_a_shapefile_needs_a_name_of_its_own(target):
    with pytest.raises(OutputError, match="several files"):
        check_target(target, OutputOptions(format="ESRI Shapefile"), WRITERS)


def test_a_disk_too_small_is_told_with_both_sizes(make_spec, tmp_path):
    check_disk(str(tmp_path / "out.tif"), make_spec())
    with pytest.raises(OutputError, match=r"up to 1,400,000,000.0 MB are needed in .* MB are free"):
        check_disk(str(tmp_path / "out.tif"), make_spec(width=10**9, height=10**6))


def test_of_a_linked_result_the_disk_is_that_which_it_is_written_to(
    make_spec, tmp_path, monkeypatch
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/out.tif").touch()
    (tmp_path / "out.tif").symlink_to(tmp_path / "full/out.tif")
    room = {str(tmp_path): 10**12, str(tmp_path / "full"): 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[folder]))
    with pytest.raises(OutputError, match=r"needed in .*full, 0.0 MB are free"):
        check_disk(str(tmp_path / "out.tif"), make_spec())


@pytest.mark.parametrize("format_", [None, "COG"])
def test_stdout_takes_a_geotiff_with_names_in_its_tags(
    make_spec, class_ids, write_result, monkeypatch, tmp_path, format_
):
    monkeypatch.setattr(sys, "stdout", Stdout())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_result("-", make_spec(), class_ids, OutputOptions(format=format_))
    with rasterio.MemoryFile(sys.stdout.buffer.getvalue()) as memory, memory.open() as result:
        np.testing.assert_array_equal(result.read(1), class_ids)
        assert result.tags(1)["CLASS_1"] == "building"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", [False, True])
def test_stdout_takes_one_feature_collection(
    make_spec, class_ids, write_result, monkeypatch, empty
):
    monkeypatch.setattr(sys, "stdout", Stdout())
    ids = np.full_like(class_ids, 255) if empty else class_ids
    options = OutputOptions(format="GeoJSON")
    check_target("-", options, WRITERS)
    write_result("-", make_spec(), ids, options)
    document = json.loads(sys.stdout.buffer.getvalue())
    assert document["type"] == "FeatureCollection"
    assert bool(document["features"]) is not empty


def test_nothing_reaches_stdout_if_the_work_fails(make_spec, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stdout())
    with pytest.raises(KeyboardInterrupt), open_sink("-", make_spec(), OutputOptions()):
        raise KeyboardInterrupt
    assert sys.stdout.buffer.getvalue() == b""


def test_a_reader_that_has_gone_is_a_broken_pipe(make_spec, class_ids, write_result, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", Stdout(pipe))
        with pytest.raises(BrokenPipeError):
            write_result("-", make_spec(), class_ids)


def test_choosing_a_writer_loads_no_format_library():
    code = (
        "import sys, lemevit_cli.raster.targets as w\n"
        "w.find_writer('out.tif', w.OutputOptions())\n"
        "assert not {'rasterio', 'pyogrio', 'shapely'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replacing_puts_a_file_in_place_only_at_a_clean_end(tmp_path):
    target = tmp_path / "out.png"
    with replacing(target, overwrite=False) as path:
        path.write_bytes(b"whole")
        assert path.suffix == ".png"
        assert not target.exists()
        assert all(found.name.startswith(".") for found in tmp_path.iterdir())
    assert target.read_bytes() == b"whole"
    with pytest.raises(SystemExit), replacing(target, overwrite=True) as path:
        path.write_bytes(b"half")
        raise SystemExit
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_appears_during_the_work_is_not_overwritten(tmp_path):
    target = tmp_path / "out.png"
    with pytest.raises(OutputError, match="exists"), replacing(target, overwrite=False) as path:
        path.write_bytes(b"ours")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
