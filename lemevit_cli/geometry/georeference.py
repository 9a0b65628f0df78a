"""Where a raster's pixels lie: the part of a scene that every result inherits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from affine import Affine

from lemevit_cli.geometry.window import Window

Bounds = tuple[float, float, float, float]  # west, south, east, north


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """A raster's georeference, exactly as its file states it.

    Args:
        transform: pixel to map, None where the file has none (an identity is none).
        crs_wkt: the CRS as WKT2, None where the file has none.
        gcps: ground control points ``(row, col, x, y, z, id, info)`` in pixels and map units.
        gcps_crs_wkt: CRS of the ground control points.
        rpcs: GDAL's RPC metadata domain, name to text; empty where there is none.
        area_or_point: GDAL's ``AREA_OR_POINT`` as found; it never moves a pixel here.
    """

    transform: Affine | None
    crs_wkt: str | None
    gcps: tuple[tuple[Any, ...], ...] = ()
    gcps_crs_wkt: str | None = None
    rpcs: Mapping[str, str] = field(default_factory=dict)
    area_or_point: str | None = None

    def crop(self, window: Window, *, of: Window) -> Georeference:
        """Move the georeference of a raster to a window of it; of the whole it is the same.

        Ground control points stay over their pixels, and so do RPCs.

        Args:
            of: the whole raster.
        """
        if window == of:
            return self
        shift = Affine.translation(window.col_off, window.row_off)
        gcps = tuple((g[0] - window.row_off, g[1] - window.col_off, *g[2:]) for g in self.gcps)
        transform = None if self.transform is None else self.transform @ shift
        rpcs = _moved_rpcs(self.rpcs, {"SAMP": (window.col_off, 1), "LINE": (window.row_off, 1)})
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs)

    def coarsen(self, *, cols: float, rows: float) -> Georeference:
        """Move the georeference to larger pixels that begin at the same corner.

        Args:
            cols, rows: old pixels that a new one is wide and high.
        """
        scale = Affine.scale(cols, rows)
        gcps = tuple((g[0] / rows, g[1] / cols, *g[2:]) for g in self.gcps)
        transform = None if self.transform is None else self.transform @ scale
        rpcs = _moved_rpcs(self.rpcs, {"SAMP": (0, cols), "LINE": (0, rows)})
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs)


def _moved_rpcs(
    rpcs: Mapping[str, str], grid: Mapping[str, tuple[float, float]]
) -> Mapping[str, str]:
    """Return RPCs of another grid over a picture; none where they are not whole.

    RPCs count lines and samples from the centre of the first pixel, as GDAL reads them.

    Args:
        grid: first pixel and size of pixels, in those of the picture, along ``SAMP`` and ``LINE``.
    """
    moved = dict(rpcs)
    for axis, (first, size) in grid.items():
        try:
            offset, scale = float(rpcs[f"{axis}_OFF"]), float(rpcs[f"{axis}_SCALE"])
        except (KeyError, ValueError):
            return {}
        moved[f"{axis}_OFF"] = repr((offset + 0.5 - first) / size - 0.5)
        moved[f"{axis}_SCALE"] = repr(scale / size)
    return moved


def bounds_text(bounds: Bounds) -> str:
    """Write four numbers as a message shows them."""
    return " ".join(f"{b:.10g}" for b in bounds)
