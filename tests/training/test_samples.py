from itertools import islice

import numpy as np
import pytest
import torch
from making.sources import sources_of
from torch.utils.data import DataLoader

from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions
from lemevit_cli.training.samples import PixelTargets, StepBatches, TrainingSamples

CLASSES = ("land", "building")


@pytest.fixture
def source(make_folder):
    return open_folder(make_folder(), "train")


def samples_of(source, **changes):
    options = TrainingOptions(**{"crop": 32, "seed": 3, **changes})
    draw = WindowDraw(sources_of(source), options)
    return TrainingSamples(
        draw,
        options,
        value_range=(0.0, 255.0),
        fill=(120.5, 110.0, 100.0),
        targets=PixelTargets(CLASSES),
    )


def test_a_sample_does_not_depend_on_workers_or_on_the_samples_before(source):
    samples = samples_of(source)
    alone = [samples[i] for i in range(8)]
    loaders = [
        DataLoader(samples, batch_sampler=StepBatches(batch_size=4), num_workers=workers)
        for workers in (0, 2)
    ]
    for loader in loaders:
        batches = list(islice(loader, 2))
        pixels = torch.cat([batch["pixels"] for batch in batches])
        assert torch.equal(pixels, torch.stack([sample["pixels"] for sample in alone]))
    assert torch.equal(samples[5]["ids"], alone[5]["ids"])


def test_two_processes_see_in_a_step_what_one_with_twice_the_batch_sees():
    one = list(islice(StepBatches(batch_size=4, first_step=7), 3))
    two = [
        islice(StepBatches(batch_size=2, first_step=7, rank=rank, num_processes=2), 3)
        for rank in (0, 1)
    ]
    assert one == [first + second for first, second in zip(*two, strict=True)]


def test_a_crop_without_augmentation_is_a_window_of_its_picture(source):
    samples = samples_of(source, augmentation=AugmentationOptions.none())
    sample = samples[0]
    assert sample["pixels"].shape == (3, 32, 32)
    read = [source.read(site, site.core) for site in source.sites]
    places = [
        (p, row, col)
        for p in range(2)
        for row in range(48 - 31)
        for col in range(64 - 31)
        if np.array_equal(
            read[p].pixels[:, row : row + 32, col : col + 32], sample["pixels"].round()
        )
    ]
    assert len(places) == 1
    p, row, col = places[0]
    assert np.array_equal(read[p].ids[row : row + 32, col : col + 32], sample["ids"])


def test_small_pictures_are_mirrored_and_ignored_there(source):
    padded = samples_of(source, crop=96, augmentation=AugmentationOptions.none())[0]
    assert padded["pixels"].shape == (3, 96, 96)
    assert (padded["ids"] != 255).sum() <= 64 * 48
    np.testing.assert_array_equal(padded["pixels"][:, 48:], padded["pixels"][:, :48].flip(1))
