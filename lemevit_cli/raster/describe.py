"""What can be told of a scene without a model: for ``lemevit info SCENE``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from lemevit_cli.errors import reading
from lemevit_cli.raster.inspection import value_warnings
from lemevit_cli.raster.scene import Scene

_OVERVIEW_SIDE = 512
_MOST_BANDS = 16  # that are described: reading thousands takes minutes


def describe(scene: Scene) -> dict[str, Any]:
    """Gather the facts of a scene, fit for JSON.

    Of many bands the first few are described, which ``warnings`` tells; ``bands`` counts all.
    ``valid_share`` is that of one decimated read. ``transform`` has GDAL's order, None without one.
    A number that JSON cannot hold (a NaN nodata) is text.

    Raises:
        SceneError: if the file cannot be read.
    """
    with reading(scene.name, "cannot be described"):
        return _facts(scene)


def _facts(scene: Scene) -> dict[str, Any]:
    left_out = scene.num_bands - _MOST_BANDS
    if left_out > 0:
        scene = scene.of_bands(scene.bidx[:_MOST_BANDS])
    dataset = scene.dataset()
    names, colors = dataset.descriptions, dataset.colorinterp
    georeference = scene.georeference
    _, valid = scene.read_overview(_OVERVIEW_SIDE)
    return {
        "path": scene.path,
        "driver": dataset.driver,
        "width": scene.width,
        "height": scene.height,
        "bands": dataset.count,
        "bidx": list(scene.bidx),
        "band_names": [names[b - 1] for b in scene.bidx],
        "colors": [colors[b - 1].name for b in scene.bidx],
        "dtype": scene.dtype,
        "crs": _crs_name(georeference.crs_wkt),
        "transform": georeference.transform and list(georeference.transform.to_gdal()),
        "gcps": len(georeference.gcps),
        "rpcs": bool(georeference.rpcs),
        "gsd_m": scene.gsd_m,
        "nodata": [_json_number(value) for value in scene.nodata],
        "mask": scene.mask_kind,
        "valid_share": float(np.mean(valid)),
        "overviews": dataset.overviews(scene.bidx[0]),
        "block_shape": list(dataset.block_shapes[scene.bidx[0] - 1]),
        "compression": dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"),
        "bytes_on_disk": _bytes_on_disk(dataset.files),
        "warnings": [*_told_of_bands(left_out), *scene.warnings, *value_warnings(scene)],
    }


def _told_of_bands(left_out: int) -> list[str]:
    if left_out <= 0:
        return []
    return [f"the first {_MOST_BANDS} bands are described, {left_out:,} more are left out"]


def _crs_name(crs_wkt: str | None) -> str | None:
    """Return ``EPSG:32633`` where the CRS is one, else its own name."""
    if crs_wkt is None:
        return None
    authority = CRS.from_wkt(crs_wkt).to_authority()
    return ":".join(authority) if authority else crs_wkt.split('"')[1]


def _json_number(value: float | None) -> float | str | None:
    return value if value is None or np.isfinite(value) else str(value)


def _bytes_on_disk(files: Sequence[str]) -> int | None:
    """Sum the bytes of the file and its side files; None where they are not on this machine."""
    sizes = [Path(file).stat().st_size for file in files if Path(file).is_file()]
    return sum(sizes) if sizes else None
