"""Frames become windows: pixels, class ids and boxes are moved in step."""

import numpy as np
import pytest
import shapely
import torch
from rasterio.features import rasterize

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.augmentation import NUM_SYMMETRIES
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.source import Sample
from lemevit_cli.training.frames import Frame, crop_frame

WIDTH, HEIGHT, SIZE = 120, 90, 48
EXTENT = Window(col_off=0, row_off=0, width=WIDTH, height=HEIGHT)
BOXES = np.array([[40.0, 40, 24, 10, 0.3], [70, 45, 20, 12, -1.0], [58, 66, 16, 8, 1.4]])


def burn(boxes, shape):
    outlines = [(shapely.Polygon(corners), 1) for corners in corners_of(boxes)]
    return rasterize(outlines, out_shape=shape, dtype=np.uint8)


def sample_of(window, *, with_objects):
    """Return bright boxes on dark ground, labelled as ids and, if asked for, as objects."""
    ids = burn(BOXES, (HEIGHT, WIDTH))[window.slices]
    pixels = (40 + 160 * ids)[None].repeat(3, axis=0).astype(np.uint8)
    objects = Objects(BOXES, np.zeros(3, np.int64), np.zeros(3, bool))
    return Sample(pixels, np.ones(ids.shape, bool), ids, objects if with_objects else None)


def crop_of(frame, turn=0, *, with_objects=False):
    seen = frame.window.intersection(EXTENT)
    sample = sample_of(seen, with_objects=with_objects)
    return crop_frame(frame, sample, seen, EXTENT, size=SIZE, fill=(9.0,) * 3, turn=turn)


@pytest.mark.parametrize("turn", range(NUM_SYMMETRIES))
@pytest.mark.parametrize("frame", [Frame(55.0, 45.0, 60), Frame(55.5, 45.2, 50, 0.7)], ids=str)
def test_ids_and_boxes_lie_where_their_pixels_are(frame, turn):
    crop = crop_of(frame, turn, with_objects=True)
    bright = (crop.pixels[0] > 120).numpy()
    boxes = burn(crop.objects.boxes, (SIZE, SIZE)) > 0
    assert crop.valid.all() and bright.sum() > 200
    # Along the edges, interpolation and the centre of a pixel may differ.
    assert (bright ^ (crop.ids == 1).numpy()).sum() <= 0.1 * bright.sum()
    assert (bright ^ boxes).sum() <= 0.12 * bright.sum()


def test_beyond_the_edge_pixels_are_mirrored_and_ignored_around_objects_filled():
    frame = Frame(110.0, 80.0, SIZE)
    mirrored, filled = crop_of(frame), crop_of(frame, with_objects=True)
    cols, rows = 34, 34  # that are seen of the frame, which begins at column 86 and row 56
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[:rows, :cols] = False
    for crop in (mirrored, filled):
        assert (crop.ids == 255)[outside].all() and not (crop.ids == 255)[~outside].any()
    assert mirrored.valid.all() and torch.equal(filled.valid, ~outside)
    assert torch.equal(
        mirrored.pixels[:, rows:], mirrored.pixels[:, :rows].flip(1)[:, : SIZE - rows]
    )
    assert (filled.pixels[:, outside] == 9.0).all()


def test_an_object_is_difficult_with_less_than_seven_tenths_inside():
    whole = crop_of(Frame(55.0, 45.0, 80), with_objects=True).objects
    assert len(whole) == 3 and not whole.difficult.any()
    cut = crop_of(Frame(64.0, 52.0, SIZE), with_objects=True).objects  # begins at column 40
    assert cut.difficult.tolist() == [True, False, False]
