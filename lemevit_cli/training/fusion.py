"""How alike tokens must be before one takes over for another: measured once for trained weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lemevit_cli.models.lemevit_fusion import fuse_tokens
from lemevit_cli.training.loop import Validation

_THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
MOST_CALIBRATIONS = len(_THRESHOLDS) + 1  # validations of a calibration
_MOST_LOST = 0.005  # of the validation's score: half a point


@torch.inference_mode()
def calibrate_threshold(
    model: nn.Module, validate: Callable[[Callable[[Tensor], Tensor]], Validation]
) -> float:
    """Return the lowest cosine for ``--fuse-tokens auto`` that costs half a point at most.

    Args:
        model: with its weights; it is in evaluation mode afterwards, and fuses no tokens.
        validate: judges answers, see :class:`~lemevit_cli.training.loop.TrainingData`.
    """
    device = next(model.parameters()).device
    model.eval()

    def answer(pixels: Tensor) -> Tensor:
        outputs: Tensor = model(pixels.to(device))
        return outputs.float()

    def score(threshold: float) -> float:
        fuse_tokens(model, "auto", threshold)
        return validate(answer).score

    fuse_tokens(model, 0.0)
    aim = validate(answer).score - _MOST_LOST
    found = next((threshold for threshold in _THRESHOLDS if score(threshold) >= aim), 1.0)
    fuse_tokens(model, 0.0)
    return found
