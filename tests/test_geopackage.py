"""Nothing that a GeoPackage holds is lost without a word."""

import sqlite3

import numpy as np
import pyogrio
import pytest
import shapely
from making.layers import add_layer, geometries_of

from lemevit_cli.atomic import check_replaceable
from lemevit_cli.errors import OutputError
from lemevit_cli.geopackage import tables_of
from lemevit_cli.raster.spec import Writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.layer import PolygonLayer, replacing_layer, write_layer

GPKG = Writer("GPKG", ".gpkg", "boxes", __name__)


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "project.gpkg"
    add_layer(path, "roads", 3)
    add_layer(path, "Parcels", 5)
    return path


def write(target, *, layer, overwrite=False, squares=2):
    polygons = shapely.box(np.arange(squares), 0, np.arange(squares) + 1, 1)
    content = PolygonLayer(
        wkb=shapely.to_wkb(polygons), fields={"n": np.arange(squares, dtype=np.int32)},
        crs_wkt="EPSG:32633",
    )  # fmt: skip
    options = OutputOptions(layer=layer, overwrite=overwrite)
    with replacing_layer(target, options, GPKG) as path:
        write_layer(path, content, options, GPKG, blame="no", target=target)


def layers_of(path):
    """Return layers with the number of their features, as GDAL counts them."""
    return {
        name: pyogrio.read_info(path, layer=name)["features"]
        for name, _ in pyogrio.list_layers(path)
    }


def test_one_layer_is_added_and_replaced_and_the_others_are_kept(project):
    before = {name: geometries_of(project, name) for name in ("roads", "Parcels")}
    write(project, layer="boats")
    assert layers_of(project) == {"roads": 3, "Parcels": 5, "boats": 2}
    with pytest.raises(OutputError, match="has a layer boats; replace it with --overwrite"):
        write(project, layer="boats", squares=4)
    write(project, layer="boats", squares=4, overwrite=True)
    assert layers_of(project) == {"roads": 3, "Parcels": 5, "boats": 4}
    for name, expected in before.items():
        assert shapely.equals(geometries_of(project, name), expected).all()
    assert list(project.parent.iterdir()) == [project]


def test_a_layer_is_the_first_of_a_new_file(tmp_path):
    write(tmp_path / "new.gpkg", layer="boats")
    assert layers_of(tmp_path / "new.gpkg") == {"boats": 2}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_with_other_layers_is_not_replaced(project, overwrite):
    with pytest.raises(OutputError, match=r"other layers \(roads, Parcels\), which --overwrite"):
        write(project, layer=None, overwrite=overwrite)
    assert layers_of(project) == {"roads": 3, "Parcels": 5}


def test_a_file_of_its_own_layer_alone_is_replaced(tmp_path):
    for stem in ("boats", "gpkg_boats"):
        path = tmp_path / f"{stem}.gpkg"
        write(path, layer=None)
        write(path, layer=None, squares=7, overwrite=True)
        assert list(layers_of(path).values()) == [7]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE notes (text)",
        "CREATE VIEW main_roads AS SELECT * FROM roads",
        "INSERT INTO gpkg_contents (table_name, data_type) VALUES ('photo', 'tiles')",
    ],
)
def test_tables_that_are_no_vector_layers_count(tmp_path, statement):
    path = tmp_path / "roads.gpkg"
    add_layer(path, "roads", 3)
    check_replaceable(path, overwrite=True)
    with sqlite3.connect(path) as database:
        if "photo" in statement:
            database.execute("CREATE TABLE photo (id)")
        database.execute(statement)
    (other,) = set(tables_of(path)) - {"roads"}
    with pytest.raises(OutputError, match=rf"other layers \({other}\)"):
        check_replaceable(path, overwrite=True)
    if "photo" in statement:
        with pytest.raises(OutputError, match="photo holds tiles; name another --layer"):
            check_replaceable(path, overwrite=True, layer="photo")


def test_what_cannot_take_a_layer_is_refused(project, tmp_path):
    with pytest.raises(OutputError, match="has a layer Parcels; name it so"):
        check_replaceable(project, overwrite=True, layer="parcels")
    other = tmp_path / "text.gpkg"
    other.write_text("no database")
    with pytest.raises(OutputError, match="is no GeoPackage"):
        check_replaceable(other, overwrite=True, layer="boats")
    other.write_bytes(project.read_bytes()[:3000])
    with pytest.raises(OutputError, match="its layers cannot be read"):
        check_replaceable(other, overwrite=True)


def test_what_another_program_has_committed_beside_the_file_is_kept(project):
    writer = sqlite3.connect(project)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE notes (text)")
    writer.execute("INSERT INTO notes VALUES ('new')")
    writer.commit()
    assert project.with_name("project.gpkg-wal").exists()
    write(project, layer="boats")
    writer.close()
    with sqlite3.connect(project) as database:
        assert database.execute("SELECT text FROM notes").fetchall() == [("new",)]


def test_a_failure_leaves_the_file_as_it_was(project):
    before = project.read_bytes()
    with (
        pytest.raises(RuntimeError),
        replacing_layer(project, OutputOptions(layer="boats"), GPKG) as path,
    ):
        path.write_text("half")
        raise RuntimeError
    assert project.read_bytes() == before and list(project.parent.iterdir()) == [project]
