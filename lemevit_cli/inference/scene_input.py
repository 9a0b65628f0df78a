"""From a scene and a card to what the model reads: checks, stretch, pixel size, mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import PolygonsMask, polygons_mask, window_of_bounds
from lemevit_cli.inference.pixel_size import PixelScale, choose_scale
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.bands import check_bands
from lemevit_cli.raster.inspection import value_warnings
from lemevit_cli.raster.radiometry import Stretch, choose_stretch, tell_stretch
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import InferenceSettings, ReadingOptions


@dataclass(frozen=True)
class SceneInput:
    """A scene as the weights ask for it.

    Args:
        scene: as it was opened; a pair of dates with the values of each stretched.
        view: what windows are read from.
        area: the part of the scene's grid that is wanted.
        stretch: of its values, None where they are read as they are.
        scale: what was decided of its pixel size.
        figures: what opening it has measured, for the record of its result.
    """

    scene: Scene | ScenePair
    view: SceneView
    area: Window
    stretch: Stretch | None
    scale: PixelScale = field(default_factory=PixelScale)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what messages call the scene."""
        return self.scene.name

    def on_view(self, block: Window) -> Window:
        """Return the pixels of the model's grid that belong to a block of the scene's area.

        Each belongs to one block; the area has all that share a place with it.
        """
        view, area = self.view, self.area
        cols, rows = view.width / view.scene.width, view.height / view.scene.height
        left, top = math.floor(block.col_off * cols), math.floor(block.row_off * rows)
        round_right = math.ceil if block.right == area.right else math.floor
        round_bottom = math.ceil if block.bottom == area.bottom else math.floor
        return Window(
            col_off=left,
            row_off=top,
            width=min(round_right(block.right * cols), view.width) - left,
            height=min(round_bottom(block.bottom * rows), view.height) - top,
        )

    def on_scene(self, window: Window) -> Window:
        """Return the pixels of the scene that lie under a window of the model's grid."""
        view = self.view
        cols, rows = view.scene.width / view.width, view.scene.height / view.height
        left, top = math.floor(window.col_off * cols), math.floor(window.row_off * rows)
        return Window(
            col_off=left,
            row_off=top,
            width=min(math.ceil(window.right * cols), view.scene.width) - left,
            height=min(math.ceil(window.bottom * rows), view.scene.height) - top,
        )


@dataclass(frozen=True)
class Area:
    """The part of a scene's grid that is wanted.

    Args:
        window: in pixels of the grid.
        mask: outside which nothing is wanted; None without one.
    """

    window: Window
    mask: PolygonsMask | None

    def of(self, source: Scene | ScenePair) -> Scene | ScenePair | MaskedScene:
        """Return the source, nodata outside the mask."""
        return MaskedScene(source, self.mask) if self.mask else source


def area_of(grid: Scene, options: ReadingOptions, progress: Progress) -> Area:
    """Return what ``--bounds`` and ``--mask`` leave of a scene's grid; tell how a mask was read.

    Raises:
        SceneError: if they miss it, or the mask cannot be read.
    """
    window = window_of_bounds(grid, options.bounds) if options.bounds else grid.window
    mask = polygons_mask(options.mask, grid) if options.mask else None
    for note in mask.notes if mask else ():
        progress.note(note)
    return Area(window, mask)


@contextmanager
def open_input(
    path: str, card: Card, settings: InferenceSettings, progress: Progress
) -> Iterator[SceneInput]:
    """Open a scene as the weights want it; see :func:`scene_input`."""
    with open_scene(path, replace(settings.scene, expand_palette=True)) as scene:
        yield scene_input(scene, card, settings.reading, progress)


def scene_input(
    scene: Scene, card: Card, options: ReadingOptions, progress: Progress
) -> SceneInput:
    """Check a scene against a card, and decide how it is read; tell what was decided.

    Raises:
        SceneError: if bands, bounds, mask or pixel size do not fit.
    """
    for warning in scene.warnings:
        progress.warn(f"{scene.name}: {warning}")
    check_bands(scene, card.bands)
    scale = choose_scale(scene, card, options.gsd)  # before what takes seconds
    for warning in value_warnings(scene):
        progress.warn(f"{scene.name}: {warning}")
    area = area_of(scene, options, progress)
    stretch = choose_stretch(
        scene, spec=options.stretch, dtype=card.dtype, value_range=card.value_range
    )
    tell_stretch(stretch, scene, spec=options.stretch, dtype=card.dtype, progress=progress)
    scale.tell(scene.name, progress)
    view = SceneView(area.of(scene), scale=scale.both, stretch=stretch, fill=card.mean)
    return SceneInput(scene, view, area.window, stretch, scale)


class MaskedScene:
    """A scene (or a pair) that is nodata outside polygons; reads like a :class:`Scene`."""

    def __init__(self, scene: Scene | ScenePair, mask: PolygonsMask) -> None:
        self._scene = scene
        self._mask = mask
        self.width, self.height, self.num_bands = scene.width, scene.height, scene.num_bands

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read as :meth:`Scene.read` does; valid inside the polygons only."""
        inside = self._mask.read(window)
        if not inside.any():
            return self._nodata(window), inside
        pixels, valid = self._scene.read(window)
        return pixels, valid & inside

    def _nodata(self, window: Window) -> NDArray[Any]:
        shape = (self._scene.num_bands, window.height, window.width)
        return np.zeros(shape, dtype=self._scene.dtype)
