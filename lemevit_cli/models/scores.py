"""The end of a network for inference: logits become scores inside the graph, whoever runs it."""

from __future__ import annotations

from torch import Tensor, nn


class PixelScores(nn.Module):
    """Answers scores ``(B, classes, H, W)`` that sum to one in every pixel, in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores of pixels ``(B, bands, H, W)``."""
        scores: Tensor = self.model(pixels).float().softmax(dim=1)
        return scores


class WindowScores(nn.Module):
    """Answers the scores of whole windows as maps of a single pixel ``(B, classes, 1, 1)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores of pixels ``(B, bands, H, W)``."""
        scores: Tensor = self.model(pixels).float().softmax(dim=1)
        return scores[:, :, None, None]
