import pytest
import torch

from lemevit_cli.training.augmentation import (
    NUM_SYMMETRIES,
    draw_symmetry,
    draw_zoom,
    resize_pair,
    symmetry,
    vary_pixels,
)
from lemevit_cli.training.options import AugmentationOptions


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_eight_symmetries_differ_and_the_first_changes_nothing():
    square = torch.arange(9.0).view(3, 3)
    found = {tuple(symmetry(square, i).flatten().tolist()) for i in range(NUM_SYMMETRIES)}
    assert len(found) == 8
    assert torch.equal(symmetry(square, 0), square)


def test_every_symmetry_is_drawn():
    drawn = {draw_symmetry(AugmentationOptions(), seeded(seed)) for seed in range(40)}
    assert drawn == set(range(NUM_SYMMETRIES))


@pytest.mark.parametrize("side", [8, 48])
def test_resized_ids_stay_class_ids_over_their_pixels(side):
    ids = torch.zeros(side, side, dtype=torch.uint8)
    ids[: side // 2] = 3
    pixels, resized = resize_pair(ids.float()[None], ids, 24)
    assert set(resized.unique().tolist()) == {0, 3}
    assert resized.dtype == torch.uint8
    assert torch.equal(resized[:12], torch.full((12, 24), 3, dtype=torch.uint8))
    assert (pixels[0, :10] > 2.9).all() and (pixels[0, 14:] < 0.1).all()


def test_zoom_covers_its_range_evenly_around_one():
    options = AugmentationOptions(zoom=(0.5, 2.0))
    generator = seeded(1)
    zooms = [draw_zoom(options, generator) for _ in range(400)]
    assert 0.5 <= min(zooms) < 0.53 and 1.9 < max(zooms) <= 2.0
    assert 160 < sum(zoom < 1 for zoom in zooms) < 240


def test_changed_pixels_stay_in_their_range_and_follow_the_generator():
    pixels = torch.rand(3, 32, 32, generator=seeded(2)) * 255
    options = AugmentationOptions(haze=1.0, blur=1.0, noise=1.0)
    first = vary_pixels(pixels, options, seeded(5), value_range=(0.0, 255.0))
    again = vary_pixels(pixels, options, seeded(5), value_range=(0.0, 255.0))
    other = vary_pixels(pixels, options, seeded(6), value_range=(0.0, 255.0))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 255


def test_any_number_of_bands_is_varied():
    pixels = torch.rand(5, 16, 16, generator=seeded(3)) * 1000 + 100
    changed = vary_pixels(pixels, AugmentationOptions(), seeded(1), value_range=(100.0, 1100.0))
    assert changed.shape == pixels.shape
    assert changed.min() >= 100 - 1e-3 and changed.max() <= 1100 + 1e-3


def test_no_augmentation_changes_nothing():
    none = AugmentationOptions.none()
    pixels = torch.rand(3, 8, 8, generator=seeded(0)) * 255
    assert draw_symmetry(none, seeded(0)) == 0
    varied = vary_pixels(pixels, none, seeded(0), value_range=(0.0, 255.0))
    torch.testing.assert_close(varied, pixels)
    assert draw_zoom(none, seeded(0)) == 1.0
