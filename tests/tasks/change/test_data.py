"""Training windows of pairs: what is done to both dates, and what to each."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from making.sources import sources_of
from PIL import Image
from torch.utils.data import DataLoader

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.change.classes import change_groups
from lemevit_cli.tasks.change.data import PAIRS, shift_pixels, vary_dates, vary_pair
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions
from lemevit_cli.training.samples import PixelTargets, StepBatches, TrainingSamples

NONE = AugmentationOptions.none()
GEOMETRY = replace(NONE, symmetries=True, zoom=(0.5, 2.0))
FILL = (10.0, 20.0, 30.0) * 2


@pytest.fixture
def pairs(tmp_path):
    """Return two pairs of 72 x 56 pixels; each date's red, divided by 80, is its own mask."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for stem in ("a", "b"):
            roof = np.kron(random.integers(0, 2, (7, 9)), np.ones((8, 8))).astype(np.uint8)
            later = 1 - roof if stem == "a" else roof
            for kind, values in (("A", roof), ("B", later), ("label", roof != later)):
                place = tmp_path / "set" / split / kind
                place.mkdir(parents=True, exist_ok=True)
                picture = values.astype(np.uint8) * (255 if kind == "label" else 80)
                if kind != "label":
                    picture = np.stack([picture, picture // 2, picture // 4], axis=2)
                Image.fromarray(picture).save(place / f"{stem}.png")
    return tmp_path / "set"


def samples_of(folder, augmentation, *, balance=0.5, classes=("unchanged", "changed")):
    source = replace(open_pair_folder(folder, "train"), classes=classes)
    options = TrainingOptions(crop=32, seed=2, augmentation=augmentation, balance=balance)
    return TrainingSamples(
        WindowDraw(sources_of(source), options),
        options,
        value_range=(0.0, 255.0),
        fill=FILL,
        targets=PixelTargets(classes, change_groups),
        vary=vary_pair,
    )


@pytest.mark.parametrize("naming", [Naming(classes=("changed",)), Naming(drop=("unchanged",))])
def test_a_list_that_leaves_no_unchanged_ground_is_refused(pairs, naming):
    entry = LabelledFolder(path=str(pairs), naming=naming)
    with pytest.raises(DataError, match="'changed' would be what stayed as it was"):
        PAIRS.folder(entry, PictureReader(), Division(crop=32))


def test_geometry_is_the_same_for_both_dates_and_the_mask(pairs):
    crops = samples_of(pairs, replace(GEOMETRY, zoom=(1.0, 1.0)))
    kinds = set()
    for index in range(24):
        sample = crops[index]
        before, after = sample["pixels"].chunk(2)
        known = sample["ids"] != 255
        assert torch.equal((before[0] != after[0])[known].long(), sample["ids"][known])
        kinds.add(before[0].numpy().tobytes())
    assert len(kinds) > 12


def test_zoom_keeps_the_dates_on_one_another(pairs):
    crops = samples_of(pairs, GEOMETRY)
    for index in range(8):
        sample = crops[index]
        before, after = sample["pixels"].chunk(2)
        is_changed = (before[0] - after[0]).abs() > 40
        known = sample["ids"] != 255
        assert (is_changed == (sample["ids"] == 1))[known].float().mean() > 0.9


def test_light_and_noise_are_drawn_for_each_date_by_itself():
    options = replace(NONE, brightness=0.3)
    gains = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        varied = vary_dates(
            torch.full((6, 8, 8), 100.0), options, generator, value_range=(0.0, 255.0)
        )
        gains.append((varied[0, 0, 0].item(), varied[3, 0, 0].item()))
        assert varied.view(2, -1).std(dim=1).max() < 1e-4
    before, after = np.array(gains).T
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.5
    assert before.std() > 5 < after.std()


def test_a_shift_moves_a_ramp_by_parts_of_a_pixel():
    rows, cols = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    moved = shift_pixels(torch.stack([cols, rows]), right=1.25, down=-0.5)
    inside = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(moved[0][inside], cols[inside] - 1.25)
    torch.testing.assert_close(moved[1][inside], rows[inside] + 0.5)
    assert moved.min() >= 0 and moved[0].max() <= 23  # the rim is repeated, nothing comes in


def test_of_two_dates_one_at_most_is_shifted_and_not_far():
    rows, cols = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    pixels = torch.stack([cols, rows]).repeat(2, 1, 1)
    still, far = 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        varied = vary_dates(
            pixels, replace(NONE, shift_px=2.0), generator, value_range=(0.0, 255.0)
        )
        moves = (varied - pixels)[:, 8, 8].view(2, 2)
        moved = [bool((move.abs() > 1e-3).any()) for move in moves]
        assert sum(moved) <= 1
        still += sum(moved) == 0
        far.append(moves.abs().max().item())
    assert 8 < still < 32
    assert 1.2 < max(far) <= 2.0


def test_swapped_dates_swap_what_was_built_and_torn_down(pairs):
    kinds = ("unchanged", "torn down", "built")
    plain = samples_of(pairs, NONE, classes=kinds)
    swapping = samples_of(pairs, replace(NONE, swap=True), classes=kinds)
    swapped = 0
    for index in range(40):
        one, other = plain[index], swapping[index]
        if torch.equal(one["pixels"], other["pixels"]):
            assert torch.equal(one["ids"], other["ids"])
            continue
        swapped += 1
        assert torch.equal(one["pixels"], torch.cat(other["pixels"].chunk(2)[::-1]))
        turned = torch.tensor([0, 2, 1, *[255] * 253])[one["ids"]]
        assert torch.equal(turned, other["ids"])
    assert 5 < swapped < 30  # of one pair both dates are the same


def test_kinds_without_an_opposite_keep_the_order_of_dates(pairs):
    kinds = ("unchanged", "flooded", "burnt")
    plain = samples_of(pairs, NONE, classes=kinds)
    swapping = samples_of(pairs, replace(NONE, swap=True), classes=kinds)
    assert all(torch.equal(plain[i]["pixels"], swapping[i]["pixels"]) for i in range(12))


def test_a_sample_does_not_depend_on_workers_or_on_the_samples_before(pairs):
    crops = samples_of(pairs, AugmentationOptions())
    alone = torch.stack([crops[i]["pixels"] for i in range(4)])
    again = samples_of(pairs, AugmentationOptions())
    assert torch.equal(again[3]["pixels"], alone[3])
    loader = DataLoader(again, batch_sampler=StepBatches(batch_size=4), num_workers=1)
    (batch,) = islice(loader, 1)
    assert torch.equal(batch["pixels"], alone)
    assert "/train/A/" in crops.origin(0)


def test_balance_draws_windows_with_change_more_often(pairs):
    # One pixel in the corner of each mask has changed.
    for stem in ("a", "b"):
        path = pairs / "train" / "label" / f"{stem}.png"
        mask = np.zeros((56, 72), np.uint8)
        mask[0, 0] = 255
        Image.fromarray(mask).save(path)
    seen = {}
    for balance in (0.0, 1.0):
        crops = samples_of(pairs, NONE, balance=balance)
        seen[balance] = np.mean([(crops[i]["ids"] == 1).any().item() for i in range(60)])
    assert seen[0.0] < 0.3 and seen[1.0] > 0.45
