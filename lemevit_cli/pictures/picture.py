"""What pictures for people share: colours of classes, the light of a scene, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray

from lemevit_cli.legend import ClassInfo

_NODATA_COLOR = (235, 235, 235)


def colorize(ids: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Colour class ids ``(H, W)``; light grey where there is no class."""
    table = np.full((256, 3), _NODATA_COLOR, dtype=np.uint8)
    for class_id, info in enumerate(classes):
        table[class_id] = info.color
    return table[ids]


def scale_for_display(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Scale a scene ``(bands, H, W)`` to how people like to see it.

    The first three bands, or the first as grey, each stretched between its percentiles 1 and 99.

    Args:
        valid: of each band, ``(bands, H, W)``: as :meth:`Scene.read_overview_by_band` gives it.
    """
    shown = [0, 1, 2] if len(pixels) >= 3 else [0, 0, 0]
    anywhere = valid.any(axis=0)
    rgb = np.full((*anywhere.shape, 3), _NODATA_COLOR, dtype=np.uint8)
    for i, band in enumerate(shown):
        if valid[band].any():
            low, high = np.percentile(pixels[band][valid[band]], (1, 99))
            scaled = (pixels[band][anywhere].astype(np.float64) - low) / max(high - low, 1e-9)
            rgb[anywhere, i] = (scaled.clip(0, 1) * 255).round()
    return rgb


def legend_patches(classes: Sequence[ClassInfo]) -> list[Patch]:
    """Make a coloured square with its name for each class."""
    return [
        Patch(facecolor=[c / 255 for c in info.color], edgecolor="0.4", label=info.name)
        for info in classes
    ]
