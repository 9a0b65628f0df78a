"""For few labels: what pixels say by themselves beside the network, and smooth borders.

Twenty polygons teach much about colours and little about shapes. A forest of decision trees on the
pixels' values knows the first, a network that was trained elsewhere brings the second. So a small
network for single pixels answers beside the large one; it is fitted once, in seconds, to the
labelled pixels alone, before the large one is trained. The scores of both are averaged, then
smoothed between neighbours of like colour. It sees colours, their mean and deviation around the
pixel, and the backbone's finest features; not the coarse ones, by whose surroundings it would know
each polygon and need nothing else. benchmarks/few_polygons.py measures the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDES = (3, 5, 9)  # of the squares of local statistics, pixels
_HIDDEN = 128
_DROPOUT = 0.2
_STEPS, _BATCH, _RATE, _WEIGHT_DECAY = 300, 512, 3e-3, 0.05  # of the fit
_SMALLEST_DEVIATION = 1e-2  # of normalised bands: below, a square is flat
_LIKE = 0.25  # standard deviation of the colour differences that smoothing bridges, normalised
_DILATIONS = (1, 2, 3, 1, 2)  # of the steps of smoothing, each over 5 x 5 neighbours
_REACH = 2


class PixelView(nn.Module):
    """Logits of every pixel by itself: three layers over colours and fine features.

    Args:
        bands: of the picture.
        detail: channels of the fine features.
    """

    def __init__(self, *, bands: int, detail: int, num_classes: int) -> None:
        super().__init__()
        colours = 2 * bands * (1 + len(_SIDES))
        # Without learned scales: the layers behind them have their own.
        self.norm_colours = nn.BatchNorm2d(colours, affine=False)
        self.norm_detail = nn.BatchNorm2d(detail, affine=False)
        self.of_colours = nn.Conv2d(colours, _HIDDEN, kernel_size=1)
        self.of_detail = nn.Conv2d(detail, _HIDDEN, kernel_size=1, bias=False)
        self.mix = nn.Conv2d(_HIDDEN, _HIDDEN, kernel_size=1)
        self.classify = nn.Conv2d(_HIDDEN, num_classes, kernel_size=1)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, pixels: Tensor, picture: Tensor, detail: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)``.

        Args:
            pixels, picture: ``(B, bands, H, W)``, as they are and normalised.
            detail: ``(B, C, h, w)``.
        """
        return self.answer(colours_around(pixels, picture), detail)

    def answer(self, colours: Tensor, detail: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)`` of ``(B, C, H, W)`` and detail of any size."""
        colours = self.dropout(self.norm_colours(colours))
        fine = self.dropout(self.norm_detail(detail))
        # The linear layer before the resizing: they commute, and the fine map is smaller still.
        fine = F.interpolate(self.of_detail(fine), size=colours.shape[-2:], mode="bilinear")
        hidden = self.dropout(F.gelu(self.of_colours(colours) + fine))
        logits: Tensor = self.classify(hidden + F.gelu(self.mix(hidden)))
        return logits


def colours_around(pixels: Tensor, picture: Tensor) -> Tensor:
    """Return what a pixel view knows of colours: ``(B, 2 * bands * (1 + squares), H, W)``."""
    squares = local_statistics(picture, _SIDES)
    return torch.cat([picture, shares_of_bands(pixels), *squares], dim=1)


def fit_pixel_view(view: PixelView, colours: Tensor, detail: Tensor, ids: Tensor) -> None:
    """Fit a view to single pixels, by AdamW on small batches; classes weigh alike.

    Draws from torch's global generator.

    Args:
        colours: ``(N, C)``, as :func:`colours_around` gives them.
        detail: ``(N, D)``, the fine features there.
        ids: ``(N,)`` classes.
    """
    inputs = [values.float()[:, :, None, None] for values in (colours, detail)]
    for norm, values in zip((view.norm_colours, view.norm_detail), inputs, strict=True):
        norm.running_mean = values.mean(dim=(0, 2, 3))
        norm.running_var = values.var(dim=(0, 2, 3), unbiased=False)
    view.requires_grad_(True).eval().dropout.train()  # the norms stay as they were just measured
    counts = torch.bincount(ids, minlength=view.classify.out_channels)
    weights = counts.sum() / counts.clamp(min=1) / (counts > 0).sum()
    optimizer = torch.optim.AdamW(view.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        chosen = torch.randint(len(ids), (_BATCH,))
        logits = view.answer(*(values[chosen] for values in inputs))[:, :, 0, 0]
        F.cross_entropy(logits, ids[chosen], weight=weights).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    view.requires_grad_(False).eval()


def shares_of_bands(pixels: Tensor) -> Tensor:
    """Return each band's share of the sum of all bands, which light and shade leave as it is.

    Values below zero count as zero; where all bands are zero, so are the shares.
    """
    values = pixels.float().clamp(min=0.0)
    total = values.sum(dim=1, keepdim=True)
    return values / total.clamp(min=torch.finfo(torch.float32).tiny)


def local_statistics(picture: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Return mean and standard deviation of the bands in squares around each pixel, by turns.

    At the picture's edge what lies inside counts.

    Args:
        picture: ``(B, bands, H, W)``, normalised.
        sides: odd, in pixels.
    """
    statistics = []
    for side in sides:
        mean, of_squares = (
            F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False)
            for x in (picture, picture**2)
        )
        statistics += [mean, (of_squares - mean**2).clamp(min=_SMALLEST_DEVIATION**2).sqrt()]
    return statistics


def smooth_along_edges(scores: Tensor, picture: Tensor) -> Tensor:
    """Average the scores of neighbours by how alike their colours are.

    In several steps over 5 x 5 neighbours, ``dilation`` pixels apart, at half the resolution::

        score(p) <- sum_n w(p, n) score(n) / sum_n w(p, n)
        w(p, n) = exp(-|colour(p) - colour(n)| ** 2 / (2 * 0.25 ** 2))

    A field of one colour becomes of one mind; across an edge nothing passes. The scores of a pixel
    go on to sum to one.

    Args:
        scores: ``(B, classes, H, W)``; H and W are even.
        picture: ``(B, bands, H, W)``, normalised.
    """
    colours = F.avg_pool2d(picture, 2)
    smoothed = F.avg_pool2d(scores, 2)
    for dilation in _DILATIONS:
        smoothed = _mean_of_alike(smoothed, colours, dilation)
    return F.interpolate(smoothed, size=scores.shape[-2:], mode="bilinear")


def _mean_of_alike(scores: Tensor, colours: Tensor, dilation: int) -> Tensor:
    height, width = scores.shape[-2:]
    reach = _REACH * dilation
    all_scores, all_colours = (F.pad(x, (reach,) * 4, mode="replicate") for x in (scores, colours))
    total, weights = torch.zeros_like(scores), torch.zeros_like(scores[:, :1])
    for row in range(0, 2 * reach + 1, dilation):
        for col in range(0, 2 * reach + 1, dilation):
            there = (..., slice(row, row + height), slice(col, col + width))
            distance = (all_colours[there] - colours).square().sum(dim=1, keepdim=True)
            weight = torch.exp(distance * (-0.5 / _LIKE**2))
            total += weight * all_scores[there]
            weights += weight
    return total / weights
