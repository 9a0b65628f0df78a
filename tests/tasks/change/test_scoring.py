import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from making.collector import Collector
from PIL import Image
from rasterio.features import shapes

from lemevit_cli.analysis.scoring import score
from lemevit_cli.errors import DataError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import classes_from_names
from lemevit_cli.raster.targets import RasterSpec, open_sink
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.change.results import WRITERS, change_spec
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.region_layers import open_layers

GRID = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
SHAPE = (70, 90)


def rectangles(*corners):
    ids = np.zeros(SHAPE, np.uint8)
    for top, left, bottom, right in corners:
        ids[top:bottom, left:right] = 1
    return ids


# Of four true rectangles one is found well, one half, one split in two parts, one not at all;
# a fifth is found where nothing is.
TRUTH = rectangles((5, 5, 25, 25), (5, 40, 25, 60), (40, 5, 60, 35), (50, 70, 60, 80))
FOUND = rectangles(
    (6, 6, 26, 25), (15, 40, 25, 60), (40, 5, 60, 18), (40, 22, 60, 35), (30, 70, 40, 80)
)


@pytest.fixture
def spec():
    crs_wkt = rasterio.CRS.from_epsg(32633).to_wkt()
    return RasterSpec(
        width=SHAPE[1],
        height=SHAPE[0],
        georeference=Georeference(transform=GRID, crs_wkt=crs_wkt),
        classes=classes_from_names(["unchanged", "changed"]),
    )


@pytest.fixture
def write_mask(tmp_path, spec):
    def write(ids, name):
        with open_sink(str(tmp_path / name), spec, OutputOptions()) as sink:
            sink.write(Window(col_off=0, row_off=0, width=SHAPE[1], height=SHAPE[0]), ids)
        return str(tmp_path / name)

    return write


@pytest.fixture
def write_layer(tmp_path, spec):
    """Return a function that writes the polygons of a mask as ``change`` does, corner by corner."""

    def write(ids, name):
        options = OutputOptions(simplify_m=0, min_area_m2=0)
        layers = change_spec(spec, options, before="2018", after="2020", sides=None)
        with open_layers([str(tmp_path / name)], layers, options, WRITERS) as sink:
            window = Window(col_off=0, row_off=0, width=SHAPE[1], height=SHAPE[0])
            sink.write(window, ids, np.ones(SHAPE, np.uint16))
        return str(tmp_path / name)

    return write


def pooled(truth, found):
    hits, true, said = (truth & found).sum(), truth.sum(), found.sum()
    return {
        "iou": hits / (true + said - hits),
        "f1": 2 * hits / (true + said),
        "precision": hits / said,
        "recall": hits / true,
    }


def assert_figures(figures, expected, abs=1e-9):
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=abs), name


@pytest.mark.parametrize("block_size", [1024, 32])
def test_pixels_are_pooled_and_polygons_matched_by_overlap(write_mask, block_size):
    options = ScoreOptions(block_size=block_size)
    figures = score(write_mask(FOUND, "f.tif"), write_mask(TRUTH, "t.tif"), options)
    assert_figures(figures, pooled(TRUTH == 1, FOUND == 1))
    objects = figures["objects"]
    # The half has an IoU of 0.5 exactly; a part of the split one has 13 / 30.
    assert (objects["found"], objects["truths"], objects["matched"]) == (5, 4, 2)
    assert_figures(objects, {"precision": 2 / 5, "recall": 2 / 4, "f1": 4 / 9})
    assert figures["pixels"] == TRUTH.size
    assert figures["batch_f1"] == pytest.approx(figures["f1"])  # one window, one batch


def test_masks_and_layers_of_change_give_the_same_figures(write_mask, write_layer):
    found = [write_mask(FOUND, "f.tif"), write_layer(FOUND, "f.gpkg"), write_layer(FOUND, "f.shp")]
    true = [write_mask(TRUTH, "t.tif"), write_layer(TRUTH, "t.gpkg"), write_layer(TRUTH, "t.shp")]
    expected = score(found[0], true[0])
    for prediction in found:
        for truth in true:
            figures = score(prediction, truth)
            assert_figures(figures, pooled(TRUTH == 1, FOUND == 1))
            assert figures["objects"] == expected["objects"]


def test_polygons_of_any_kind_and_crs_are_a_truth(write_mask, write_layer, tmp_path):
    outlines = [shapely.geometry.shape(s) for s, v in shapes(TRUTH, transform=GRID) if v == 1]
    table = geopandas.GeoDataFrame({"year": [1, 1, 1, 1]}, geometry=outlines, crs=32633)
    old = geopandas.GeoDataFrame(
        {"year": [0]}, geometry=[shapely.box(458_030, 5_547_970, 458_040, 5_547_980)], crs=32633
    )
    geopandas.pd.concat([table, old]).to_crs(4326).to_file(tmp_path / "t.geojson")
    options = ScoreOptions(labels=LabelledScene(scene="", labels="", where="year = 1"))
    for prediction in (write_mask(FOUND, "f.tif"), write_layer(FOUND, "f.gpkg")):
        figures = score(prediction, str(tmp_path / "t.geojson"), options)
        assert_figures(figures, pooled(TRUTH == 1, FOUND == 1), abs=1e-4)
        assert figures["objects"]["matched"] in (1, 2)  # the half one: rounded to either side


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("ending", ["geojson", "gpkg"])
def test_geojson_in_pixels_is_not_turned_round_the_globe(tmp_path, ending):
    for name, left in (("f.geojson", 10), (f"t.{ending}", 370)):
        box = shapely.box(left, 10, left + 10, 20)
        fields = {"id": [1], "class": ["changed"], "score": [0.9], "area_px": [100.0]}
        fields |= {"before": ["2018"], "after": ["2020"]}
        geopandas.GeoDataFrame(fields, geometry=[box]).to_file(tmp_path / name)
    assert score(str(tmp_path / "f.geojson"), str(tmp_path / f"t.{ending}"))["f1"] == 0.0
    assert score(str(tmp_path / "f.geojson"), str(tmp_path / "f.geojson"))["f1"] == 1.0


def test_a_truth_of_0_and_255_without_names_counts_255_as_change(write_mask, tmp_path):
    Image.fromarray(TRUTH * 255).save(tmp_path / "label.png")
    figures = score(write_mask(FOUND, "f.tif"), str(tmp_path / "label.png"))
    assert_figures(figures, pooled(TRUTH == 1, FOUND == 1))


def test_a_truth_on_another_grid_is_brought_to_the_predictions(write_mask, write_layer, tmp_path):
    fine = np.kron(TRUTH, np.ones((2, 2), np.uint8)) * 255
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    size = {"width": fine.shape[1], "height": fine.shape[0]}
    path = tmp_path / "fine.tif"
    with rasterio.open(path, "w", transform=GRID @ Affine.scale(0.5), **size, **profile) as file:
        file.write(fine, 1)
    for prediction in (write_mask(FOUND, "f.tif"), write_layer(FOUND, "f.gpkg")):
        assert_figures(score(prediction, str(path)), pooled(TRUTH == 1, FOUND == 1))


def test_nodata_pixels_are_neither_right_nor_wrong(write_mask):
    found, truth = FOUND.copy(), TRUTH.copy()
    found[:, :20], truth[:30] = 255, 255
    figures = score(write_mask(found, "f.tif"), write_mask(truth, "t.tif"))
    both = np.zeros(SHAPE, bool)
    both[30:, 20:] = True
    assert_figures(figures, pooled((TRUTH == 1) & both, (FOUND == 1) & both))
    assert figures["pixels"] == both.sum()


def test_nothing_found_and_nothing_there_have_no_figures(write_mask, write_layer):
    nothing, truth = np.zeros(SHAPE, np.uint8), write_mask(TRUTH, "t.tif")
    for prediction in (write_mask(nothing, "n.tif"), write_layer(nothing, "n.gpkg")):
        figures = score(prediction, truth)
        assert figures["recall"] == figures["f1"] == 0 and figures["precision"] is None
        assert figures["objects"]["recall"] == 0 and figures["objects"]["precision"] is None
    figures = score(write_layer(nothing, "n.shp"), write_layer(nothing, "m.shp"))
    assert figures["f1"] is None and figures["objects"]["f1"] is None


def test_parts_of_a_multipolygon_are_objects_of_their_own(write_layer, tmp_path):
    layer, dissolved = write_layer(FOUND, "p.gpkg"), str(tmp_path / "t.gpkg")
    geopandas.read_file(layer).dissolve("class", as_index=False).to_file(dissolved)
    for prediction, truth in ((layer, dissolved), (dissolved, layer)):
        figures = score(prediction, truth)
        assert figures["f1"] == pytest.approx(1.0)
        assert (figures["objects"]["truths"], figures["objects"]["matched"]) == (5, 5)


def test_features_without_an_area_are_no_objects(write_layer, tmp_path):
    layer, odd = write_layer(TRUTH, "t.gpkg"), str(tmp_path / "odd.gpkg")
    table = geopandas.read_file(layer)
    left, _, _, top = table.total_bounds
    flat = shapely.Polygon([(left, top), (left + 5, top), (left, top)])
    more = table.iloc[[0, 0]].set_geometry([None, flat], crs=table.crs)
    both = [*table.geometry, *more.geometry]
    table.iloc[[*range(len(table)), 0, 0]].set_geometry(both, crs=table.crs).to_file(odd)
    for prediction, truth in ((layer, odd), (odd, layer), (odd, odd)):
        objects = score(prediction, truth)["objects"]
        assert (objects["found"], objects["truths"], objects["matched"]) == (4, 4, 4)
    more.iloc[1:].to_file(tmp_path / "flat.gpkg")
    with pytest.raises(DataError, match=r"flat\.gpkg: holds no polygons"):
        score(layer, str(tmp_path / "flat.gpkg"))


def test_what_change_cannot_be_told_is_refused(write_mask, write_layer, tmp_path):
    mask, layer = write_mask(FOUND, "f.tif"), write_layer(FOUND, "f.gpkg")
    with pytest.raises(DataError, match="--tolerance is for rasters of classes"):
        score(mask, mask, ScoreOptions(tolerance_m=1.0))
    for prediction, truth, option in (
        (mask, layer, {"background": "ignore"}),
        (layer, mask, {"where": "year = 1"}),
        (mask, mask, {"label_field": "kind"}),
    ):
        labels = LabelledScene(scene="", labels="", **option)
        with pytest.raises(DataError, match="is not heeded here; change is compared without it"):
            score(prediction, truth, ScoreOptions(labels=labels))
    bare = geopandas.read_file(layer).set_crs(None, allow_override=True)
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        bare.to_file(tmp_path / "bare.gpkg")
    with pytest.raises(DataError, match="one has a CRS"):
        score(layer, str(tmp_path / "bare.gpkg"))


def test_layers_are_mended_and_met_round_the_globe(tmp_path):
    eight = shapely.Polygon([(181, 10), (183, 12), (183, 10), (181, 12)])
    fields = {"id": [1], "class": ["changed"], "score": [1.0], "before": ["a"], "after": ["b"]}
    geopandas.GeoDataFrame(fields, geometry=[eight], crs=4326).to_file(tmp_path / "f.gpkg")
    moved = shapely.affinity.translate(eight, -360)
    halves = list(shapely.make_valid(moved).geoms)
    geopandas.GeoDataFrame(geometry=halves[:1], crs=4326).to_file(tmp_path / "t.gpkg")
    said = Collector()
    figures = score(str(tmp_path / "f.gpkg"), str(tmp_path / "t.gpkg"), progress=said)
    assert (figures["precision"], figures["recall"]) == pytest.approx((0.5, 1.0))
    assert len(said.notes) == 1 and "1 of its features cross" in said.notes[0]
    far = shapely.box(-79, -1, -78, 0.5)
    geopandas.GeoDataFrame(geometry=[far], crs=4326).to_file(tmp_path / "far.gpkg")
    table = geopandas.GeoDataFrame(fields, geometry=[shapely.box(0, 0, 9, 9)], crs=32633)
    table.to_file(tmp_path / "utm.gpkg")
    with pytest.raises(DataError, match="1 polygons of one lie beyond the CRS of the other"):
        score(str(tmp_path / "utm.gpkg"), str(tmp_path / "far.gpkg"))
