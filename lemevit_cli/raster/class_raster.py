"""Rasters whose numbers are classes: ids, names and colours, ours and those of others."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
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
NO_WHITE = 256  # above all values of masks
_MIDDLE = 128  # what lossy compression makes of white is brighter
_GREY = (64, 192)  # values between black and white that few pixels of such a mask have
_MOST_GREY = 0.5  # for each pixel that is brighter
_NEAR = 32  # values beside black and white that compression makes of them
_LEAST_NEAR = 0.75  # share of the pixels of a mask that was resampled or compressed once
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


def is_black_and_white(values: Iterable[float]) -> bool:
    """Say whether values are those of a mask of two classes, 0 and 255.

    Beside any other value 255 is no class, as where a file states it as nodata.
    """
    found = set(values)
    return WHITE in found and found <= {0, WHITE}


def is_lossy(raster: Scene) -> bool:
    """Say whether a file's compression changes its values: JPEG, or what GDAL says is lossy."""
    dataset = raster.dataset()
    facts = dataset.tags(ns="IMAGE_STRUCTURE")
    is_jpeg = facts.get("COMPRESSION", "").upper() in ("JPEG", "YCBCR JPEG")
    is_stated = facts.get("COMPRESSION_REVERSIBILITY", "").upper().startswith("LOSSY")
    return dataset.driver == "JPEG" or is_jpeg or is_stated


def white_among(counts: Mapping[float, int], *, name: str, lossy: bool) -> int:
    """Return the value from which on pixels of a mask are class 1; ``NO_WHITE`` if it holds ids.

    255, where only 0 lies beside it. The middle, 128, where the file is compressed lossily and is
    of black and white as far as that leaves it: what it makes of ids nobody can tell.

    Args:
        counts: pixels of each value, without nodata.
        name: what messages call the mask.

    Raises:
        SceneError: for ids that are compressed lossily; for black and white that was blurred and
            then kept as it is.
    """
    if lossy and set(counts) - {0}:
        low, high = _GREY
        grey = sum(count for value, count in counts.items() if low <= value < high)
        bright = sum(count for value, count in counts.items() if value >= high)
        if grey > _MOST_GREY * bright or not bright:
            raise SceneError(refusal_of_lossy(name))
        return WHITE if is_black_and_white(counts) else _MIDDLE
    if is_black_and_white(counts):
        return WHITE
    near = sum(n for value, n in counts.items() if value < _NEAR or value > WHITE - _NEAR)
    between = [value for value in counts if value not in (0, WHITE)]
    is_mask = min(counts.get(0, 0), counts.get(WHITE, 0)) > 0 and max(between) >= _MIDDLE
    if is_mask and near >= _LEAST_NEAR * sum(counts.values()):
        raise SceneError(
            f"{name}: holds 0, 255 and {len(between)} values between, as a mask of black and white "
            "that was resampled or compressed; make it 0 and 255 alone, or name its classes"
        )
    return NO_WHITE


def refusal_of_lossy(name: str) -> str:
    """Return what is said of class ids in a file that is compressed lossily."""
    return (
        f"{name}: is compressed lossily, as JPEG is, which blurs class ids; only a mask of black "
        "and white survives that. Write it as PNG or TIFF"
    )


def count_values(raster: Scene, counts: dict[float, int]) -> Iterator[None]:
    """Count the pixels of each value, without nodata; yield after each part of the raster."""
    for row in range(0, raster.height, _CHUNK):
        for col in range(0, raster.width, _CHUNK):
            square = Window(col_off=col, row_off=row, width=_CHUNK, height=_CHUNK)
            pixels, valid = raster.read(square.intersection(raster.window) or square)
            found = np.unique(pixels[0][valid], return_counts=True)
            for value, count in zip(*(part.tolist() for part in found), strict=True):
                counts[value] = counts.get(value, 0) + count
            yield


def white_of(raster: Scene) -> int:
    """Return from which value on pixels of a raster are class 1, see :func:`white_among`.

    Nothing is read where the raster names its ids; else all of it, up to a part that shows ids.

    Raises:
        SceneError: as :func:`white_among`.
    """
    if read_legend(raster).names:
        return NO_WHITE
    counts: dict[float, int] = {}
    lossy = is_lossy(raster)
    for _ in count_values(raster, counts):
        if not lossy and set(counts) - {0, WHITE}:
            break
    return white_among(counts, name=raster.name, lossy=lossy)


def find_ids(raster: Scene) -> tuple[tuple[int, ...], int]:
    """Return the class ids of a raster without names, ascending, and its :func:`white_among`.

    All of it is read, once.

    Raises:
        SceneError: as :func:`white_among`, and for a number that is no id.
    """
    counts: dict[float, int] = {}
    for _ in count_values(raster, counts):
        pass
    values = np.array(list(counts))
    as_class_ids(values, np.ones(len(values), dtype=bool), name=raster.name)
    white = white_among(counts, name=raster.name, lossy=is_lossy(raster))
    if white <= WHITE:
        return tuple(sorted({int(value >= white) for value in counts})), white
    return tuple(sorted(int(value) for value in counts if value != NODATA_CLASS)), white


def white_note(path: str, white: int) -> str:
    """Tell how a mask of black and white is read."""
    if white == WHITE:
        return f"{path}: holds 0 and 255 alone; 255 is taken for class 1"
    return f"{path}: is compressed lossily; values from {white} on are taken for class 1"


@dataclass(frozen=True)
class ClassRaster:
    """Class ids of a raster, on its own grid.

    Args:
        white: value from which on pixels are class 1, see :func:`white_among`.
    """

    scene: Scene | JoinedScenes
    white: int = NO_WHITE

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read ids ``(H, W)``, ``NODATA_CLASS`` where there is none.

        Raises:
            SceneError: if the file cannot be read, or holds a number that is no id.
        """
        pixels, valid = self.scene.read(window)
        ids = as_class_ids(pixels[0], valid, name=self.scene.name)
        if self.white <= WHITE:
            ids[valid] = pixels[0][valid] >= self.white
        return ids
