from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.crops import (
    StepBatches,
    TrainingCrops,
    WindowDraw,
    draw_window,
    source_of_crops,
)
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Cells
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

CLASSES = ("land", "building")


@pytest.fixture
def source(make_folder):
    found = open_folder(make_folder(), "train")
    return source_of_crops(found, found.count_classes(), CLASSES, balance=0.5)


def crops_of(source, **changes):
    options = TrainingOptions(**{"crop": 32, "seed": 3, **changes})
    draw = WindowDraw([source], [1.0], options)
    return TrainingCrops(draw, options, value_range=(0.0, 255.0), fill=(120.5, 110.0, 100.0))


def test_a_sample_does_not_depend_on_workers_or_on_the_samples_before(source):
    crops = crops_of(source)
    alone = [crops[i] for i in range(8)]
    loaders = [
        DataLoader(crops, batch_sampler=StepBatches(batch_size=4), num_workers=workers)
        for workers in (0, 2)
    ]
    for loader in loaders:
        batches = list(islice(loader, 2))
        pixels = torch.cat([batch["pixels"] for batch in batches])
        assert torch.equal(pixels, torch.stack([sample["pixels"] for sample in alone]))
    assert torch.equal(crops[5]["ids"], alone[5]["ids"])


def test_two_processes_see_in_a_step_what_one_with_twice_the_batch_sees():
    one = list(islice(StepBatches(batch_size=4, first_step=7), 3))
    two = [
        islice(StepBatches(batch_size=2, first_step=7, rank=rank, num_processes=2), 3)
        for rank in (0, 1)
    ]
    assert one == [first + second for first, second in zip(*two, strict=True)]


def test_a_crop_without_augmentation_is_a_window_of_its_picture(source):
    crops = crops_of(source, augmentation=AugmentationOptions.none())
    sample = crops[0]
    assert sample["pixels"].shape == (3, 32, 32)
    sites = source.source.sites
    whole, _, ids = zip(*(source.source.read(site, site.core) for site in sites), strict=True)
    places = [
        (p, row, col)
        for p in range(2)
        for row in range(48 - 31)
        for col in range(64 - 31)
        if np.array_equal(whole[p][:, row : row + 32, col : col + 32], sample["pixels"].round())
    ]
    assert len(places) == 1
    p, row, col = places[0]
    assert np.array_equal(ids[p][row : row + 32, col : col + 32], sample["ids"])


def test_a_cell_without_the_class_that_it_was_counted_with_is_aimed_at_in_its_middle(source):
    counts = np.array([[0, 1]])
    cells = Cells(places=np.array([[0, 0, 32, 16, 16]]), counts=counts)  # has no building
    crops = source_of_crops(source.source, cells, CLASSES, balance=0.5)
    site = source.source.sites[0]
    cell = Window(col_off=0, row_off=32, width=16, height=16)
    assert not (source.source.read_truth(site, cell) == 1).any()
    found = [draw_window(crops, 1, 1, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert found[0] == found[1]
    _, window, side = found[0]
    assert side == 1 and window == Window(col_off=8, row_off=40, width=1, height=1)


def test_balance_draws_rare_classes_more_often(source):
    cells = Cells(
        places=np.array([[0, 40, 0, 24, 48], [1, 16, 8, 24, 16]]),
        counts=np.array([[990, 0], [0, 10]]),
    )
    share = {}
    for balance in (0.0, 1.0):
        drawn = source_of_crops(source.source, cells, CLASSES, balance=balance)
        generator = torch.Generator().manual_seed(0)
        sites = [draw_window(drawn, 16, 16, generator)[0] for _ in range(500)]
        share[balance] = sites.count(source.source.sites[1]) / 500
    assert share[0.0] < 0.04
    assert 0.4 < share[1.0] < 0.6


def test_windows_lie_inside_the_picture_and_small_pictures_are_padded(source):
    generator = torch.Generator().manual_seed(0)
    for side in (20, 48, 64, 100):
        _, window, square = draw_window(source, side, 32, generator)
        assert max(window.width, window.height) <= square
        assert window.col_off >= 0 and window.right <= 64
        assert window.row_off >= 0 and window.bottom <= 48
        assert window.width <= max(48, 32)
    padded = crops_of(source, crop=96, augmentation=AugmentationOptions.none())[0]
    assert padded["pixels"].shape == (3, 96, 96)
    assert (padded["ids"] != 255).sum() <= 64 * 48
    np.testing.assert_array_equal(padded["pixels"][:, 48:], padded["pixels"][:, :48].flip(1))


def test_masks_without_a_class_are_refused(source):
    cells = Cells(places=np.array([[0, 0, 0, 8, 8]]), counts=np.array([[0, 0]]))
    with pytest.raises(DataError, match="data/train: no pixel of its labels has a class"):
        source_of_crops(source.source, cells, CLASSES, balance=0.5)
