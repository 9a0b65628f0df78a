"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS, classes_from_names
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.segmenter import DEFAULT_DECODER, Segmenter, decoder_defaults
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.confusion import Confusion, match_classes
from lemevit_cli.tasks.task import TaskData
from lemevit_cli.tiling.window_grid import WindowGrid
from lemevit_cli.training.class_groups import union_of_classes
from lemevit_cli.training.crops import TrainingCrops, source_of_crops
from lemevit_cli.training.datasets.folders import (
    FolderSource,
    Picture,
    PictureReader,
    count_classes,
    open_folder,
)
from lemevit_cli.training.loop import TrainingData, Validation
from lemevit_cli.training.losses import grouped_cross_entropy
from lemevit_cli.training.options import DataOptions, TrainingOptions

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_WINDOW, _OVERLAP = 512, 64
_MEASURED_PICTURES = 64  # at most, for the statistics of bands that are not 8-bit RGB


class Segmentation:
    """The task ``seg``."""

    name = "seg"

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders with ``{train,val}/{images,masks}``; see ``datasets/folders.py``."""
        training = [open_folder(path, "train") for path in data.paths]
        held_back = [open_folder(path, "val") for path in data.paths]
        _check_alike([*training, *held_back])
        reader = PictureReader()
        cells = [count_classes(source, reader) for source in training]
        for source in held_back:
            count_classes(source, reader)  # for its checks: before any step, not after the first
        classes = union_of_classes([source.classes for source in training])
        card = _card(training, classes, options, reader)
        weights = data.source_weights or [float(np.sqrt(c.counts.sum())) for c in cells]
        if len(weights) != len(training) or min(weights) <= 0:
            raise DataError(
                f"{len(weights)} weights for {len(training)} data sets; each needs one above zero"
            )
        crops = TrainingCrops(
            [
                source_of_crops(source, counted, classes, balance=options.balance)
                for source, counted in zip(training, cells, strict=True)
            ],
            weights,
            options,
            value_range=card.value_range,
        )
        validation = WindowValidation(held_back, card, limit=options.validation_windows)
        record = {
            "data": [
                {"name": s.name, "pictures": len(s.pictures), "classes": list(s.classes)}
                for s in training
            ]
        }
        return TaskData(card, TrainingData(crops, validation), record)

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Backbone and decoder of a card, with its normalisation inside."""
        return Segmenter(
            backbone=card.backbone,
            backbone_args=card.backbone_args,
            decoder=card.head,
            decoder_args=card.head_args,
            num_classes=len(card.classes),
            mean=card.mean,
            std=card.std,
            pretrained=pretrained,
        )

    def for_inference(self, model: nn.Module) -> nn.Module:
        return optimise_for_inference(model)

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return grouped_cross_entropy(model(batch["pixels"]), batch["ids"], batch["groups"])

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax over the classes: ``(B, classes, H, W)``, sums to one in every pixel."""
        return torch.softmax(logits, dim=1)


SEGMENTATION = Segmentation()


class WindowValidation:
    """Judges a model on windows of the validation pictures, side by side, unblended.

    The score is the mean over the data sets of their mean IoU: a large set must not drown a
    small one from another place.
    """

    def __init__(
        self, sources: Sequence[FolderSource], card: Card, *, limit: int | None = None
    ) -> None:
        self._sources = sources
        self._matches = [match_classes(card.class_names, s.classes) for s in sources]
        self._windows = [_spread(list(_windows_of(s, card.window)), limit) for s in sources]
        self._reader = PictureReader()

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation:
        figures = {}
        for source, match, windows in zip(self._sources, self._matches, self._windows, strict=True):
            confusion = Confusion(match.classes)
            for picture, window in windows:
                pixels, ids = self._reader.read(source, picture, window)
                batch = torch.from_numpy(pixels[None].astype(np.float32))
                found = answer(batch)[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
                confusion.add(match.truth(ids), match.prediction(found))
            figures[source.name] = confusion.figures()
        scores = [f["miou"] for f in figures.values() if f["miou"] is not None]
        return Validation(float(np.mean(scores)) if scores else 0.0, figures)


def _windows_of(source: FolderSource, size: int) -> list[tuple[Picture, Window]]:
    found: list[tuple[Picture, Window]] = []
    for picture in source.pictures:
        grid = WindowGrid(width=picture.width, height=picture.height, size=size, overlap=0)
        whole = Window(col_off=0, row_off=0, width=picture.width, height=picture.height)
        found.extend((picture, window) for window in grid.windows_over(whole))
    return found


def _spread(
    windows: list[tuple[Picture, Window]], limit: int | None
) -> list[tuple[Picture, Window]]:
    if limit is None or len(windows) <= limit:
        return windows
    return [windows[i * len(windows) // limit] for i in range(limit)]


def _check_alike(sources: Sequence[FolderSource]) -> None:
    first = sources[0]
    for source in sources:
        if (source.bands, source.dtype) != (first.bands, first.dtype):
            raise DataError(
                f"{source.name} has {source.bands} bands of {source.dtype}, {first.name} has "
                f"{first.bands} of {first.dtype}; data trained together need the same"
            )


def _card(
    sources: Sequence[FolderSource],
    classes: tuple[str, ...],
    options: TrainingOptions,
    reader: PictureReader,
) -> Card:
    decoder = options.decoder or DEFAULT_DECODER
    given = options.decoder_args
    sizes = [p.gsd_m for s in sources for p in s.pictures]
    known = [size for size in sizes if size is not None]
    return Card(
        task="seg",
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        head=decoder,
        head_args=decoder_defaults(decoder) if given is None else given,
        classes=classes_from_names(classes),
        bands=sources[0].bands,
        dtype=sources[0].dtype,
        # A range that only some pictures state would shut the others out.
        gsd_m=options.gsd_m or ((min(known), max(known)) if len(known) == len(sizes) else None),
        window=_WINDOW,
        overlap=_OVERLAP,
        **_statistics(sources, reader),
    )


def _statistics(sources: Sequence[FolderSource], reader: PictureReader) -> dict[str, Any]:
    """Value range, mean and deviation of the bands: ImageNet's for 8-bit RGB, else measured."""
    if sources[0].dtype == "uint8" and sources[0].bands == 3:
        return {"value_range": (0.0, 255.0), "mean": _IMAGENET_MEAN, "std": _IMAGENET_STD}
    pairs = [(source, picture) for source in sources for picture in source.pictures]
    values = []
    for source, picture in pairs[:: max(1, len(pairs) // _MEASURED_PICTURES)]:
        side_x, side_y = min(picture.width, _WINDOW), min(picture.height, _WINDOW)
        middle = Window(
            col_off=(picture.width - side_x) // 2,
            row_off=(picture.height - side_y) // 2,
            width=side_x,
            height=side_y,
        )
        pixels, ids = reader.read(source, picture, middle)
        values.append(pixels[:, ids != NODATA_CLASS].astype(np.float64))
    measured = np.concatenate(values, axis=1)
    if measured.shape[1] == 0:
        raise DataError(f"{sources[0].name}: the middles of its pictures have no labelled pixel")
    low, high = np.percentile(measured, (0.1, 99.9))
    return {
        "value_range": (float(low), float(max(high, low + 1e-6))),
        "mean": tuple(float(v) for v in measured.mean(axis=1)),
        "std": tuple(float(max(v, 1e-6)) for v in measured.std(axis=1)),
    }
