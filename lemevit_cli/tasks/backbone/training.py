"""Distillation: a backbone learns from a teacher's dense features, without labels.

Sources: see ``models/distiller.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from lemevit_cli.errors import LemevitError
from lemevit_cli.models.backbone import STRIDE, check_backbone, check_reduction
from lemevit_cli.models.dense_features import DenseFeatures, FeatureSource, open_features
from lemevit_cli.models.device import choose_device, choose_dtype
from lemevit_cli.models.distiller import TARGET_STRIDE, build_distiller, tokens_of
from lemevit_cli.models.weights import Card
from lemevit_cli.pictures.training_picture import write_feature_report
from lemevit_cli.tasks.backbone.losses import known_tokens, token_loss, token_weights
from lemevit_cli.tasks.backbone.pictures import open_pictures
from lemevit_cli.tasks.backbone.teacher import (
    AnswerCache,
    Teacher,
    find_basis,
    load_basis,
    save_basis,
    tokens_of_views,
)
from lemevit_cli.tasks.backbone.validation import FeatureValidation
from lemevit_cli.tasks.backbone.views import ViewDraw, Views
from lemevit_cli.tasks.training import is_first_process
from lemevit_cli.training.augmentation import symmetry
from lemevit_cli.training.datasets.source import Site, Source, Sources
from lemevit_cli.training.gather import make_card
from lemevit_cli.training.loop import Loss, TrainingData
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.task import TaskData

_BASIS_VIEWS = 192  # that the components are found from
_BATCH = 4  # views that a teacher sees at once


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """Teacher, and what it teaches.

    Args:
        teacher: a network with its weights.
        licence: of the teacher's weights; None takes what timm says.
        zoom: how much larger the teacher sees a view; None doubles pixels of half a metre and more.
        width: of the teacher's features after their reduction.
        levels: weight of the loss of each taught stride.
        cache_gb: disk for the teacher's answers, which decides how many views there are; 0 draws
            new views without an end and asks the teacher each time; None takes 4, on a GPU 0.
        cache: folder for the answers, kept for other runs; None puts them beside the checkpoint
            and removes them at the end.
    """

    teacher: FeatureSource
    licence: str | None = None
    zoom: float | None = None
    width: int = 192
    levels: Mapping[int, float] = field(default_factory=lambda: {4: 0.25, 8: 1.0, 16: 1.0, 32: 0.5})
    cache_gb: float | None = None
    cache: str | None = None


class Distillation:
    """The task ``backbone``: no classes, no head; the result begins other trainings.

    Args:
        folder: of the training, for answers that are not kept elsewhere.
    """

    headline = ()

    def __init__(self, options: DistillationOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder / "teacher"
        self._basis_file = folder / "teacher_basis.npz"
        self._teacher: Teacher | None = None

    @property
    def network(self) -> Distillation:
        """Return itself: it builds what it trains."""
        return self

    def check(self, options: TrainingOptions) -> None:
        """Refuse what can be told to be wrong before any picture is opened."""
        check_backbone(options.backbone, pretrained=options.pretrained)
        check_reduction(options.backbone, options.backbone_args)
        if options.crop % STRIDE:
            raise LemevitError(f"--crop {options.crop} is no multiple of {STRIDE}")
        # The student, for its strides: a teacher may look for minutes before it is built.
        card = Card(
            task="backbone",
            backbone=options.backbone,
            backbone_args=options.backbone_args,
            classes=(),
        )
        build_distiller(card, strides=list(self._options.levels), width=1)

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Find pictures, open the teacher, and learn from some views how to reduce what it says."""
        features = open_features(self._options.teacher, option="--teacher-model")
        if features.bands != 3 or features.value_range != (0.0, 255.0):
            raise LemevitError(
                f"{features.label} wants {features.bands} bands of {features.dtype}; a teacher "
                "sees red, green and blue of 8 bits"
            )
        zoom = self._options.zoom
        features.try_out(options.crop, (1.0, 2.0) if zoom is None else (zoom,))
        sources = open_pictures(data)
        draw = ViewDraw(sources.training, sources.weights, options)
        card = make_card("backbone", sources, draw, options)
        count = self._number_of_views(options)
        views = self._views(draw, card, options, count=count)
        identity = self._identity(features, sources, card, options) | {"views": count}
        self._teacher = self._open_teacher(features, views, options, identity)
        validate = self._validation(sources, card, options)
        training = TrainingData(
            views,
            validate,
            origin=views.origin,
            labelled_pixels=sum(source.num_pixels for source in sources.training),
            validation_pixels=validate.num_views * options.crop**2 if validate else 0,
            final_cost=0.0,
            identity=identity | {"levels": [[s, w] for s, w in self._options.levels.items()]},
        )

        def report(path: str | Path, metrics: Sequence[Mapping[str, Any]]) -> None:
            titles = ["view", "teacher", *(f"stride {s}" for s in self._options.levels)]
            examples = () if validate is None else validate.examples
            write_feature_report(path, metrics, examples, titles)

        def prepare(model: nn.Module) -> None:
            if validate is not None and is_first_process():
                validate.ask_teacher()

        return TaskData(
            card,
            training,
            self._record(features, sources, count),
            options,
            report,
            prepare=prepare,
            notes=self._notes(sources, count),
            saved=backbone_alone,
        )

    def _views(
        self, draw: ViewDraw, card: Card, options: TrainingOptions, *, count: int | None
    ) -> Views:
        return Views(
            draw,
            options,
            count=count,
            zoom=self._options.zoom,
            value_range=card.value_range,
            fill=card.mean,
        )

    def _validation(
        self, sources: Sources, card: Card, options: TrainingOptions
    ) -> FeatureValidation | None:
        if not sources.validation:
            return None
        draw = ViewDraw(sources.validation, (1.0,), options)
        return FeatureValidation(
            self._require_teacher(),
            self._views(draw, card, options, count=None),
            count=options.validation_windows or _count_sites(sources.validation),
            levels=self._options.levels,
            value_range=card.value_range,
        )

    def _record(
        self, features: DenseFeatures, sources: Sources, count: int | None
    ) -> dict[str, Any]:
        """Record what the card says of teacher and data."""
        basis = self._require_teacher().basis
        return {
            "teacher": {
                "name": features.label,
                "licence": self._options.licence or features.licence or "not stated",
                "digest": features.digest,
                "width": len(basis.scale),
                "explained": round(basis.explained, 3),
            },
            "views": count,
            "data": _record_of(sources),
        }

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the student with its projections."""
        width = len(self._require_teacher().basis.scale)
        return build_distiller(
            card, strides=list(self._options.levels), width=width, pretrained=pretrained
        )

    def make_loss(self, data: TaskData, options: TrainingOptions) -> Loss:
        teacher, levels = self._require_teacher(), self._options.levels
        weights = token_weights(options.crop, levels)

        def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            answers = _turn_each(teacher(batch), batch["symmetry"])
            known = known_tokens(_turn_each(batch["valid"][:, None], batch["symmetry"]), levels)
            weight = known * weights.to(known.device)
            wanted = tokens_of(answers, list(levels))
            said = model(batch["pixels"])
            each = token_loss(said, wanted, teacher.scale)
            return (each * weight).sum(), weight.sum()

        return loss

    def finish(self) -> None:
        """Remove the teacher's answers, unless the user named a place to keep them."""
        if self._options.cache is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _require_teacher(self) -> Teacher:
        if self._teacher is None:
            raise ValueError("open the data first: the teacher comes with them")
        return self._teacher

    def _number_of_views(self, options: TrainingOptions) -> int | None:
        gigabytes = self._options.cache_gb
        if gigabytes is None:
            gigabytes = 0.0 if choose_device(options.device).type == "cuda" else 4.0
        if gigabytes == 0:
            return None
        side = options.crop // TARGET_STRIDE
        count = int(gigabytes * 1e9 / (2 * self._options.width * side**2))
        if count < options.batch_size:
            raise LemevitError(
                f"--cache-gb {gigabytes:g} holds {count} views; give room for more, or 0 to ask "
                "the teacher each time"
            )
        return count

    def _identity(
        self, features: DenseFeatures, sources: Sources, card: Card, options: TrainingOptions
    ) -> dict[str, Any]:
        """Return what decides what the teacher says of view number so and so."""
        pictures = [_identity_of(site) for source in sources.training for site in source.sites]
        return {
            "teacher": features.label,
            "teacher_digest": features.digest,
            "layers": list(self._options.teacher.layers or ()),
            "teacher_zoom": self._options.zoom,
            "width": self._options.width,
            "crop": options.crop,
            "zoom": list(options.augmentation.zoom),
            "gsd": list(options.gsd_m or ()),
            "seed": options.seed,
            "values": [list(card.value_range), list(card.mean)],
            "data": [
                [source.name, len(source.sites), round(weight, 3)]
                for source, weight in zip(sources.training, sources.weights, strict=True)
            ],
            "pictures": sha256(repr(pictures).encode()).hexdigest()[:16],
        }

    def _open_teacher(
        self,
        features: DenseFeatures,
        views: Views,
        options: TrainingOptions,
        identity: Mapping[str, Any],
    ) -> Teacher:
        """Find how to reduce what the teacher says, or read it where a run has found it before.

        Directions of components depend on rounding: what was taught once has to stay.
        """
        device = _own_device(options)
        dtype = choose_dtype(options.precision, device)
        if not options.resume and is_first_process():
            self._basis_file.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        cache = None
        if views.count is not None:
            folder = self._folder if self._options.cache is None else Path(self._options.cache)
            cache = AnswerCache(folder, made_for=identity, waits=not is_first_process())
        basis = cache.basis() if cache is not None else None
        if basis is None and options.resume and self._basis_file.is_file():
            basis = load_basis(self._basis_file)
        if basis is None:
            tokens = tokens_of_views(features, _first_batches(views), device=device, dtype=dtype)
            basis = find_basis(tokens, width=self._options.width)
        if is_first_process():
            self._basis_file.parent.mkdir(exist_ok=True)
            save_basis(self._basis_file, basis)
        if cache is not None and views.count is not None:
            cache.open(basis, count=views.count, grid=options.crop // TARGET_STRIDE)
        return Teacher(features, basis, device=device, dtype=dtype, cache=cache)

    def _notes(self, sources: Sources, count: int | None) -> tuple[str, ...]:
        sites = [site for source in sources.training for site in source.sites]
        basis = self._require_teacher().basis
        notes = list(sources.notes)
        bands = sources.training[0].bands
        if bands != 3:
            chosen = "the first three" if bands > 3 else "the first one, in grey,"
            notes.append(f"the teacher sees {chosen} of {bands} bands, the student all")
        unknown = sum(site.gsd_m is None for site in sites)
        if self._options.zoom is None and unknown:
            notes.append(
                f"{unknown} pictures do not say how large their pixels are, and are not doubled "
                "for the teacher; --gsd, or gsd = in a list, tells it"
            )
        windows = f"{count} windows, each" if count else "new windows without an end,"
        notes.append(
            f"{len(sites)} pictures to learn from, {_count_sites(sources.validation)} held back; "
            f"{windows} "
            f"taught by {len(basis.scale)} components that hold {basis.explained:.0%} of what the "
            "teacher says"
        )
        return tuple(notes)


def _own_device(options: TrainingOptions) -> torch.device:
    """Return the device of this process: torchrun numbers the GPUs of a machine."""
    device = choose_device(options.device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def _first_batches(views: Views) -> Iterator[Mapping[str, Tensor]]:
    """Read the views that the components are found from."""
    most = _BASIS_VIEWS if views.count is None else min(_BASIS_VIEWS, views.count)
    for first in range(0, most, _BATCH):
        yield default_collate([views.read_view(i) for i in range(first, first + _BATCH)])


def _count_sites(sources: Sequence[Source]) -> int:
    return sum(len(source.sites) for source in sources)


def _identity_of(site: Site) -> dict[str, Any]:
    header = {"path": site.scene, "width": site.core.width, "height": site.core.height}
    return header | {"gsd_m": site.gsd_m} | _state_of(site.scene)


def _state_of(path: str) -> dict[str, Any]:
    """Return what tells a file from another of its name; nothing of an address."""
    if not Path(path).is_file():
        return {}
    state = Path(path).stat()
    return {"path": str(Path(path).resolve()), "bytes": state.st_size, "time": state.st_mtime_ns}


def backbone_alone(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of the backbone, under the names of timm's ``features_only``."""
    prefix = "encoder.model."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _turn_each(maps: Tensor, turns: Tensor) -> Tensor:
    """Turn each of maps ``(B, C, h, w)`` by its symmetry."""
    return torch.stack([symmetry(m, t) for m, t in zip(maps, turns.tolist(), strict=True)])


def _record_of(sources: Sources) -> list[dict[str, object]]:
    total = sum(sources.weights)
    return [
        {
            "name": source.name,
            "pictures": len(source.sites),
            "weight": round(weight / total, 4),
        }
        for source, weight in zip(sources.training, sources.weights, strict=True)
    ]
