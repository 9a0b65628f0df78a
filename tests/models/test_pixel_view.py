import numpy as np
import pytest
import torch

from lemevit_cli.models.pixel_view import (
    PixelView,
    fit_pixel_view,
    local_statistics,
    shares_of_bands,
    smooth_along_edges,
)


@pytest.fixture
def picture():
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scores():
    logits = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    return logits.softmax(dim=1)


@pytest.mark.parametrize("side", [3, 5])
def test_local_statistics_are_numpys_over_the_square(picture, side):
    mean, deviation = local_statistics(picture, (side,))
    half = side // 2
    for row, col in ((0, 0), (5, 7), (11, 2)):  # a corner, the middle, the lower edge
        square = picture[1, 2, max(0, row - half) : row + half + 1]
        square = square[:, max(0, col - half) : col + half + 1].numpy()
        assert mean[1, 2, row, col].item() == pytest.approx(square.mean(), abs=1e-5)
        assert deviation[1, 2, row, col].item() == pytest.approx(square.std(), abs=1e-4)


def test_a_flat_square_has_a_gradient():
    flat = torch.full((1, 1, 6, 6), 0.3, requires_grad=True)
    _, deviation = local_statistics(flat, (3,))
    deviation.sum().backward()
    assert torch.isfinite(flat.grad).all()


def test_shares_do_not_depend_on_the_light():
    pixels = torch.tensor([40.0, 60.0, 100.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(shares_of_bands(pixels).flatten(), torch.tensor([0.2, 0.3, 0.5]))
    torch.testing.assert_close(shares_of_bands(pixels / 3), shares_of_bands(pixels))
    assert (shares_of_bands(torch.zeros(1, 3, 2, 2)) == 0).all()


def test_smoothing_keeps_scores_that_sum_to_one(scores, picture):
    smoothed = smooth_along_edges(scores, picture)
    assert smoothed.shape == scores.shape and (smoothed >= 0).all()
    torch.testing.assert_close(smoothed.sum(dim=1), torch.ones(2, 12, 16))


def test_smoothing_over_one_colour_is_a_blur(scores):
    smoothed = smooth_along_edges(scores, torch.zeros(2, 3, 12, 16))
    halves = scores.numpy().reshape(2, 4, 6, 2, 8, 2).mean(axis=(3, 5))
    for dilation in (1, 2, 3, 1, 2):
        reach = 2 * dilation
        edged = np.pad(halves, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
        steps = range(0, 2 * reach + 1, dilation)
        neighbours = [edged[..., row : row + 6, col : col + 8] for row in steps for col in steps]
        halves = np.mean(neighbours, axis=0)
    # Bilinear: an even pixel lies a quarter of a step from the middle of its half.
    weights = np.array([0.25, 0.75])
    expected = weights @ halves[0, 0, 1:3, 3:5] @ weights
    assert smoothed[0, 0, 4, 8].item() == pytest.approx(expected, abs=1e-5)


def test_nothing_passes_an_edge():
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 8:] = 3.0
    scores = torch.zeros(1, 2, 16, 16)
    scores[:, 0, :, :8] = scores[:, 1, :, 8:] = 1.0
    scores[:, :, 4:6, 2:4] = torch.tensor([0.0, 1.0]).view(2, 1, 1)  # a speck on the left
    smoothed = smooth_along_edges(scores, picture)
    assert (smoothed[:, 0, :, :7] > 0.5).all()
    torch.testing.assert_close(smoothed[:, 1, :, 9:], torch.ones(1, 16, 7))


def test_a_far_cut_changes_no_answer(picture):
    view = PixelView(bands=3, detail=2, num_classes=5).eval()
    pixels, detail = picture * 50 + 100, torch.zeros(2, 2, 3, 4)
    with torch.inference_mode():
        whole = view(pixels, picture, detail)
        cut = view(pixels[..., 2:, :], picture[..., 2:, :], detail)
    assert whole.shape == (2, 5, 12, 16)
    # The widest square reaches four pixels: beyond, a cut changes nothing.
    torch.testing.assert_close(cut[..., 4:, :], whole[..., 6:, :])


def test_fine_features_count_at_the_size_of_the_picture(picture):
    view = PixelView(bands=3, detail=2, num_classes=5).eval()
    pixels, detail = picture * 50 + 100, torch.randn(2, 2, 3, 4)
    large = torch.nn.functional.interpolate(detail, size=(12, 16), mode="bilinear")
    with torch.inference_mode():
        found, expected = view(pixels, picture, detail), view(pixels, picture, large)
    torch.testing.assert_close(found, expected)


def test_a_view_learns_what_colours_tell():
    torch.manual_seed(0)
    ids = torch.randint(0, 3, (400,))
    colours = torch.randn(400, 24) + 3 * torch.nn.functional.one_hot(ids, 24)
    detail = torch.randn(400, 8)
    view = PixelView(bands=3, detail=8, num_classes=4)
    fit_pixel_view(view, colours, detail, ids)
    assert not view.training and not any(p.requires_grad for p in view.parameters())
    with torch.inference_mode():
        found = view.answer(colours[:, :, None, None], detail[:, :, None, None]).argmax(dim=1)
    assert (found[:, 0, 0] == ids).float().mean() > 0.95
