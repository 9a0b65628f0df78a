"""Training windows with one class each: where they are, which class, how timm varies them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, rand_augment_transform, str_to_pil_interp
from torch import Generator, Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.class_groups import BACKGROUND
from lemevit_cli.models.weights import Card
from lemevit_cli.training.augmentation import draw_zoom, uniform
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.draw import Aims, WindowDraw, aim_at_pixels, draw_cell
from lemevit_cli.training.frames import Crop, Frame, model_values
from lemevit_cli.training.options import TimmAugmentation, TrainingOptions
from lemevit_cli.training.window_validation import windows_of

UNKNOWN = -1  # class of a window without a label


def aim_at_windows(
    aims: Aims, options: TrainingOptions, generator: Generator
) -> tuple[Site, Frame]:
    """Draw a part of a picture, or a frame around a labelled pixel of a scene.

    Of a picture the part is a square, at most of its short side, magnified within the range of the
    zoom; timm is given the whole.
    """
    if not aims.source.whole_pictures:
        return aim_at_pixels(aims, options, generator)
    _, site, _ = draw_cell(aims, generator)
    width, height = site.extent.width, site.extent.height
    if options.timm is not None:
        return site, Frame(width / 2, height / 2, max(width, height))
    short = min(width, height)
    side = min(short, max(1, round(short / draw_zoom(options.augmentation, generator))))
    left, top = (int(uniform(generator, 0.0, free + 1 - side)) for free in (width, height))
    return site, Frame(left + side / 2, top + side / 2, side)


def frames_of(source: Source, size: int) -> list[tuple[Site, Frame]]:
    """List the windows that a source is judged by: whole pictures, or side by side in a scene."""
    if source.whole_pictures:
        return [(site, middle_of(site)) for site in source.sites]
    return [
        (site, Frame(w.col_off + w.width / 2, w.row_off + w.height / 2, size))
        for site, w in windows_of(source.sites, size)
    ]


def middle_of(site: Site) -> Frame:
    """Return the middle square of a picture."""
    width, height = site.extent.width, site.extent.height
    return Frame(width / 2, height / 2, min(width, height))


def class_of(ids: NDArray[np.uint8], source: Source) -> int:
    """Return the class of a window by its labels: that of most pixels.

    The background counts where nothing else is labelled, so that a window with a labelled point is
    of the point's class. ``NODATA_CLASS`` without a label.
    """
    counts = np.bincount(ids.ravel(), minlength=NODATA_CLASS + 1)[:NODATA_CLASS]
    others = counts.copy()
    if BACKGROUND in source.classes:
        others[source.classes.index(BACKGROUND)] = 0
    counted = others if others.any() else counts
    return int(counted.argmax()) if counted.any() else NODATA_CLASS


@dataclass(frozen=True)
class ClassTargets:
    """What the loss is given: ``label``, the class of the window among the model's classes."""

    classes: tuple[str, ...]

    def __call__(self, crop: Crop, source: Source) -> dict[str, Tensor]:
        return self.label(crop.ids.numpy(), source)

    def label(self, ids: NDArray[np.uint8], source: Source) -> dict[str, Tensor]:
        """Return the target of a window with these ids of its source."""
        class_id = class_of(ids, source)
        name = None if class_id == NODATA_CLASS else source.classes[class_id]
        found = self.classes.index(name) if name in self.classes else UNKNOWN
        return {"label": torch.tensor(found)}


def timm_transform(size: int, how: TimmAugmentation, card: Card) -> Compose:
    """Put together what timm does to a picture: from PIL's to a normalised square of ``size``."""
    cut, _, normalise = create_transform(
        size,
        is_training=True,
        scale=how.scale,
        ratio=how.ratio,
        interpolation=how.interpolation,
        hflip=how.hflip,
        vflip=how.vflip,
        color_jitter=None,
        re_prob=how.erasing,
        re_mode=how.erasing_mode,
        mean=tuple(value / 255 for value in card.mean),
        std=tuple(value / 255 for value in card.std),
        separate=True,
    )
    if not how.randaugment:
        return Compose([cut, normalise])
    vary = rand_augment_transform(
        how.randaugment,
        {
            "translate_const": int(0.45 * size),
            "img_mean": tuple(round(value) for value in card.mean),
            "interpolation": str_to_pil_interp(how.interpolation),
            # At 10, which timm allows, posterisation leaves no bit of a colour: Pillow refuses.
            "magnitude_max": 9.99,
        },
    )
    return Compose([cut, vary, normalise])


class TimmSamples(Dataset[dict[str, Tensor]]):
    """Sample ``i``: a picture as timm varies it for training, and its class.

    Args:
        draw: gives whole pictures by number.
        card: of three bands of bytes.
    """

    def __init__(
        self, draw: WindowDraw, size: int, how: TimmAugmentation, card: Card, targets: ClassTargets
    ) -> None:
        self._draw, self._card, self._targets = draw, card, targets
        self._mean, self._std = (torch.tensor(v).view(-1, 1, 1) for v in (card.mean, card.std))
        self._transform = timm_transform(size, how, card)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn = self._draw(index)
        values = model_values(drawn.sample.pixels, drawn.sample.valid, self._card.mean)
        picture = Image.fromarray(values.round().astype(np.uint8).transpose(1, 2, 0))
        with seeded(drawn.generator):
            normalised = self._transform(picture)
        # The model normalises by itself.
        pixels = normalised * self._std + self._mean
        return {"pixels": pixels, **self._targets.label(drawn.sample.ids, drawn.source)}


@contextmanager
def seeded(generator: Generator | None) -> Iterator[None]:
    """Let what draws from the generators that all share draw the same; they go on as before.

    Args:
        generator: a seed is drawn of it; None draws it of torch's own, which a resume restores.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
