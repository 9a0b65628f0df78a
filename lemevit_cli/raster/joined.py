"""One raster seen from both sides of the edge of the world, read as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import Scene


class JoinedScenes:
    """Views of one raster on one grid: a pixel is that of the first view that has it.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = tuple(scenes)
        self.name = scenes[0].name

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read as :meth:`Scene.read` does."""
        pixels, valid = self._scenes[0].read(window)
        for scene in self._scenes[1:]:
            if valid.all():
                break
            others, known = scene.read(window)
            pixels, valid = np.where(valid, pixels, others), valid | known
        return pixels, valid

    def close(self) -> None:
        """Close the views."""
        for scene in self._scenes:
            scene.close()
