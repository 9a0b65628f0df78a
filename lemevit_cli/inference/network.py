"""What inference asks of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.inference.runtime import Answer, SymmetricRuntime
from lemevit_cli.models.weights import Card
from lemevit_cli.settings import Precision

if TYPE_CHECKING:
    from torch import nn

# Brings what a network gives to scores in [0, 1] that may be blended, or to boxes.
Decode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Answers = Literal["scores", "candidates"]


class Network(Protocol):
    """A task's network: built from a card, made fast, its answers decoded.

    Nothing that computes with it is imported before a model is built.
    """

    @property
    def task(self) -> str:
        """Return the task's key in ``TASKS`` and in the card."""
        ...

    @property
    def dates(self) -> int:
        """Count the pictures of a place that a window holds, one band after the other."""
        ...

    @property
    def answers(self) -> Answers:
        """Name what :meth:`for_inference` gives; of a detector candidates (its module says)."""
        ...

    @property
    def auto_precision(self) -> Precision:
        """Return what ``--precision auto`` stands for; ``auto`` leaves it to device and runtime."""
        ...

    @property
    def kept_in_floats(self) -> tuple[str, ...]:
        """Return regular expressions of what a network of 8-bit integers computes as before.

        Of names in its trace: ``__module.`` and a module, ``aten::`` outside of any.
        """
        ...

    def share_of_equal(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> float:
        """Return the share, in [0, 1], of what two outputs of :meth:`for_inference` agree on."""
        ...

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card: pixels ``(B, bands, H, W)`` to logits, or to candidates."""
        ...

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Give a network that answers sooner, with scores in place of logits.

        The model given may be changed.
        """
        ...

    def decode(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring outputs of :meth:`for_inference` to scores in [0, 1] that may be blended, or boxes.

        Pure: nothing of the model takes part, so that any runtime may have made the outputs.
        """
        ...

    def over_symmetries(self, runtime: Answer) -> Answer:
        """Let a runtime answer with what all symmetries of a window show."""
        ...


def share_of_equal_classes(scores: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the share of places of ``(N, classes, H, W)`` whose best class is the same."""
    return float(np.mean(scores.argmax(1) == others.argmax(1)))


def _as_they_are(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return outputs


@dataclass(frozen=True)
class CardNetwork:
    """A network of ours: its card says how it is built, and its LeMeViT is folded for inference.

    Args:
        build: ``module:function`` that makes the model of a card, with timm's own weights of the
            backbone if asked to.
        scores: ``module:class`` of the module around the model whose logits become scores; None
            of a model that answers candidates.
        decode: as :meth:`Network.decode`.
        over_symmetries: as :meth:`Network.over_symmetries`; the mean of scores.
        share_of_equal: as :meth:`Network.share_of_equal`; classes of pixels.
        dates, auto_precision, kept_in_floats: as of :class:`Network`.
    """

    task: str
    build: str
    scores: str | None = "lemevit_cli.models.scores:PixelScores"
    decode: Decode = _as_they_are
    over_symmetries: Callable[[Answer], Answer] = SymmetricRuntime
    share_of_equal: Callable[[NDArray[np.float32], NDArray[np.float32]], float] = (
        share_of_equal_classes
    )
    dates: int = 1
    auto_precision: Precision = "auto"
    kept_in_floats: tuple[str, ...] = ()

    @property
    def answers(self) -> Answers:
        """Name what the network gives."""
        return "candidates" if self.scores is None else "scores"

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card."""
        model: nn.Module = resolve_name(self.build)(card, pretrained)
        return model

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Fold what can be folded, and end with scores."""
        fold: Callable[[Any], nn.Module] = resolve_name(
            "lemevit_cli.models.lemevit_inference:optimise_for_inference"
        )
        folded = fold(model)
        return folded if self.scores is None else resolve_name(self.scores)(folded)
