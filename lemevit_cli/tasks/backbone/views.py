"""Views: the windows that a teacher and a student look at, without labels.

View ``n`` of a seed is always the same piece of the same picture, so that what a teacher says of it
can be kept. The teacher sees it as it was read, the student turned and in other colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.view import filled
from lemevit_cli.tasks.backbone.pictures import PictureSet, UnlabelledPicture
from lemevit_cli.training.augmentation import (
    NUM_SYMMETRIES,
    resize_pair,
    symmetry,
    uniform,
    vary_pixels,
)
from lemevit_cli.training.crops import generator_of, model_values, pick
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.options import TrainingOptions

_TRIES = 10  # for a window with a valid pixel
_OF_VARIATIONS = 7_919  # away from the seeds that views are drawn with
_COARSE_GSD_M = 0.5  # from here on a teacher sees more in a picture that is doubled first


@dataclass(frozen=True)
class DrawnView:
    """A window as it was read: ``pixels`` ``(bands, H, W)`` and ``valid`` ``(H, W)``.

    Args:
        side: of the square that the window becomes; the window is smaller where its picture is.
        gsd_m: metres a pixel of the view, None if unknown.
    """

    picture: UnlabelledPicture
    window: Window
    side: int
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    gsd_m: float | None

    @property
    def dates(self) -> tuple[str, ...]:
        """Return the path of its picture, the only one."""
        return (str(self.picture.path),)


class ViewDraw:
    """Draws windows evenly over the area of each set; number ``n`` of a seed is always the same."""

    def __init__(self, sets: Sequence[PictureSet], options: TrainingOptions) -> None:
        self._sets = list(sets)
        self._shares = np.cumsum([s.weight for s in sets]) / sum(s.weight for s in sets)
        areas = [np.cumsum([p.width * p.height for p in s.pictures], dtype=float) for s in sets]
        self._areas = [cumulated / cumulated[-1] for cumulated in areas]
        self._options = options
        self._reader = PictureReader()

    def __call__(self, number: int) -> DrawnView:
        """Draw view ``number``; a window without a valid pixel is drawn again."""
        generator = generator_of(self._options.seed, number)
        for _ in range(_TRIES):
            index = pick(self._shares, generator)
            picture = self._sets[index].pictures[pick(self._areas[index], generator)]
            drawn = self._read(picture, generator)
            if drawn.valid.any():
                break
        return drawn

    def _read(self, picture: UnlabelledPicture, generator: Generator) -> DrawnView:
        crop, (low, high) = self._options.crop, self._options.augmentation.zoom
        shorter = min(picture.width, picture.height)
        # A small picture is magnified as far as the zoom allows before it is mirrored to the size.
        most = max(crop / low, 1.0)
        least = max(crop / high, 1.0)
        wanted = np.exp(uniform(generator, log(least), log(min(most, max(shorter, least)))))
        side = max(round(float(wanted)), 1)
        width, height = min(side, picture.width), min(side, picture.height)
        window = Window(
            col_off=int(uniform(generator, 0, picture.width - width + 1)),
            row_off=int(uniform(generator, 0, picture.height - height + 1)),
            width=width,
            height=height,
        )
        pixels, valid = self._reader.read(picture.path, window)
        stated = self._options.gsd_m
        size = picture.gsd_m or (None if stated is None else stated[0])
        gsd = None if size is None else size * side / crop
        return DrawnView(picture, window, side, pixels, valid, gsd)


class Views(Dataset[dict[str, Tensor]]):
    """Sample ``i``: a view for the teacher, and the same one varied for the student.

    A dict of ``view`` (its number), ``symmetry`` (by which the student's is turned), ``zoom`` (of
    the teacher), ``shown`` uint8 ``(3, crop, crop)`` and ``valid`` uint8 ``(crop, crop)`` as read,
    and ``pixels`` float32 ``(bands, crop, crop)`` turned and varied. All views come once in a pass,
    each pass in an order of its own.

    Args:
        count: of views; None draws new ones without an end.
        zoom: of the teacher; None doubles what has pixels of half a metre and more.
        value_range, fill: as of :class:`TrainingCrops`.
    """

    def __init__(
        self,
        draw: ViewDraw,
        options: TrainingOptions,
        *,
        count: int | None,
        zoom: float | None,
        value_range: tuple[float, float],
        fill: Sequence[float],
    ) -> None:
        self._draw, self._options = draw, options
        self.count, self._zoom = count, zoom
        self._value_range, self._fill = value_range, tuple(fill)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = self._number(index)
        generator = generator_of(self._options.seed + _OF_VARIATIONS, index)
        sample = self.as_read(number)
        options, turn = self._options.augmentation, 0
        if options.symmetries:
            turn = int(torch.randint(NUM_SYMMETRIES, (), generator=generator))
        pixels = symmetry(sample["pixels"], turn).contiguous()
        varied = vary_pixels(pixels, options, generator, value_range=self._value_range)
        valid = symmetry(sample["valid"], turn).numpy() > 0
        return sample | {
            "symmetry": torch.tensor(turn),
            "pixels": torch.from_numpy(filled(varied.numpy(), valid, self._fill)),
        }

    def drawn(self, number: int) -> DrawnView:
        """Draw the window that view ``number`` is made of."""
        return self._draw(number)

    def as_read(self, number: int) -> dict[str, Tensor]:
        """Read view ``number`` without any variation."""
        drawn = self.drawn(number)
        values = model_values(drawn.pixels, drawn.valid, self._fill)
        below, right = drawn.side - values.shape[-2], drawn.side - values.shape[-1]
        valid = drawn.valid
        if below or right:
            values = np.pad(values, ((0, 0), (0, below), (0, right)), mode="symmetric")
            valid = np.pad(valid, ((0, below), (0, right)), mode="symmetric")
        pixels, known = resize_pair(
            torch.from_numpy(np.ascontiguousarray(values)),
            torch.from_numpy(np.array(valid, dtype=np.uint8)),
            self._options.crop,
        )
        return {
            "view": torch.tensor(number),
            "symmetry": torch.tensor(0),
            "zoom": torch.tensor(self._zoom_of(drawn)),
            "shown": as_shown(pixels, self._value_range),
            "valid": known,
            "pixels": pixels,
        }

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        drawn = self.drawn(self._number(index))
        window = drawn.window
        return (
            f"{drawn.picture.path}, window {window.col_off},{window.row_off} "
            f"of {window.width} x {window.height}"
        )

    def _zoom_of(self, drawn: DrawnView) -> float:
        if self._zoom is not None:
            return self._zoom
        return 2.0 if drawn.gsd_m is not None and drawn.gsd_m >= _COARSE_GSD_M else 1.0

    def _number(self, index: int) -> int:
        if self.count is None:
            return index
        turn, place = divmod(index, self.count)
        if self._order is None or self._order[0] != turn:
            random = np.random.default_rng((abs(self._options.seed), turn))
            self._order = turn, random.permutation(self.count)
        return int(self._order[1][place])


def as_shown(pixels: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return pixels ``(bands, H, W)`` as a teacher of photographs knows them: uint8 ``(3, H, W)``.

    The first three bands, or one in grey.
    """
    low, high = value_range
    bands = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    scaled = (bands - low) / (high - low)
    return (scaled.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
