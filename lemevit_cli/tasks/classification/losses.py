"""The loss of windows: the cross-entropy, and what a network of fewer tokens learns beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lemevit_cli.models.classifier import fusion_of
from lemevit_cli.models.token_fusion import answer_twice, consistent_loss
from lemevit_cli.models.token_merging import (
    BOUND_FROM,
    Clusters,
    answer_with_features,
    find_clusters,
    merging_loss,
)
from lemevit_cli.models.weights import Card

MOST_REMEMBERED = 4096  # windows

CrossEntropy = Callable[[Tensor, Tensor], Tensor]
# Of model, pixels, labels and the part of the training that is over: the mean over the windows.
WindowLoss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


@dataclass
class FeatureMemory:
    """What the bound of learned merging knows of the training set, for :func:`make_window_loss`.

    Args:
        num_classes: and as many clusters.
        room: windows that are remembered, the last ones: an epoch's, if they are not too many.
        windows: their features before and behind the blocks ``(N, C)``, and their labels.
        age: windows that passed since the clusters were found.
    """

    num_classes: int
    room: int
    windows: tuple[Tensor, ...] = ()
    age: int = 0
    clusters: Clusters | None = None

    def add(self, *windows: Tensor) -> None:
        """Remember windows: features before and behind, and labels."""
        given = [values.detach().cpu() for values in windows]
        before = self.windows or [values[:0] for values in given]
        both = zip(before, given, strict=True)
        self.windows = tuple(torch.cat(values)[-self.room :] for values in both)
        self.age += len(given[0])

    def find_clusters(self) -> Clusters | None:
        """Return clusters, renewed once an epoch; None while windows are fewer than they."""
        is_due = self.clusters is None or self.age >= self.room
        if is_due and self.windows and len(self.windows[0]) >= self.num_classes:
            inputs, merged, labels = self.windows
            self.clusters, self.age = find_clusters(inputs, merged, labels, self.num_classes), 0
        return self.clusters

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        clusters = None if self.clusters is None else vars(self.clusters)
        return {"windows": list(self.windows), "age": self.age, "clusters": clusters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up."""
        self.windows, self.age = tuple(state["windows"]), state["age"]
        clusters = state["clusters"]
        self.clusters = None if clusters is None else Clusters(**clusters)


def make_window_loss(
    card: Card, memory: FeatureMemory | None, cross_entropy: CrossEntropy, smoothing: float
) -> WindowLoss:
    """Make the loss that suits the card's network.

    Args:
        memory: of a network that merges tokens; None for others.
        cross_entropy: of logits and labels, smoothed by ``smoothing``.
    """
    if memory is not None:
        return partial(_merged, memory=memory, smoothing=smoothing)
    if fusion_of(card) is not None:
        return partial(_fused, cross_entropy=cross_entropy)
    return partial(_plain, cross_entropy=cross_entropy)


def _plain(
    model: nn.Module, pixels: Tensor, labels: Tensor, done: float, *, cross_entropy: CrossEntropy
) -> Tensor:
    return cross_entropy(model(pixels), labels)


def _fused(
    model: nn.Module, pixels: Tensor, labels: Tensor, done: float, *, cross_entropy: CrossEntropy
) -> Tensor:
    """Learn to answer as the network does that fuses fewer tokens."""
    student, teacher = model(pixels, answer_twice)
    return consistent_loss(student, teacher, labels, cross_entropy)


def _merged(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    done: float,
    *,
    memory: FeatureMemory,
    smoothing: float,
) -> Tensor:
    """Learn also to forget, when merging, what does not tell the class."""
    (answer,) = model(pixels, lambda encoder, pictures: (answer_with_features(encoder, pictures),))
    answer = answer._replace(inputs=answer.inputs.float(), merged=answer.merged.float())
    memory.add(answer.inputs, answer.merged, labels)
    clusters = memory.find_clusters() if done >= BOUND_FROM else None
    if clusters is not None:
        there = {name: values.to(labels.device) for name, values in vars(clusters).items()}
        clusters = replace(clusters, **there)
    return merging_loss(answer, labels, clusters, done, smoothing)
