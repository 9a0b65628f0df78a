"""Which bands of a file are the picture, and which say where it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from lemevit_cli.errors import SceneError

_BLUE_GREEN_RED = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)


@dataclass(frozen=True)
class BandChoice:
    """Bands counted from 1: ``bidx`` make the picture, ``alpha`` (if any) its valid mask.

    ``palette`` has the colours of the one band that is repeated in ``bidx`` and holds indexes into
    it, ``(N, 4)`` red, green, blue, alpha; None where bands are read as they are.
    """

    bidx: tuple[int, ...]
    alpha: int | None
    warnings: tuple[str, ...]
    palette: NDArray[np.uint8] | None = None


def choose_bands(
    dataset: Any, bidx: Sequence[int] | None, *, name: str, expand_palette: bool = False
) -> BandChoice:
    """Take the bands asked for, or all that are a picture.

    With ``expand_palette`` a band of indexes is read as red, green, blue, unless ``bidx`` asks for
    it once. Without ``bidx``:

    * every band that is not alpha, in the file's order;
    * a file whose first three bands say blue, green, red is read as red, green, blue;
    * CMYK, which GDAL turns to RGB with a made-up alpha, is red, green, blue without a mask.

    Raises:
        SceneError: if a band does not exist or holds complex numbers.
    """
    interpretation = tuple(dataset.colorinterp)
    is_cmyk = dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK"
    alphas = [i for i, meaning in enumerate(interpretation, 1) if meaning == ColorInterp.alpha]
    warnings = []
    if is_cmyk:
        warnings.append("CMYK colours are read as red, green, blue")
    if bidx is None:
        chosen = [i for i in range(1, dataset.count + 1) if i not in alphas]
        if interpretation[:3] == _BLUE_GREEN_RED:
            chosen[:3] = [3, 2, 1]
            warnings.append(
                "bands 1, 2, 3 are blue, green, red and are read as red, green, blue; "
                "-b 1,2,3 keeps the file's order"
            )
        if not chosen:  # a lone alpha band is still a picture
            chosen, alphas = list(range(1, dataset.count + 1)), []
    else:
        chosen = list(bidx)
        _check_they_exist(chosen, dataset.count, name=name)
    _refuse_complex(dataset, chosen, name=name)
    if expand_palette and _is_palette(interpretation, chosen) and (bidx is None or len(chosen) > 1):
        band = chosen[0]
        warnings.append(
            f"band {band} is read as the colours of its palette; -b {band} keeps indexes"
        )
        alpha = alphas[0] if alphas else None
        return BandChoice((band,) * 3, alpha, tuple(warnings), _colours_of(dataset, band))
    warnings += _palette_warnings(interpretation, chosen)
    alpha = alphas[0] if alphas and not is_cmyk else None
    return BandChoice(tuple(chosen), alpha, tuple(warnings))


def _check_they_exist(chosen: Sequence[int], count: int, *, name: str) -> None:
    missing = [band for band in chosen if not 1 <= band <= count]
    if missing or not chosen:
        numbers = ",".join(str(band) for band in missing) or "none"
        bands = "1 band" if count == 1 else f"{count} bands, numbered from 1"
        raise SceneError(f"{name}: asked for band {numbers}, it has {bands}; choose others with -b")


def _refuse_complex(dataset: Any, chosen: Sequence[int], *, name: str) -> None:
    dtypes = dataset.dtypes  # asked of GDAL anew at each access
    for band in chosen:
        dtype = dtypes[band - 1]
        if dtype.startswith("complex"):
            raise SceneError(
                f"{name}: band {band} holds complex numbers ({dtype}); "
                "make a real raster of it first, e.g. its amplitude"
            )


def _is_palette(interpretation: Sequence[ColorInterp], chosen: Sequence[int]) -> bool:
    return len(set(chosen)) == 1 and interpretation[chosen[0] - 1] == ColorInterp.palette


def _colours_of(dataset: Any, band: int) -> NDArray[np.uint8]:
    """Return the colour of every index that the band can hold; black where none is stated."""
    colours = dataset.colormap(band)
    size = max(np.iinfo(dataset.dtypes[band - 1]).max, *colours) + 1
    table = np.zeros((size, 4), np.uint8)
    table[:, 3] = 255
    for index, colour in colours.items():
        table[index] = colour
    return table


def _palette_warnings(interpretation: Sequence[ColorInterp], chosen: Sequence[int]) -> list[str]:
    indexed = sorted({i for i in chosen if interpretation[i - 1] == ColorInterp.palette})
    return [
        f"band {i} holds palette indexes, not brightness; gdal_translate -expand rgb resolves them"
        for i in indexed
    ]


def check_bands(scene: Any, wanted: int, *, option: str = "-b") -> None:
    """Refuse a scene whose number of chosen bands is not what the weights want.

    Args:
        option: that chooses the bands of this scene.

    Raises:
        SceneError: naming both counts and how to choose bands.
    """
    if scene.num_bands == wanted:
        return
    if scene.num_bands == 1:
        has, advice = "1 band", f"{option} {','.join(['1'] * wanted)} repeats it"
    else:
        example = ",".join(str(min(i, scene.num_bands)) for i in range(1, wanted + 1))
        has = f"{scene.num_bands} bands"
        advice = f"choose with {option}, e.g. {option} {example}"
    raise SceneError(f"{scene.name}: has {has}, the weights want {wanted}; {advice}")
