from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lemevit_cli.errors import DataError
from lemevit_cli.training.crops import (
    StepBatches,
    TrainingCrops,
    draw_window,
    source_of_crops,
)
from lemevit_cli.training.datasets.folders import Cells, PictureReader, count_classes, open_folder
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

CLASSES = ("land", "building")


@pytest.fixture
def source(make_folder):
    found = open_folder(make_folder(), "train")
    return source_of_crops(found, count_classes(found, PictureReader()), CLASSES, balance=0.5)


def crops_of(source, **changes):
    options = TrainingOptions(crop=32, seed=3, **changes)
    return TrainingCrops([source], [1.0], options, value_range=(0.0, 255.0))


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
    whole, ids = zip(
        *(_read_whole(source, picture) for picture in source.source.pictures), strict=True
    )
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


def _read_whole(source, picture):
    from lemevit_cli.geometry.window import Window

    window = Window(col_off=0, row_off=0, width=picture.width, height=picture.height)
    return PictureReader().read(source.source, picture, window)


def test_balance_draws_rare_classes_more_often(source):
    cells = Cells(
        places=np.array([[0, 0, 0, 24, 48], [1, 40, 0, 24, 48]]),
        counts=np.array([[990, 0], [0, 10]]),
    )
    share = {}
    for balance in (0.0, 1.0):
        drawn = source_of_crops(source.source, cells, CLASSES, balance=balance)
        generator = torch.Generator().manual_seed(0)
        pictures = [draw_window(drawn, 16, 16, generator)[0] for _ in range(500)]
        share[balance] = sum(pictures) / 500
    assert share[0.0] < 0.04
    assert 0.4 < share[1.0] < 0.6


def test_windows_lie_inside_the_picture_and_small_pictures_are_padded(source):
    generator = torch.Generator().manual_seed(0)
    for side in (20, 48, 64, 100):
        _, window = draw_window(source, side, 32, generator)
        assert window.col_off >= 0 and window.right <= 64
        assert window.row_off >= 0 and window.bottom <= 48
        assert window.width <= max(48, 32)
    padded = TrainingCrops(
        [source],
        [1.0],
        TrainingOptions(crop=96, augmentation=AugmentationOptions.none()),
        value_range=(0.0, 255.0),
    )[0]
    assert padded["pixels"].shape == (3, 96, 96)
    assert (padded["ids"] == 255).float().mean() > 0.2


def test_masks_without_a_class_are_refused(source):
    cells = Cells(places=np.array([[0, 0, 0, 8, 8]]), counts=np.array([[0, 0]]))
    with pytest.raises(DataError, match="data/train: no pixel of its masks has a class"):
        source_of_crops(source.source, cells, CLASSES, balance=0.5)
