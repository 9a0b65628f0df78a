"""How well a student says what its teacher says of pictures that are held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from lemevit_cli.models.distiller import tokens_of, tokens_of_levels
from lemevit_cli.tasks.backbone.losses import known_tokens
from lemevit_cli.tasks.backbone.pictures import HELD_BACK
from lemevit_cli.tasks.backbone.teacher import Teacher
from lemevit_cli.tasks.backbone.views import Views
from lemevit_cli.training.loop import Validation
from lemevit_cli.training.pictures import as_rgb

_EXAMPLES = 4


class FeatureValidation:
    """Judges a student on views of pictures that are held back, by the cosine with the teacher.

    Attributes:
        examples: of the last call, rows of pictures ``(H, W, 3)`` uint8: a view, the teacher's
            first three components as colours, and the student's at every level.
    """

    def __init__(
        self,
        teacher: Teacher,
        views: Views,
        *,
        count: int,
        levels: Mapping[int, float],
        value_range: tuple[float, float],
    ) -> None:
        self._teacher, self._views, self._count = teacher, views, count
        self._levels, self._value_range = dict(levels), value_range
        self._wanted: list[Tensor] = []
        self.examples: tuple[tuple[NDArray[np.uint8], ...], ...] = ()

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation:
        strides = list(self._levels)
        scale = self._teacher.scale.cpu().view(-1, 1)
        sums, tokens = torch.zeros(len(strides)), torch.zeros(len(strides))
        examples = []
        for number in range(self._count):
            sample = self._views.read_view(number)
            wanted = self._ask_teacher(number, sample)
            said = answer(sample["pixels"][None]).cpu() * scale
            cosine = F.cosine_similarity(said, tokens_of(wanted, strides), dim=1)[0]
            counts = tokens_of_levels(sample["pixels"].shape[-1], strides)
            known = known_tokens(sample["valid"][None, None], strides)[0]
            sums += torch.stack([level.sum() for level in (cosine * known).split(counts)])
            tokens += torch.stack([level.sum() for level in known.split(counts)])
            if number < _EXAMPLES:
                examples.append(self._example(sample["pixels"], wanted[0], said[0], counts))
        self.examples = tuple(examples)
        shares = sums / tokens.clamp(min=1.0)
        means = {stride: float(share) for stride, share in zip(strides, shares, strict=True)}
        score = sum(self._levels[s] * means[s] for s in strides) / sum(self._levels.values())
        figures = {f"cosine_{stride}": value for stride, value in means.items()}
        return Validation(score, {HELD_BACK: {"cosine": score, **figures}})

    @property
    def num_views(self) -> int:
        """Return how many views a call looks at."""
        return self._count

    def ask_teacher(self) -> None:
        """Ask the teacher of all views, so that no call has to wait for it."""
        for number in range(len(self._wanted), self._count):
            self._ask_teacher(number, self._views.read_view(number))

    def _ask_teacher(self, number: int, sample: Mapping[str, Tensor]) -> Tensor:
        if number == len(self._wanted):
            # Numbers of these views are not those of the training's: nothing is looked up.
            alone = default_collate([dict(sample)])
            self._wanted.append(self._teacher.ask(alone).cpu())
        return self._wanted[number]

    def _example(
        self, pixels: Tensor, wanted: Tensor, said: Tensor, counts: Sequence[int]
    ) -> tuple[NDArray[np.uint8], ...]:
        low = wanted[:3].flatten(1).quantile(0.02, dim=1).view(-1, 1, 1)
        high = wanted[:3].flatten(1).quantile(0.98, dim=1).view(-1, 1, 1)

        def colours(maps: Tensor) -> NDArray[np.uint8]:
            scaled = ((maps[:3] - low) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)
            padded = F.pad(scaled, (0, 0, 0, 0, 0, 3 - len(scaled)))
            return (padded * 255).round().byte().permute(1, 2, 0).numpy()

        levels = [
            colours(level.reshape(len(said), int(level.shape[-1] ** 0.5), -1))
            for level in said.split(list(counts), dim=1)
        ]
        return (as_rgb(pixels.numpy(), self._value_range), colours(wanted), *levels)
