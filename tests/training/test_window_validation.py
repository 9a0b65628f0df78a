"""Validation windows against a confusion counted by hand."""

import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.training.window_validation import WindowValidation, windows_of

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
SHAPE = (150, 210)
BOXES = [shapely.box(c + 0.2, r + 0.2, c + 9, r + 7) for c in range(5, 200, 20) for r in (20, 90)]
CARD = Card(
    task="seg",
    backbone="-",
    classes=classes_from_names(["background", "building"]),
    mean=(100.0, 100.0, 100.0),
    window=64,
    overlap=32,
)


@pytest.fixture
def opened(write_scene, tmp_path):
    """Return a scene that is bright where its buildings are, a nodata stripe, and the truth."""
    truth = rasterize([(box, 1) for box in BOXES], out_shape=SHAPE).astype(np.uint8)
    noise = np.random.default_rng(0).integers(1, 200, (3, *SHAPE))
    pixels = (noise + 50 * truth).astype(np.uint8)
    pixels[:, :, 60:70] = 0
    truth[:, 60:70] = 255
    scene = write_scene(pixels, transform=NORTH_UP, nodata=0)
    import geopandas

    on_map = [
        shapely.transform(b, lambda xy: xy * (0.5, -0.5) + (458_000, 5_548_000)) for b in BOXES
    ]
    labels = tmp_path / "labels.gpkg"
    geopandas.GeoDataFrame(geometry=on_map, crs="EPSG:32633").to_file(labels)

    def make(**changes):
        labelled = LabelledScene(scene=scene, labels=str(labels), class_name="building", **changes)
        return open_labelled_scene(labelled, Division(crop=32, val_fraction=0.3))

    return make, pixels, truth


def bright(pixels):
    """Return a model that calls bright pixels buildings."""
    return torch.cat([150 - pixels[:, :1], pixels[:, :1] - 150], dim=1)


def by_hand(pixels, truth):
    known = truth != 255
    found = pixels[0][known] > 150
    return [[((truth[known] == t) & (found == f)).sum() for f in (False, True)] for t in (0, 1)]


def test_figures_are_those_of_the_whole_scene(opened):
    make, pixels, truth = opened
    source = make(split="val").validation
    validation = WindowValidation([source], CARD)
    result = validation(bright)
    counts = validation.confusions[source.name].counts
    np.testing.assert_array_equal(counts[:, :2], by_hand(pixels, truth))
    assert result.score == result.figures[source.name]["miou"]


def test_of_a_divided_scene_only_held_back_pixels_count(opened):
    make, pixels, truth = opened
    source = make().validation
    held_back = np.zeros(SHAPE, dtype=bool)
    for site in source.sites:
        held_back[site.core.slices] = True
    validation = WindowValidation([source], CARD)
    validation(bright)
    expected = by_hand(pixels, np.where(held_back, truth, 255))
    np.testing.assert_array_equal(validation.confusions[source.name].counts[:, :2], expected)


def test_nodata_pixels_reach_the_model_filled(opened):
    make, _, _ = opened
    seen = []

    def answer(pixels):
        seen.append(pixels)
        return bright(pixels)

    WindowValidation([make(split="val").validation], CARD)(answer)
    assert all(pixels.dtype == torch.float32 for pixels in seen)
    assert min(float(pixels.min()) for pixels in seen) >= 1.0
    assert any((pixels == 100.0).all(dim=1).any() for pixels in seen)


def test_examples_are_up_to_four_windows_of_the_last_call(opened):
    make, _, _ = opened
    validation = WindowValidation([make(split="val").validation], CARD)
    assert validation.examples == ()
    for _ in range(2):
        validation(bright)
    assert len(validation.examples) == 4
    for example in validation.examples:
        assert example.classes == ("background", "building")
        assert example.pixels.shape[1:] == example.truth.shape == example.prediction.shape
        np.testing.assert_array_equal(example.prediction, example.pixels[0] > 150)


def test_windows_cover_the_areas_once(opened):
    make, _, _ = opened
    source = make().validation
    covered, wanted = np.zeros(SHAPE, dtype=int), np.zeros(SHAPE, dtype=int)
    for site, window in windows_of(source.sites, 64):
        covered[window.slices] += 1
        assert max(window.width, window.height) <= 64
        assert site.core.intersection(window) == window
    for site in source.sites:
        wanted[site.core.slices] += 1
    np.testing.assert_array_equal(covered, wanted)


def test_a_limit_spreads_windows_over_the_areas(opened):
    make, _, _ = opened
    source = make(split="val").validation
    places = []

    class Spy:
        name, classes, sites = source.name, source.classes, source.sites

        def read(self, site, window):
            places.append(window)
            return source.read(site, window)

    validation = WindowValidation([Spy()], CARD, limit=5)
    validation(bright)
    assert validation.cost_of_all == 4 * 12 / 5  # of 12 windows; blended they overlap by half
    assert len(places) == 5 and len(set(places)) == 5
    assert max(p.row_off for p in places) > 75 > min(p.row_off for p in places)
    assert isinstance(places[0], Window)


def test_classes_that_a_model_does_not_share_are_refused_at_once(opened):
    make, _, _ = opened
    card = Card(task="seg", backbone="-", classes=classes_from_names(["ship", "sea"]))
    with pytest.raises(DataError, match="no class is shared"):
        WindowValidation([make().validation], card)
