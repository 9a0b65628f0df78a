"""Windows with boxes: what is done to the pixels is done to the boxes."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch
from making.sources import sources_of
from rasterio.features import rasterize

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import boxes_of_corners, corners_of
from lemevit_cli.tasks.detection.data import count_objects, count_parts, note_crowds
from lemevit_cli.tasks.detection.windows import (
    EMPTY,
    MOST_OBJECTS,
    MOST_ROWS,
    BoxTargets,
    aim_at_objects,
)
from lemevit_cli.training.augmentation import NUM_SYMMETRIES, symmetry, symmetry_transform
from lemevit_cli.training.datasets.objects import IGNORED, Objects
from lemevit_cli.training.datasets.source import Parts, Site, Source
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.frames import Crop
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions
from lemevit_cli.training.samples import TrainingSamples

WIDTH, HEIGHT, CROP = 300, 220, 96
DARK, BRIGHT, FILL = 40.0, 200.0, (99.0, 99.0, 99.0)
PLAIN = AugmentationOptions.none()


class Memory:
    """Reads pixels kept in memory."""

    def __init__(self, pixels, valid=None):
        self.pixels = pixels
        self.valid = np.ones(pixels.shape[1:], bool) if valid is None else valid

    def read(self, site, window):
        assert site.scene == "picture"
        rows, cols = window.slices
        return self.pixels[:, rows, cols], self.valid[rows, cols]


def boxes_apart(step=44, size=(26, 12)):
    """Return boxes of all directions that do not touch each other."""
    places = [(x, y) for y in range(24, HEIGHT - 20, step) for x in range(24, WIDTH - 20, step)]
    angles = np.linspace(-1.5, 1.5, len(places))
    return np.array([(x, y, *size, a) for (x, y), a in zip(places, angles, strict=True)])


def painted(boxes):
    """Return a picture with bright boxes on dark ground."""
    outlines = [(shapely.Polygon(c), 1) for c in corners_of(boxes)]
    inside = rasterize(outlines, out_shape=(HEIGHT, WIDTH)).astype(bool)
    return np.where(inside, BRIGHT, DARK).astype(np.uint8)[None].repeat(3, axis=0)


def source_of(boxes, class_ids=None, difficult=None, classes=("ship",), reader=None):
    ids = np.zeros(len(boxes), np.int64) if class_ids is None else np.asarray(class_ids)
    hard = np.zeros(len(boxes), bool) if difficult is None else np.asarray(difficult)
    return Source(
        name="town",
        split="train",
        classes=classes,
        sites=(Site.whole("picture", WIDTH, HEIGHT, None),),
        objects={"picture": Objects(boxes, ids, hard)},
        bands=3,
        dtype="uint8",
        num_pixels=WIDTH * HEIGHT,
        read_pixels=(reader or Memory(painted(boxes))).read,
    )


def samples_of(*sources, weights=None, classes=None, balance=0.5, augmentation=PLAIN, **changes):
    names = classes or tuple(dict.fromkeys(n for s in sources for n in s.classes))
    options = TrainingOptions(crop=CROP, augmentation=augmentation, balance=balance, **changes)
    cells = [count_objects(source, CROP) for source in sources]
    return TrainingSamples(
        WindowDraw(
            sources_of(*sources, cells=cells, weights=weights), options, aim_at_objects, evenly=True
        ),
        options,
        value_range=(0.0, 255.0),
        fill=FILL,
        targets=BoxTargets(names),
    )


def used(sample):
    rows = sample["labels"] != EMPTY
    return sample["boxes"][rows].double().numpy(), sample["labels"][rows].numpy()


def origin(samples, index):
    return tuple(int(v) for v in samples.origin(index).split("window ")[1].split()[0].split(","))


@pytest.mark.parametrize(
    "change",
    [{}, {"symmetries": True}, {"turns": 1.0}, {"zoom": (0.5, 0.9)}, {"zoom": (1.1, 2.0)},
     {"symmetries": True, "turns": 0.5, "zoom": (0.5, 2.0)}],
    ids=str,
)  # fmt: skip
def test_boxes_lie_where_their_pixels_are(change):
    samples = samples_of(source_of(boxes_apart()), augmentation=replace(PLAIN, **change))
    seen = 0
    for index in range(12):
        sample = samples[index]
        boxes, _ = used(sample)
        seen += len(boxes)
        assert sample["pixels"].shape == (3, CROP, CROP)
        bright = sample["pixels"][0].numpy() > (DARK + BRIGHT) / 2
        outlines = [(shapely.Polygon(c), 1) for c in corners_of(boxes)]
        expected = rasterize(outlines, out_shape=(CROP, CROP)).astype(bool)
        assert expected.any() or not bright.any()
        # Along the edges, interpolation and the centre of a pixel may differ.
        assert (bright ^ expected).sum() <= 0.12 * expected.sum() + 4
    assert seen > 12


def test_a_plain_window_is_a_part_of_the_picture_to_the_bit():
    random = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    boxes = boxes_apart()
    samples = samples_of(source_of(boxes, reader=Memory(random)))
    for index in range(6):
        sample = samples[index]
        left, top = (
            int(v) for v in samples.origin(index).split("window ")[1].split()[0].split(",")
        )
        part = random[:, top : top + CROP, left : left + CROP]
        np.testing.assert_array_equal(sample["pixels"].numpy(), part)
        found, _ = used(sample)
        moved = boxes - (left, top, 0, 0, 0)
        near = np.abs(moved[:, None, :2] - found[None, :, :2]).max(axis=2)
        np.testing.assert_allclose(near.min(axis=0), 0, atol=1e-4)


@pytest.mark.parametrize("index", range(NUM_SYMMETRIES))
def test_a_symmetry_brings_points_where_it_brings_pixels(index):
    values = torch.arange(25.0).reshape(5, 5)
    turned = symmetry(values, index)
    transform = symmetry_transform(index, 5)
    for row in range(5):
        for col in range(5):
            x, y = transform @ (col + 0.5, row + 0.5)
            assert turned[int(y), int(x)] == values[row, col]


def test_an_object_counts_from_seven_tenths_inside_and_else_is_ignored():
    boxes = boxes_apart(step=36, size=(30, 16))
    samples = samples_of(source_of(boxes), augmentation=replace(PLAIN, turns=0.5))
    window = shapely.box(0, 0, CROP, CROP)
    seen = set()
    for index in range(30):
        found, labels = used(samples[index])
        outlines = shapely.polygons(corners_of(found))
        inside = shapely.area(shapely.intersection(outlines, window)) / shapely.area(outlines)
        # Close to the limit the rounding decides; a turned frame reaches over the picture's edge.
        clear = np.abs(inside - 0.7) > 0.01
        is_over = ~shapely.within(outlines, window)
        np.testing.assert_array_equal(
            (labels == 0)[clear & is_over], (inside > 0.7)[clear & is_over]
        )
        assert (inside > 0).all()
        seen |= set(labels.tolist())
    assert seen == {0, IGNORED}


def test_samples_are_the_same_for_every_worker_and_order():
    options = AugmentationOptions()
    samples = samples_of(source_of(boxes_apart()), augmentation=options)
    there = pickle.loads(pickle.dumps(samples))
    for index in (7, 0, 3):
        first, second = samples[index], there[index]
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(samples[0]["pixels"], samples[1]["pixels"])


def test_what_is_difficult_tiny_dropped_or_on_no_data_is_ignored():
    boxes = np.array([[20.0, 20, 20, 10, 0], [60, 20, 20, 10, 0], [20, 60, 3, 1.5, 0],
                      [60, 60, 20, 10, 0], [40, 40, 6, 4, 0]])  # fmt: skip
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[50:70, 45:75] = False
    source = replace(
        source_of(boxes, [0, 0, 0, 0, IGNORED], [False, True, False, False, False]),
        read_pixels=Memory(painted(boxes), valid).read,
    )
    label_of, nodata_seen = {}, False
    for index in range(12):
        sample = samples_of(source)[index]
        left, top = origin(samples_of(source), index)
        for box, label in zip(*used(sample), strict=True):
            if 12 < box[0] < CROP - 12 and 12 < box[1] < CROP - 12:  # whole
                label_of.setdefault((round(box[0] + left), round(box[1] + top)), set()).add(label)
        hidden = ~valid[top : top + CROP, left : left + CROP]
        nodata_seen |= hidden.any()
        np.testing.assert_array_equal(sample["pixels"][:, torch.from_numpy(hidden)], FILL[0])
    assert nodata_seen and label_of[20, 20] == {0}
    assert all(label_of[place] == {IGNORED} for place in [(60, 20), (20, 60), (60, 60), (40, 40)])


def test_a_picture_smaller_than_a_window_is_filled_and_never_magnified():
    pixels = np.full((3, 50, 60), 200, np.uint8)
    boxes = np.array([[30.0, 25, 20, 10, 0.5]])
    source = replace(
        source_of(boxes, reader=Memory(pixels)), sites=(Site.whole("picture", 60, 50, None),)
    )
    sample = samples_of(source)[0]
    filled = (sample["pixels"] == FILL[0]).all(dim=0)
    assert int((~filled).sum()) == 60 * 50
    found, labels = used(sample)
    assert labels.tolist() == [0]
    np.testing.assert_allclose(found[0, 2:], boxes[0, 2:], atol=1e-5)


def test_a_thousand_objects_keep_their_largest():
    random = np.random.default_rng(1)
    count = 2 * MOST_OBJECTS
    boxes = np.column_stack(
        [random.uniform(30, 60, (count, 2)), random.uniform(2.5, 9, count), np.full(count, 2.4),
         np.zeros(count)]
    )  # fmt: skip
    boxes = np.concatenate([boxes, [[45.0, 45, 30, 20, 0]]])
    sample = samples_of(source_of(boxes))[0]
    found, labels = used(sample)
    learned = found[labels == 0]
    assert len(learned) == MOST_OBJECTS
    assert learned[0, 2] == 30 and learned[:, 2].min() > np.median(boxes[:, 2]) - 0.5
    # What is not learned is there all the same: no background.
    assert len(found) == len(boxes) and set(labels) == {0, IGNORED}
    assert not sample["unknown"].any()


def test_objects_without_a_row_are_no_background_either():
    random = np.random.default_rng(1)
    count = MOST_ROWS + 5
    boxes = np.column_stack(
        [random.uniform(30, 60, (count, 2)), random.uniform(2.5, 9, count), np.full(count, 2.4),
         np.zeros(count)]
    )  # fmt: skip
    smallest = np.argsort(boxes[:, 2])[:3]
    ids = np.zeros(count, np.int64)
    ids[smallest] = 1
    source = source_of(boxes, ids, classes=("ship", "boat"))
    objects = Objects(boxes, ids, np.zeros(count, bool))
    valid = torch.ones(CROP, CROP, dtype=torch.bool)
    crop = Crop(torch.zeros(3, CROP, CROP), valid, valid.byte(), objects)
    sample = BoxTargets(("ship", "boat", "plane"))(crop, source)
    assert sample["boxes"].shape == (MOST_ROWS, 5) and not (sample["labels"] == EMPTY).any()
    assert sample["unknown"].tolist() == [True, True, True]


def test_what_shrinks_is_averaged_in_turned_frames_too():
    checkers = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 * 255
    pixels = checkers.astype(np.uint8)[None].repeat(3, axis=0)
    samples = samples_of(
        source_of(np.array([[150.0, 110, 20, 10, 0]]), reader=Memory(pixels)),
        augmentation=replace(PLAIN, turns=1.0, zoom=(0.45, 0.5)),
    )
    inner = samples[1]["pixels"][0, CROP // 3 : -CROP // 3, CROP // 3 : -CROP // 3]
    assert inner.std() < 12 and abs(float(inner.mean()) - 127.5) < 6


def test_rare_classes_and_sources_are_drawn_as_told():
    boxes = boxes_apart()
    ids = np.zeros(len(boxes), np.int64)
    ids[0] = 1  # one of many, in a cell of its own
    source = source_of(boxes, ids, classes=("ship", "plane"))
    other = replace(source_of(boxes, classes=("car",)), name="other")

    def share_of_rare(balance):
        samples = samples_of(source, balance=balance)
        return np.mean([(samples[i]["labels"] == 1).any() for i in range(150)])

    assert share_of_rare(1.0) > share_of_rare(0.0) + 0.2
    samples = samples_of(source, other, weights=[1.0, 3.0])
    drawn = [samples[i]["unknown"].tolist() for i in range(200)]
    assert {tuple(d) for d in drawn} == {(False, False, True), (True, True, False)}
    assert np.mean([d[0] for d in drawn]) == pytest.approx(0.75, abs=0.1)


def test_ids_are_those_of_the_model_by_name():
    boxes = boxes_apart()[:2]
    source = source_of(boxes, [0, 1], classes=("ship", "plane"))
    samples = samples_of(source, classes=("plane", "car", "ship"))
    labels = {label for i in range(8) for label in used(samples[i])[1].tolist()}
    assert labels - {IGNORED} == {0, 2}
    assert samples[0]["unknown"].tolist() == [False, True, False]


def test_a_source_without_an_object_to_find_is_refused():
    source = source_of(boxes_apart(), difficult=np.ones(len(boxes_apart()), bool))
    with pytest.raises(DataError, match="town/train: no object is left to find"):
        count_parts(Parts(source, None), CROP)


def test_pictures_looked_through_in_vain_are_ground_of_their_classes():
    nothing = source_of(boxes_apart()[:0], classes=("plane",))
    with pytest.raises(DataError, match="no object is left to find"):
        count_parts(Parts(nothing, None), CROP)
    searched = replace(nothing, is_searched=True)
    parts = count_parts(Parts(searched, replace(searched, split="val")), CROP)
    assert parts.validation is not None and parts.validation.split == "val"
    assert parts.notes == ("town: nothing is labelled; learned as ground without plane",)
    samples = samples_of(source_of(boxes_apart()), parts.training, weights=[1.0, 1.0])
    drawn = [samples[i] for i in range(40)]
    of_nothing = [d for d in drawn if d["unknown"].tolist() == [True, False]]
    assert 10 < len(of_nothing) < 30
    assert all((d["labels"] == EMPTY).all() for d in of_nothing)
    assert len({origin(samples, i) for i in range(40) if drawn[i]["unknown"][0]}) > 5


def test_an_object_that_is_dropped_makes_no_empty_picture():
    source = source_of(boxes_apart(), [IGNORED] * len(boxes_apart()))
    with pytest.raises(DataError, match="no object is left to find"):
        count_parts(Parts(replace(source, is_searched=True), None), CROP)


def test_mirrored_boxes_keep_their_shape():
    boxes = np.array([[150.0, 110, 40, 10, 0.4]])
    samples = samples_of(source_of(boxes), augmentation=replace(PLAIN, symmetries=True))
    found = [used(samples[index])[0] for index in range(8)]
    assert sum(map(len, found)) > 4
    again = boxes_of_corners(corners_of(np.concatenate(found)))
    np.testing.assert_allclose(again[:, 2:4], np.tile([40, 10], (len(again), 1)), atol=1e-3)


def test_crowds_that_a_window_does_not_take_are_counted():
    boxes = boxes_apart(step=22, size=(8, 4))
    source = source_of(boxes)
    dx, dy = np.abs(boxes[:, None, :2] - boxes[None, :, :2]).transpose(2, 0, 1)
    around = ((dx <= 45) & (dy <= 45)).sum(axis=1)
    assert around.min() < 20 < around.max()
    (note,) = note_crowds([source, source], 90, 20)
    crowded = 2 * int((around > 20).sum())
    assert note.startswith(f"around {crowded} of the objects a window of 90 pixels shows more")
    assert f"more than 20, up to {around.max()}: " in note
    assert note_crowds([source], 90, int(around.max())) == note_crowds([], 90, 1) == []
