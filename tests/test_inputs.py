from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from lemevit_cli.errors import OutputError
from lemevit_cli.inputs import check_inputs_kept, files_behind, local_path

VRT = """<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
OGR_VRT = '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource relativeToVRT="1">{}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'  # noqa: E501


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tif").write_text("x")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a/x.tif", "x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("in/x.tif", "in/x.tif"),
        ("file://{}/in/x.tif", "in/x.tif"),
        ("/vsisubfile/0_500,in/x.tif", "in/x.tif"),
        ("/vsisubfile/0_500,{}/in/x.tif", "in/x.tif"),
        ("/vsigzip/in/x.tif", "in/x.tif"),
        ("/vsicached?chunk_size=4096&file=in/x.tif", "in/x.tif"),
        ("/vsizip/z.zip/a/x.tif", "z.zip"),
        ("/vsizip/{}/z.zip/a/x.tif", "z.zip"),
        ("zip://z.zip!a/x.tif", "z.zip"),
        ("zip+file://{}/z.zip!a/x.tif", "z.zip"),
        ("vrt://in/x.tif?bands=1", "in/x.tif"),
        ('NETCDF:"{}/in/x.tif":t2m', "in/x.tif"),
        ("HDF5:in/x.tif://data", "in/x.tif"),
        ("GTIFF_DIR:1:in/x.tif", "in/x.tif"),
        ("in/x.tif|layername=a", "in/x.tif"),
        ("https://host/in/y.tif", None),
        ("s3://bucket/key.tif", None),
        ("-", None),
        ("", None),
        ("\0", None),
        ("in/missing.tif", None),
    ],
)
def test_a_file_is_found_under_any_spelling_of_gdals(folder, name, file):
    found = local_path(name.format(folder))
    assert (None if found is None else found.resolve()) == (file and (folder / file).resolve())


def test_no_output_replaces_what_is_read_whatever_its_name(folder):
    (folder / "link.tif").symlink_to("in/x.tif")
    os.link("in/x.tif", "hard.tif")
    (folder / "a.vrt").write_text(VRT.format("in/x.tif"))
    (folder / "b.vrt").write_text(VRT.format("a.vrt"))
    (folder / "c.vrt").write_text(OGR_VRT.format("in/x.tif"))
    for name in ("in/x.tif", "./in/../in/x.tif", "link.tif", "hard.tif", "a.vrt", "b.vrt", "c.vrt",
                 "/vsisubfile/0_5,in/x.tif", VRT.format(f"{folder}/in/x.tif")):  # fmt: skip
        for output in ("in/x.tif", "link.tif", "hard.tif", f"{folder}/in/x.tif"):
            with pytest.raises(
                OutputError, match=r"(input itself|read with).*; name another file by -o"
            ):
                check_inputs_kept([output], ["https://host/y.tif", None, name])
    check_inputs_kept(["in/y.tif", "-"], ["in/x.tif"])
    (folder / "other.tif").write_text("x")
    check_inputs_kept(["other.tif"], ["in/x.tif", "-"])


def test_what_is_read_with_a_file_and_what_goes_with_an_output_count(folder):
    (folder / "in/x.tif.ovr").write_text("o")
    with pytest.raises(OutputError, match=r"x\.tif\.ovr is .*read with in/x\.tif"):
        check_inputs_kept(["in/x.tif.ovr"], ["in/x.tif"])
    for name in ("m.shp", "m.dbf"):
        (folder / name).write_text("m")
    with pytest.raises(OutputError, match=r"m\.dbf is"):  # a new shapefile's parts
        check_inputs_kept(["m.shp"], ["m.dbf"])


def test_data_folders_keep_their_files_and_may_hold_weights(folder):
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "data" / "images" / "p.png").symlink_to(folder / "in" / "x.tif")
    (folder / "data" / "w.safetensors").write_text("w")
    for output in ("data/images/p.png", "in/x.tif", "data"):
        with pytest.raises(OutputError, match="name another"):
            check_inputs_kept([output], ["data"])
    check_inputs_kept(["data/w.safetensors"], ["data"])
    assert [p.name for p in files_behind("data")] == ["p.png"]


def test_nothing_is_looked_at_where_no_output_is_there_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", None)
    (tmp_path / "a.vrt").touch()
    check_inputs_kept([tmp_path / "new.tif"], [str(tmp_path / "a.vrt")])
