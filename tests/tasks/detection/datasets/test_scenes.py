"""A scene with a layer of boxes: measured in its pixels, divided by blocks."""

import pickle

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from making.sources import sources_of

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.tasks.detection.data import count_objects
from lemevit_cli.tasks.detection.datasets.scenes import open_boxes_of_scene
from lemevit_cli.tasks.detection.windows import BoxTargets, aim_at_objects
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.objects import IGNORED, KEPT_PART
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.options import LabelledScene, TrainingOptions
from lemevit_cli.training.samples import TrainingSamples

# South-up and turned, so that nothing holds by chance.
TURNED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(30) @ Affine.scale(0.5, 0.5)
WIDTH, HEIGHT, CROP = 420, 300, 32
MANY = 80


def boxes_in_pixels(number, seed=0):
    random = np.random.default_rng(seed)
    return np.column_stack(
        [random.uniform(10, WIDTH - 10, number), random.uniform(10, HEIGHT - 10, number),
         random.uniform(12, 20, number), random.uniform(4, 10, number),
         random.uniform(-1.5, 1.5, number)]
    )  # fmt: skip


@pytest.fixture
def labelled(write_scene, tmp_path):
    """Return a scene and the boxes on it, in pixels; the layer is in the given CRS."""

    def make(number=MANY, *, crs="EPSG:32633", nodata=False, kinds=None, **settings):
        pixels = np.random.default_rng(1).integers(1, 250, (3, HEIGHT, WIDTH), dtype=np.uint8)
        if nodata:
            pixels[:, :100, :150] = 0
        scene = write_scene(pixels, transform=TURNED, nodata=0 if nodata else None)
        boxes = boxes_in_pixels(number)
        outlines = [
            shapely.Polygon([TURNED @ tuple(p) for p in corners]) for corners in corners_of(boxes)
        ]
        names = kinds or ["ship" if i % 3 else "plane" for i in range(number)]
        table = geopandas.GeoDataFrame({"kind": names}, geometry=outlines, crs="EPSG:32633")
        table.to_crs(crs).to_file(tmp_path / "boxes.gpkg")
        label = {"label_field": "kind", **settings}
        return LabelledScene(scene=scene, labels=str(tmp_path / "boxes.gpkg"), **label), boxes

    return make


def opened(labelled_scene, **changes):
    return open_boxes_of_scene(labelled_scene, Division(crop=CROP, **changes))


def counts_of(source):
    return count_objects(source, CROP).counts.sum(axis=0)


def test_difficult_objects_of_a_layer_are_neither_learned_nor_background(labelled):
    scene, _ = labelled(split="train")
    table = geopandas.read_file(scene.labels)
    table["difficult"] = [1, 0] * (MANY // 2)
    table.to_file(scene.labels)
    objects = opened(scene).training.objects[scene.scene]
    np.testing.assert_array_equal(objects.difficult, table["difficult"] == 1)
    assert counts_of(opened(scene).training).sum() == MANY // 2


def test_points_are_no_boxes_to_learn_from(labelled):
    scene, _ = labelled(split="train")
    table = geopandas.read_file(scene.labels)
    table.geometry = table.centroid
    table.to_file(scene.labels)
    with pytest.raises(DataError, match=r"boxes\.gpkg: holds no polygons"):
        opened(scene)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_boxes_of_any_crs_are_measured_in_pixels_of_the_scene(labelled, crs):
    scene, boxes = labelled(split="train", crs=crs)
    source = opened(scene).training
    assert source.classes == ("plane", "ship")
    objects = source.objects[scene.scene]
    wanted = shapely.polygons(corners_of(boxes))
    found = shapely.polygons(corners_of(objects.boxes))
    apart = shapely.area(shapely.symmetric_difference(wanted, found))
    assert len(found) == MANY and apart.max() < 0.02
    np.testing.assert_array_equal(objects.class_ids, [1 if i % 3 else 0 for i in range(MANY)])
    assert counts_of(source).tolist() == [27, 53]


def test_every_object_belongs_to_one_block_and_no_window_sees_a_held_back_one(labelled):
    scene, boxes = labelled()
    parts = opened(scene)
    owners = np.zeros(MANY, dtype=int)
    for source in (parts.training, parts.validation):
        for site in source.sites:
            own = source.objects[site.scene].centred_in(site.core)
            owners[own] += 1
            for x, y in boxes[own, :2]:
                assert site.core.col_off <= x < site.core.right
                assert site.core.row_off <= y < site.core.bottom
    assert (owners == 1).all()
    assert counts_of(parts.training).sum() + counts_of(parts.validation).sum() == MANY
    for site in parts.training.sites:
        assert site.extent.intersection(site.core) == site.core
        for held in parts.validation.sites:
            assert site.extent.intersection(held.core) is None
    assert "held back for validation" in parts.notes[-1] and "objects" in parts.notes[-1]


def test_objects_of_held_back_blocks_are_never_truth(labelled):
    scene, boxes = labelled()
    parts = opened(scene)
    objects = parts.validation.objects[scene.scene]
    held = np.concatenate([objects.centred_in(site.core) for site in parts.validation.sites])
    options = TrainingOptions(crop=CROP)
    sources = sources_of(parts.training, cells=[count_objects(parts.training, CROP)])
    draw = WindowDraw(sources, options, aim_at_objects, evenly=True)
    samples = TrainingSamples(
        draw,
        options,
        value_range=(0.0, 255.0),
        fill=(0.0, 0.0, 0.0),
        targets=BoxTargets(parts.training.classes),
    )
    outlines = shapely.polygons(corners_of(boxes[held]))
    for index in range(40):
        drawn = draw(index)
        extent = drawn.site.extent
        seen = shapely.Polygon(drawn.frame.corners).intersection(
            shapely.box(extent.col_off, extent.row_off, extent.right, extent.bottom)
        )
        inside = shapely.area(shapely.intersection(outlines, seen)) / shapely.area(outlines)
        assert (inside < KEPT_PART).all()
        assert samples[index]["pixels"].shape == (3, CROP, CROP)


def test_objects_on_no_data_and_without_a_class_do_not_count(labelled):
    kinds = ["ship"] * (MANY - 1) + [None]
    scene, boxes = labelled(nodata=True, kinds=kinds, split="train")
    parts = opened(scene)
    objects = parts.training.objects[scene.scene]
    hidden = (boxes[:, 0] < 150) & (boxes[:, 1] < 100)
    assert 0 < hidden.sum() < MANY and len(objects) == MANY - hidden.sum()
    assert (objects.class_ids == IGNORED).sum() == (not hidden[-1])
    assert any("1 polygons without kind are ignored" in note for note in parts.notes)
    told = f"{hidden.sum()} objects with their centre on nodata are left out"
    assert any(told in note for note in parts.notes)


def test_few_objects_are_all_trained_on(labelled):
    scene, _ = labelled(12)
    parts = opened(scene)
    assert parts.validation is None and counts_of(parts.training).sum() == 12
    assert "too few labels" in parts.notes[-1]


def test_a_worker_gets_scene_and_boxes(labelled):
    scene, _ = labelled()
    source = opened(scene).training
    there = pickle.loads(pickle.dumps(source))
    site = there.sites[0]
    np.testing.assert_array_equal(
        there.read(site, site.core).pixels, source.read(site, site.core).pixels
    )
    assert len(there.objects[site.scene]) == MANY


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"background": "ignore"}, "a background of 'ignore' is for segmentation"),
        ({"label_field": "species"}, "has no field 'species'"),
        ({"where": "kind = 'tram'"}, "no polygon is left by the filter"),
        ({"split": "test"}, "split 'test'"),
    ],
)
def test_mistakes_are_told(labelled, count_handles, changes, said):
    scene, _ = labelled(**changes)
    with pytest.raises(DataError, match=said) as raised:
        opened(scene)
    assert count_handles(scene.scene) == 0, raised


def test_a_raster_is_no_layer_of_boxes(labelled):
    scene, _ = labelled()
    with pytest.raises(DataError, match="is a raster; detection learns from boxes or polygons"):
        opened(LabelledScene(scene=scene.scene, labels=scene.scene))
