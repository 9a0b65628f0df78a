import numpy as np
import pytest
import rasterio

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.class_raster import (
    ClassRaster,
    as_class_ids,
    check_class_raster,
    read_legend,
)
from lemevit_cli.raster.scene import open_scene


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 4, (1, 48, 64), dtype=np.uint8)


def legend_of(path):
    with open_scene(path) as scene:
        return read_legend(scene)


def test_names_are_the_bands_tags_and_colours_its_table(write_scene, ids):
    path = write_scene(ids, nodata=255)
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(1, CLASS_0="land", CLASS_2="water", OTHER="x")
        raster.write_colormap(1, {0: (1, 2, 3, 255), 3: (4, 5, 6, 255), 255: (9, 9, 9, 255)})
    legend = legend_of(path)
    assert legend.names == {0: "land", 2: "water"}
    assert legend.colors == {0: (1, 2, 3), 3: (4, 5, 6)}
    classes = legend.classes()
    assert [info.name for info in classes] == ["land", "class_1", "water", "class_3"]
    assert classes[0].color == (1, 2, 3) and classes[2].color == (66, 135, 245)
    assert legend.class_names == ("land", "class_1", "water", "class_3")


def test_category_names_beside_the_file_are_read(write_scene, ids, tmp_path):
    path = write_scene(ids, "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>void</Category>"
        "<Category/><Category>road &amp; rail</Category></CategoryNames></PAMRasterBand>"
        "</PAMDataset>"
    )
    assert legend_of(path).names == {0: "void", 2: "road & rail"}


def test_a_raster_may_say_nothing(write_scene, ids):
    legend = legend_of(write_scene(ids))
    assert not legend.names and not legend.colors and legend.class_names is None
    assert legend.classes() == ()


def test_ids_are_read_with_what_is_nodata(write_scene, ids):
    ids[0, :5] = 200
    with open_scene(write_scene(ids.astype(np.int16), nodata=200)) as scene:
        found = ClassRaster(scene).read(Window(col_off=3, row_off=2, width=20, height=30))
    expected = np.where(ids[0] == 200, 255, ids[0])[2:32, 3:23]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", [-1, 256, 1.5])
def test_a_number_that_is_no_id_is_refused_where_it_is_valid(wrong):
    values = np.array([[0.0, wrong], [2.0, 255.0]])
    with pytest.raises(SceneError, match=f"a.tif: holds {wrong:g}, which is no class id"):
        as_class_ids(values, np.ones((2, 2), bool), name="a.tif")
    valid = np.array([[True, False], [True, True]])
    assert as_class_ids(values, valid, name="a.tif").tolist() == [[0, 255], [2, 255]]


def test_several_bands_are_no_class_ids(scene):
    with open_scene(scene) as opened, pytest.raises(SceneError, match="has 3 bands"):
        check_class_raster(opened)
