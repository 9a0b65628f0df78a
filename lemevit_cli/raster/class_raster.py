"""Rasters whose numbers are classes: ids, names and colours, ours and those of others."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import SceneError, reading
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.raster.joined import JoinedScenes
from lemevit_cli.raster.scene import Scene

Color = tuple[int, int, int]

WHITE = 255  # in a mask of black and white the one class beside 0; else no class
_CHUNK = 2048  # pixels: side of the windows in which other values are looked for


@dataclass(frozen=True)
class Legend:
    """Names and colours of a raster's classes, by id; both empty where it has none."""

    names: Mapping[int, str]
    colors: Mapping[int, Color]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return names from id 0 to the last; None if there are none at all."""
        return tuple(info.name for info in self.classes()) if self.names else None

    def classes(self, names: tuple[str, ...] | None = None) -> tuple[ClassInfo, ...]:
        """Return classes from id 0 to the last that is named or coloured.

        Args:
            names: replace the raster's own; their number is that of the classes.

        An id without a name is ``class_<id>``; one without a colour gets its name's.
        """
        last = max([*self.names, *self.colors], default=-1)
        if names is None:
            names = tuple(self.names.get(i, f"class_{i}") for i in range(last + 1))
        return tuple(
            ClassInfo(info.name, self.colors.get(i, info.color))
            for i, info in enumerate(classes_from_names(names))
        )


def read_legend(scene: Scene) -> Legend:
    """Read names and colours of a raster's classes, from its first chosen band.

    Names are the band's tags ``CLASS_<id>``, as our writer leaves them, else GDAL's category names
    beside the file; colours are the band's colour table. ``NODATA_CLASS`` has neither.

    Raises:
        SceneError: if they cannot be read.
    """
    with reading(scene.name, "the names of its classes cannot be read"):
        return _legend_of(scene)


def _legend_of(scene: Scene) -> Legend:
    dataset, band = scene.dataset(), scene.bidx[0]
    tagged_names = {
        int(match[1]): text
        for key, text in dataset.tags(band).items()
        if (match := re.fullmatch(r"CLASS_(\d+)", key))
    }
    names = tagged_names or dict(enumerate(_category_names(dataset.files, band)))
    try:
        table = dataset.colormap(band)
    except ValueError:  # the band has none
        table = {}
    nodata = {NODATA_CLASS, *(v for v in scene.nodata[:1] if v is not None)}
    return Legend(
        {i: name for i, name in names.items() if i not in nodata and name},
        {i: color[:3] for i, color in table.items() if i not in nodata and color != (0, 0, 0, 255)},
    )


def _category_names(files: list[str], band: int) -> list[str]:
    """Read GDAL's category names, which rasterio does not tell, from ``<file>.aux.xml``."""
    for file in files:
        if not file.endswith(".aux.xml") or not Path(file).is_file():
            continue
        try:
            with reading(file):
                root = ET.parse(file).getroot()
        except SceneError:
            continue  # GDAL reads nothing of it either
        names = root.findall(f"PAMRasterBand[@band='{band}']/CategoryNames/Category")
        return [name.text or "" for name in names]
    return []


def as_class_ids(values: NDArray[Any], valid: NDArray[np.bool_], *, name: str) -> NDArray[np.uint8]:
    """Return a raster's numbers ``(H, W)`` as class ids, ``NODATA_CLASS`` where not valid.

    Raises:
        SceneError: for a number that is no id: below 0, above 255, or not whole.
    """
    if values.dtype != np.uint8:
        known = values[valid]
        wrong = known[(known < 0) | (known > NODATA_CLASS) | (known != np.trunc(known))]
        if len(wrong):
            raise SceneError(
                f"{name}: holds {wrong[0]:g}, which is no class id (0 to {NODATA_CLASS - 1})"
            )
    ids = np.full(values.shape, NODATA_CLASS, dtype=np.uint8)
    ids[valid] = values[valid].astype(np.uint8)
    return ids


def check_class_raster(scene: Scene) -> None:
    """Refuse a raster that holds no class ids.

    Raises:
        SceneError: if it has several bands.
    """
    if scene.num_bands != 1:
        raise SceneError(
            f"{scene.name}: has {scene.num_bands} bands; class ids are read from a raster of one "
            "band, as predict --output-type classes writes it"
        )


def is_black_and_white(values: Iterable[int]) -> bool:
    """Say whether values are those of a mask of two classes, 0 and 255.

    Beside any other value 255 is no class, as where a file states it as nodata.
    """
    found = set(values)
    return WHITE in found and found <= {0, WHITE}


def id_of_white(raster: Scene) -> int:
    """Return what 255 means in a raster: class 1 if only 0 lies beside it, else no class.

    All of it is read, up to the first other value; nothing where the raster names its ids.
    """
    if read_legend(raster).names:
        return NODATA_CLASS
    found = set[int]()
    for row in range(0, raster.height, _CHUNK):
        for col in range(0, raster.width, _CHUNK):
            square = Window(col_off=col, row_off=row, width=_CHUNK, height=_CHUNK)
            window = square.intersection(raster.window) or square
            pixels, valid = raster.read(window)
            found.update(np.unique(pixels[0][valid]).tolist())
            if not found <= {0, WHITE}:
                return NODATA_CLASS
    return 1 if is_black_and_white(found) else NODATA_CLASS


def white_note(path: str) -> str:
    """Tell how a mask of black and white is read."""
    return f"{path}: holds 0 and 255 alone; 255 is taken for class 1"


@dataclass(frozen=True)
class ClassRaster:
    """Class ids of a raster, on its own grid.

    Args:
        white: class id of 255, see :func:`id_of_white`.
    """

    scene: Scene | JoinedScenes
    white: int = NODATA_CLASS

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read ids ``(H, W)``, ``NODATA_CLASS`` where there is none.

        Raises:
            SceneError: if the file cannot be read, or holds a number that is no id.
        """
        pixels, valid = self.scene.read(window)
        ids = as_class_ids(pixels[0], valid, name=self.scene.name)
        if self.white != NODATA_CLASS:
            ids[valid & (pixels[0] == WHITE)] = self.white
        return ids
