import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import segmentation_models_pytorch as smp
import shapely
import torch
from affine import Affine
from PIL import Image
from rasterio.features import shapes

from lemevit_cli.analysis.scoring import score
from lemevit_cli.errors import DataError, OutputError, SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.legend import classes_from_names
from lemevit_cli.raster.targets import RasterSpec, open_sink
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.training.options import LabelledScene

NAMES = ("land", "building", "water")
UTM = pyproj.CRS(32633).to_wkt()
NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


@pytest.fixture
def ids():
    """Return patches of three classes with a nodata corner, 90 x 70 pixels, and a guess at them."""
    random = np.random.default_rng(4)
    patches = random.integers(0, 3, (10, 10))
    truth = np.kron(patches, np.ones((7, 9), int)).astype(np.uint8)
    found = np.roll(truth, (1, 2), (0, 1))
    found[30:40, 20:60] = 2
    truth[:6, :9] = 255
    found[60:, 80:] = 255
    return truth, found


@pytest.fixture
def write_classes(tmp_path, make_window):
    """Return a function that writes class ids with our own writer, names and colours in it."""

    def write(ids, name, *, names=NAMES, transform=NORTH_UP, crs_wkt=UTM):
        spec = RasterSpec(
            width=ids.shape[1],
            height=ids.shape[0],
            georeference=Georeference(transform=transform, crs_wkt=crs_wkt),
            classes=classes_from_names(names),
        )
        target = str(tmp_path / name)
        with open_sink(target, spec, OutputOptions()) as sink:
            sink.write(make_window(ids.shape), ids)
        return target

    return write


@pytest.fixture
def make_window():
    from lemevit_cli.geometry.window import Window

    return lambda shape: Window(col_off=0, row_off=0, width=shape[1], height=shape[0])


def smp_figures(truth, found):
    """Return the figures of segmentation-models-pytorch over the pixels that are valid in both."""
    both = (truth != 255) & (found != 255)
    counts = smp.metrics.get_stats(
        torch.from_numpy(found[both].astype(int))[None],
        torch.from_numpy(truth[both].astype(int))[None],
        mode="multiclass",
        num_classes=3,
    )
    return {
        "iou": smp.metrics.iou_score(*counts)[0].tolist(),
        "f1": smp.metrics.f1_score(*counts)[0].tolist(),
        "precision": smp.metrics.positive_predictive_value(*counts)[0].tolist(),
        "recall": smp.metrics.recall(*counts)[0].tolist(),
    }


def test_figures_equal_those_of_another_library(ids, write_classes):
    truth, found = ids
    figures = score(write_classes(found, "p.tif"), write_classes(truth, "t.tif"))
    expected = smp_figures(truth, found)
    for i, name in enumerate(NAMES):
        for figure, values in expected.items():
            assert figures["classes"][name][figure] == pytest.approx(values[i]), (name, figure)
    assert figures["miou"] == pytest.approx(np.mean(expected["iou"]))
    assert figures["f1"] == pytest.approx(np.mean(expected["f1"]))
    both = (truth != 255) & (found != 255)
    assert figures["pixels"] == both.sum()
    assert figures["accuracy"] == pytest.approx((truth == found)[both].mean())
    expected_counts = [
        [int((both & (truth == t) & (found == f)).sum()) for f in range(3)] for t in range(3)
    ]
    assert figures["confusion"] == expected_counts and figures["unmatched"] == [0, 0, 0]
    assert figures["tolerance_m"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("block_size", [16, 33, 64])
@pytest.mark.parametrize("tolerance_m", [None, 0.0, 3.1])
def test_figures_do_not_depend_on_the_blocks(ids, write_classes, block_size, tolerance_m):
    prediction, truth = write_classes(ids[1], "p.tif"), write_classes(ids[0], "t.tif")
    whole = score(prediction, truth, ScoreOptions(tolerance_m=tolerance_m))
    blocks = score(prediction, truth, ScoreOptions(tolerance_m=tolerance_m, block_size=block_size))
    assert blocks | {"seconds": 0} == whole | {"seconds": 0}
    assert 0 < whole["boundary_f1"] <= 1


def test_the_tolerance_is_in_metres_on_the_ground(write_classes):
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 20:40] = 1
    found = np.roll(truth, 3, axis=1)
    # 0.5 m along rows, 2 m along columns: three columns are 1.5 m.
    wide = Affine(0.5, 0, 458_000, 0, -2.0, 5_548_000) @ Affine.rotation(0)
    prediction = write_classes(found, "p.tif", transform=wide)
    true = write_classes(truth, "t.tif", transform=wide)

    def boundary(tolerance_m):
        figures = score(prediction, true, ScoreOptions(tolerance_m=tolerance_m))
        return figures["classes"]["building"]["boundary_f1"]

    assert boundary(1.51) == 1.0 and boundary(1.45) < 1.0


def nearest(truth, truth_grid, truth_crs, shape, grid, crs):
    """Return the truth under the centres of another grid's pixels, by pyproj; 255 outside."""
    rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = grid @ (cols.ravel(), rows.ravel())
    x, y = pyproj.Transformer.from_crs(crs, truth_crs, always_xy=True).transform(x, y)
    cols, rows = ~truth_grid @ (x, y)
    cols, rows = np.floor(cols).astype(int), np.floor(rows).astype(int)
    inside = (cols >= 0) & (rows >= 0) & (cols < truth.shape[1]) & (rows < truth.shape[0])
    found = np.full(len(cols), 255, np.uint8)
    found[inside] = truth[rows[inside], cols[inside]]
    return found.reshape(shape)


OTHERS = {
    "shifted and finer": (32633, Affine(0.31, 0, 458_004.03, 0, -0.31, 5_548_003.01)),
    "rotated": (32633, NORTH_UP @ Affine.translation(30, -20) @ Affine.rotation(33)),
    "south-up": (32633, Affine(0.5, 0, 457_995.1, 0, 0.5, 5_547_970.1)),
    "another CRS": (
        3857,
        Affine.translation(*pyproj.Transformer.from_crs(32633, 3857).transform(458_000, 5_548_000))
        @ Affine.scale(0.8, -0.8),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("block_size", [1024, 20])
def test_a_truth_on_another_grid_is_read_under_the_pixels_centres(
    ids, write_classes, name, block_size
):
    truth, found = ids
    code, grid = OTHERS[name]
    prediction = write_classes(found, "p.tif")
    true = write_classes(truth, "t.tif", transform=grid, crs_wkt=pyproj.CRS(code).to_wkt())
    figures = score(prediction, true, ScoreOptions(block_size=block_size))
    moved = nearest(truth, grid, code, found.shape, NORTH_UP, 32633)
    both = (moved != 255) & (found != 255)
    assert 200 < both.sum() == figures["pixels"]
    assert figures["accuracy"] == pytest.approx((moved == found)[both].mean())


def test_a_truth_without_nodata_counts_only_where_it_lies(ids, write_scene, write_classes):
    part = np.ones((1, 20, 30), np.uint8)
    shifted = NORTH_UP @ Affine.translation(5, 40)
    truth = write_scene(part, "t.tif", transform=shifted)
    figures = score(write_classes(ids[1], "p.tif"), truth, ScoreOptions(classes=NAMES))
    assert figures["pixels"] == 20 * 30


def test_polygons_are_burnt_onto_the_predictions_grid(ids, write_classes, tmp_path):
    truth, found = ids
    outlines = [
        (shapely.geometry.shape(outline), NAMES[int(value)])
        for outline, value in shapes(truth, transform=NORTH_UP)
        if value in (0, 1)
    ]
    table = geopandas.GeoDataFrame(
        {"kind": [name for _, name in outlines]}, geometry=[p for p, _ in outlines], crs=32633
    )
    table.to_crs(4326).to_file(tmp_path / "t.gpkg", layer="cover")
    labels = LabelledScene(scene="", labels="", label_field="kind", background="ignore")
    prediction = write_classes(found, "p.tif")
    for block_size in (1024, 17):
        options = ScoreOptions(labels=labels, block_size=block_size)
        figures = score(prediction, str(tmp_path / "t.gpkg"), options)
        both = (truth < 2) & (found != 255)
        assert figures["pixels"] == both.sum()
        assert figures["accuracy"] == pytest.approx((truth == found)[both].mean())
        # Water is no class of this truth: finding it is wrong, and told apart.
        assert sum(figures["unmatched"]) == (both & (found == 2)).sum()
    whole = score(
        prediction,
        str(tmp_path / "t.gpkg"),
        ScoreOptions(labels=LabelledScene(scene="", labels="", class_name="building")),
    )
    assert set(whole["classes"]) == {"background", "building"}
    assert whole["pixels"] == (found != 255).sum()
    hits = ((truth < 2) & (found == 1)).sum()
    assert whole["confusion"][1][1] == hits


def test_ids_without_names_are_matched_by_number(ids, write_scene):
    truth, found = ids
    prediction = write_scene(found[None], "p.tif", nodata=255)
    figures = score(prediction, write_scene(truth[None].astype(np.int16), "t.tif"))
    assert list(figures["classes"]) == ["class_0", "class_1", "class_2"]
    assert np.shape(figures["confusion"]) == (3, 3)
    named = score(prediction, prediction, ScoreOptions(classes=NAMES))
    assert list(named["classes"]) == list(NAMES) and named["miou"] == 1.0
    assert named["boundary_f1"] == 1.0


def test_pictures_of_one_size_are_compared_pixel_by_pixel(ids, write_classes, tmp_path):
    truth, found = ids
    Image.fromarray(truth).save(tmp_path / "t.png")
    heard = []

    class Listener:
        start = advance = finish = note = lambda self, *_, **__: None
        warn = staticmethod(heard.append)

    options = ScoreOptions(classes=NAMES)
    figures = score(write_classes(found, "p.tif"), str(tmp_path / "t.png"), options, Listener())
    assert figures["pixels"] == ((truth != 255) & (found != 255)).sum()
    assert "pixel by pixel" in heard[0]
    Image.fromarray(truth[:-1]).save(tmp_path / "short.png")
    with pytest.raises(SceneError, match="where it lies"):
        score(str(tmp_path / "p.tif"), str(tmp_path / "short.png"), options)


def test_mistakes_are_told_before_any_counting(ids, write_classes, write_scene, pixels, tmp_path):
    truth, found = ids
    prediction = write_classes(found, "p.tif")
    far = write_classes(truth, "far.tif", transform=NORTH_UP @ Affine.translation(5000, 0))
    with pytest.raises(SceneError, match=r"do not overlap.* 458000 .*460500"):
        score(prediction, far)
    with pytest.raises(DataError, match=r"bare.tif: its class ids have no names.*--classes"):
        score(prediction, write_scene(truth[None], "bare.tif", transform=NORTH_UP, nodata=255))
    with pytest.raises(SceneError, match="has 3 bands; class ids"):
        score(prediction, write_scene(pixels, "three.tif"))
    with pytest.raises(DataError, match=r"gone.tif: no such file"):
        score(prediction, str(tmp_path / "gone.tif"))
    with pytest.raises(DataError, match=r"holds the class id 2, and names only 0 to 1"):
        score(write_classes(found, "two.tif", names=NAMES[:2]), write_classes(truth, "t.tif"))
    named = LabelledScene(scene="", labels="", where="kind = 'lake'")
    with pytest.raises(DataError, match="--where is not heeded here"):
        score(prediction, prediction, ScoreOptions(labels=named))
    with pytest.raises(DataError, match="--score is not heeded here"):
        score(prediction, prediction, ScoreOptions(min_score=0.5))
    with pytest.raises(DataError, match=r"--tolerance 9000: at most 256"):
        score(prediction, prediction, ScoreOptions(tolerance_m=9000))
    with pytest.raises(OutputError, match="folder"):
        score(prediction, prediction, ScoreOptions(picture=str(tmp_path / "no/where.png")))
    nothing = write_classes(np.full_like(truth, 255), "nothing.tif")
    with pytest.raises(DataError, match="no pixel is valid in both"):
        score(prediction, nothing)
    ships = write_classes(truth, "ships.tif", names=("ship", "plane", "car"))
    with pytest.raises(DataError, match="no class is shared"):
        score(prediction, ships)


def test_a_result_of_polygons_is_refused_for_now(ids, write_classes, tmp_path):
    square = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=32633)
    square.to_file(tmp_path / "a.geojson")
    with pytest.raises(DataError, match=r"a.geojson holds polygons"):
        score(str(tmp_path / "a.geojson"), write_classes(ids[0], "t.tif"))


def test_category_names_of_others_are_read(ids, write_scene, tmp_path):
    path = write_scene(ids[1][None], "p.tif", nodata=255)
    categories = "".join(f"<Category>{name}</Category>" for name in NAMES)
    (tmp_path / "p.tif.aux.xml").write_text(
        f"<PAMDataset><PAMRasterBand band='1'><CategoryNames>{categories}</CategoryNames>"
        "</PAMRasterBand></PAMDataset>"
    )
    with rasterio.open(path) as opened:
        assert opened.tags(1) == {}
    assert list(score(path, path)["classes"]) == list(NAMES)
