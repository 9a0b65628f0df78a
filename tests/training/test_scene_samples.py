"""Training windows of scenes: where they lie, what nodata pixels hold, where they are from."""

import pickle

import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from making.sources import sources_of

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.view import SceneView
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.draw import WindowDraw, aims_of, draw_frame_around_pixel
from lemevit_cli.training.options import AugmentationOptions, LabelledScene, TrainingOptions
from lemevit_cli.training.samples import PixelTargets, TrainingSamples

ROTATED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
FILL = (100.7, 90.0, 80.0)
CROP = 32


@pytest.fixture
def parts_of(write_scene, write_polygons, on_map):
    """Return a scene of 400 x 300 pixels with a stripe of nodata and small polygons, divided."""

    def make(number=80, *, background="background", val_fraction=0.25, dtype=np.uint8):
        random = np.random.default_rng(0)
        pixels = random.integers(1, 250, (3, 300, 400)).astype(dtype)
        pixels[:, 100:130] = 0
        scene = write_scene(pixels, transform=ROTATED, nodata=0)
        corners = zip(random.integers(0, 390, number), random.integers(0, 290, number), strict=True)
        boxes = [shapely.box(c + 0.1, r + 0.1, c + 5.1, r + 5.1) for c, r in corners]
        labels = write_polygons(on_map(boxes, ROTATED), kind=["a", "b"] * (number // 2))
        labelled = LabelledScene(
            scene=scene, labels=labels, label_field="kind", background=background
        )
        return open_labelled_scene(labelled, Division(crop=CROP, val_fraction=val_fraction))

    return make


def draw_of(source, **changes):
    options = TrainingOptions(crop=CROP, seed=5, **changes)
    return WindowDraw(sources_of(source), options), options


def samples_of(source, **changes):
    draw, options = draw_of(source, **changes)
    targets = PixelTargets(source.classes)
    return TrainingSamples(draw, options, value_range=(0.0, 255.0), fill=FILL, targets=targets)


def test_no_window_of_thousands_holds_a_validation_pixel(parts_of):
    parts = parts_of()
    held_back = np.zeros((300, 400), dtype=bool)
    for site in parts.validation.sites:
        held_back[site.core.slices] = True
    assert 0.15 < held_back.mean() < 0.35
    source = parts.training
    aims = aims_of(source, source.count_classes(), balance=0.5)
    generator = torch.Generator().manual_seed(0)
    sides = set()
    for wanted in [16, 32, 45, 64] * 300:
        site, frame = draw_frame_around_pixel(aims, wanted, CROP, generator)
        window = frame.window.intersection(site.extent)
        assert not held_back[window.slices].any()
        assert window.intersection(site.core) is not None
        sides.add(frame.side)
    assert min(sides) == 16 and max(sides) == 64
    draw, _ = draw_of(source)
    for index in range(150):
        drawn = draw(index)
        assert not held_back[drawn.window.slices].any()
        assert (drawn.sample.ids != 255).any()


def test_every_window_of_sparse_labels_has_some(parts_of):
    source = parts_of(10, background="ignore", val_fraction=0.0).training
    draw, samples = draw_of(source)[0], samples_of(source)
    for index in range(150):
        assert (draw(index).sample.ids != 255).any()
        if index < 100:
            assert (samples[index]["ids"] != 255).any()


def test_rare_classes_are_aimed_at_as_balance_says(parts_of):
    source = parts_of(val_fraction=0.0).training
    cells = source.count_classes()
    shares = cells.counts.sum(axis=0) / cells.counts.sum()
    aims = aims_of(source, cells, balance=0.5)
    chances = np.diff(aims.class_shares, prepend=0.0)
    np.testing.assert_allclose(chances, shares**0.5 / (shares**0.5).sum())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nodata_pixels_are_filled_as_predict_fills_them(parts_of, dtype):
    source = parts_of(val_fraction=0.0, dtype=dtype).training
    plain = AugmentationOptions.none()
    draw, samples = draw_of(source, augmentation=plain)[0], samples_of(source, augmentation=plain)
    with open_scene(source.sites[0].scene) as scene:
        view = SceneView(scene, fill=FILL)
        seen = 0
        for index in range(60):
            expected, valid = view.read(draw(index).window)
            np.testing.assert_array_equal(samples[index]["pixels"], expected.astype(np.float32))
            assert (samples[index]["ids"].numpy()[~valid] == 255).all()
            seen += (~valid).any()
    assert seen > 5


def test_augmentation_leaves_nodata_pixels_alone(parts_of):
    source = parts_of(val_fraction=0.0, dtype=np.uint16).training
    draw, samples = draw_of(source)[0], samples_of(source)
    fill = torch.tensor(FILL)[:, None]
    with_nodata = 0
    for index in range(60):
        sample = samples[index]
        assert torch.isfinite(sample["pixels"]).all()
        if not draw(index).sample.valid.all():
            is_nodata = (sample["pixels"].flatten(1) == fill).all(dim=0)
            assert is_nodata.any()
            assert (sample["ids"].flatten()[is_nodata] == 255).all()
            with_nodata += 1
    assert with_nodata > 5


def test_samples_are_the_same_after_pickling(parts_of):
    samples = samples_of(parts_of().training)
    copy = pickle.loads(pickle.dumps(samples))
    for index in (0, 7, 3):
        for key, value in samples[index].items():
            assert torch.equal(value, copy[index][key])


def test_the_origin_of_a_sample_is_its_window(parts_of):
    source = parts_of().training
    samples = samples_of(source, augmentation=AugmentationOptions.none())
    text = samples.origin(11)
    path, place = text.split(", window ")
    assert path == source.sites[0].scene
    at, size = place.split(" of ")
    col, row = map(int, at.split(","))
    width, height = map(int, size.split(" x "))
    window = Window(col_off=col, row_off=row, width=width, height=height)
    np.testing.assert_array_equal(
        samples[11]["ids"], source.read(source.sites[0], window).ids.astype(np.int64)
    )
