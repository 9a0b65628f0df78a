"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS, classes_from_names
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.segmenter import DEFAULT_DECODER, Segmenter, decoder_defaults
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.task import TaskData
from lemevit_cli.tiling.window_grid import WindowGrid
from lemevit_cli.training.class_groups import BACKGROUND, NO_GROUP, groups_of, union_of_classes
from lemevit_cli.training.crops import TrainingCrops, source_of_crops
from lemevit_cli.training.datasets.folders import (
    FolderSource,
    Picture,
    PictureReader,
    count_classes,
    open_folder,
)
from lemevit_cli.training.loop import TrainingData, Validation
from lemevit_cli.training.options import TrainingOptions

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_WINDOW, _OVERLAP = 512, 64
_MEASURED_PICTURES = 64  # at most, for the statistics of bands that are not 8-bit RGB


class Segmentation:
    """The task ``seg``."""

    name = "seg"

    def open_data(self, paths: Sequence[str], options: TrainingOptions) -> TaskData:
        """Open folders with ``{train,val}/{images,masks}``; see ``datasets/folders.py``."""
        training = [open_folder(path, "train") for path in paths]
        held_back = [open_folder(path, "val") for path in paths]
        _check_alike([*training, *held_back])
        reader = PictureReader()
        cells = [count_classes(source, reader) for source in training]
        for source in held_back:
            count_classes(source, reader)  # for its checks: before any step, not after the first
        classes = union_of_classes([source.classes for source in training])
        card = _card(training, classes, options, reader)
        weights = options.source_weights or [float(np.sqrt(c.counts.sum())) for c in cells]
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

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return grouped_cross_entropy(logits, batch["ids"], batch["groups"])

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax over the classes: ``(B, classes, H, W)``, sums to one in every pixel."""
        return torch.softmax(logits, dim=1)


SEGMENTATION = Segmentation()


def grouped_cross_entropy(logits: Tensor, ids: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy where a target may mean several classes that its source cannot tell apart.

    With the logits ``z`` of a pixel and the set ``G`` of the model's classes that its target
    stands for::

        loss = -log sum_{c in G} softmax(z)_c = logsumexp_c(z_c) - logsumexp_{c in G}(z_c)

    which is plain cross-entropy where ``G`` has one class, and zero where it has all: an ignored
    pixel is one that tells nothing apart.

    Args:
        logits: ``(B, C, H, W)``.
        ids: ``(B, H, W)``, class ids of the source, ``NODATA_CLASS`` where ignored.
        groups: ``(B, C)``, for every class of the model the source's class that it belongs to.

    Returns:
        Sum over the pixels that are not ignored, and their number.
    """
    log_scores = torch.log_softmax(logits.float(), dim=1)
    ignored = ids == NODATA_CLASS
    belongs = (groups[:, :, None, None] == ids[:, None]) | ignored[:, None]  # (B, C, H, W)
    in_group = log_scores.masked_fill(~belongs, float("-inf")).logsumexp(dim=1)  # (B, H, W)
    # A class of the source that no class of the model stands for teaches nothing either.
    counted = ~ignored & belongs.any(dim=1)
    return -in_group[counted].sum(), counted.sum()


@dataclass
class Confusion:
    """Pixels by true and predicted class, pooled over all that was added.

    Args:
        classes: names; ids follow their order.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64] = field(init=False)  # (true, predicted); the last column: none

    def __post_init__(self) -> None:
        n = len(self.classes)
        self.counts = np.zeros((n, n + 1), dtype=np.int64)

    def add(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Count pixels: ids of equal shape; truth ``NODATA_CLASS`` is left out.

        A prediction outside the classes is wrong whatever the truth is.
        """
        n = len(self.classes)
        known = truth != NODATA_CLASS
        answers = predicted[known].astype(np.int64)
        answers = np.where((answers >= 0) & (answers < n), answers, n)
        pairs = truth[known].astype(np.int64) * (n + 1) + answers
        self.counts += np.bincount(pairs, minlength=n * (n + 1)).reshape(n, n + 1)

    def figures(self) -> dict[str, Any]:
        """``miou``, ``accuracy`` and ``classes.<name>.{iou,f1,precision,recall}`` in [0, 1].

        None where neither truth nor prediction has a pixel of the class; such a class does not
        count in the mean.
        """
        hits = np.diagonal(self.counts).astype(float)
        true, found = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        classes = {
            name: {
                "iou": _ratio(hits[i], true[i] + found[i] - hits[i]),
                "f1": _ratio(2 * hits[i], true[i] + found[i]),
                "precision": _ratio(hits[i], found[i]),
                "recall": _ratio(hits[i], true[i]),
            }
            for i, name in enumerate(self.classes)
        }
        ious = [c["iou"] for c in classes.values() if c["iou"] is not None]
        return {
            "miou": float(np.mean(ious)) if ious else None,
            "accuracy": _ratio(hits.sum(), true.sum()),
            "classes": classes,
        }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


@dataclass(frozen=True)
class ClassMatch:
    """Truth and prediction brought to the classes that both can be judged by.

    Args:
        classes: names.
        of_truth, of_prediction: id among ``classes`` of each id of the data and of the model.
    """

    classes: tuple[str, ...]
    of_truth: tuple[int, ...]
    of_prediction: tuple[int, ...]

    def truth(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids of the data, ``NODATA_CLASS`` kept, as ids among ``classes``."""
        return _table(self.of_truth)[ids]

    def prediction(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids of the model as ids among ``classes``; ``NODATA_CLASS`` where none fits."""
        return _table(self.of_prediction)[ids]


def match_classes(model_classes: Sequence[str], data_classes: Sequence[str]) -> ClassMatch:
    """Match classes by name; what one side does not name is background where the other has one.

    On data of ``background, building`` every other class of the model counts as background, and
    data of five classes judge a model of ``background, building`` by these two.

    Raises:
        DataError: if no class but the background is shared.
    """
    of_prediction = groups_of(model_classes, data_classes)
    if BACKGROUND not in model_classes or BACKGROUND in data_classes:
        return ClassMatch(tuple(data_classes), tuple(range(len(data_classes))), of_prediction)
    names = tuple(name for name in model_classes if name in (BACKGROUND, *data_classes))
    ids = {name: i for i, name in enumerate(names)}
    return ClassMatch(
        names,
        tuple(ids.get(name, ids[BACKGROUND]) for name in data_classes),
        tuple(ids.get(name, NO_GROUP) for name in model_classes),
    )


def _table(ids: Sequence[int]) -> NDArray[np.uint8]:
    table = np.full(256, NODATA_CLASS, dtype=np.uint8)
    table[: len(ids)] = [NODATA_CLASS if i == NO_GROUP else i for i in ids]
    return table


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
