"""Oriented boxes on the map: vector layers, GeoParquet, and the text of DOTA.

A box becomes a polygon of its four corners, the first that of :func:`corners_of`. Its fields are
``class``, ``class_id``, ``score``, ``length_m`` and ``width_m`` (long and short axis on the
ground), ``area_m2``, ``bearing`` (of the long axis, degrees clockwise from grid north, 0 to 180),
``cx`` and ``cy`` (its centre, in the coordinates of the polygon). Where nothing ties the scene to
the earth all of these are in pixels, y down: ``length_px`` and so on, north is up on screen.

A CSV holds the polygons as WKT and names no CRS: GDAL would look for it in a .prj of the same stem,
which may be that of a shapefile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import spooled_to_stdout
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.geometry.oriented_boxes import GroundSizes, corners_of, sizes_of_corners
from lemevit_cli.legend import ClassInfo
from lemevit_cli.qgis_style import write_style
from lemevit_cli.raster.spec import Writer
from lemevit_cli.raster.targets import STDOUT, find_writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.layer import (
    PolygonLayer,
    check_layer_options,
    crs_of_map,
    in_parts,
    on_the_map,
    pixel_size_m,
    points_on_the_map,
    replacing_layer,
    split,
    vector_refusals,
    write_layer,
)

WRITERS = (
    Writer("GeoJSON", ".geojson", "boxes", __name__),
    Writer("ESRI Shapefile", ".shp", "boxes", __name__),
    Writer("GPKG", ".gpkg", "boxes", __name__),
    Writer("FlatGeobuf", ".fgb", "boxes", __name__),
    Writer("CSV", ".csv", "boxes", __name__),
    Writer("Parquet", ".parquet", "boxes", __name__),
    Writer("DOTA", ".txt", "boxes", __name__),
)
_LONLAT = "OGC:CRS84"


@dataclass(frozen=True, kw_only=True)
class BoxesOfScene:
    """Boxes found in a scene.

    Args:
        boxes: ``(N, 5)`` in pixels of the scene, see ``geometry/oriented_boxes.py``.
        scores: ``(N,)`` in [0, 1].
        class_ids: ``(N,)``, places in ``classes``.
        georeference: the scene's.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    classes: tuple[ClassInfo, ...]
    georeference: Georeference

    @property
    def names(self) -> NDArray[Any]:
        """Return the class of each box, ``(N,)`` text."""
        return np.array([info.name for info in self.classes], object)[self.class_ids]


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Refuse options that the format does not know, before any work.

    Raises:
        OutputError: naming them, or what has to be installed.
    """
    if writer.driver == "Parquet" and find_spec("pyarrow") is None:
        raise OutputError(
            "GeoParquet needs pyarrow, which is not installed: pip install pyarrow, "
            "or write .gpkg or .fgb"
        )
    if writer.driver == "DOTA" and options.style:
        raise OutputError("--style: QGIS opens no DOTA text; write .shp, .gpkg or .geojson")
    if writer.driver in _WRITE_OF and options.creation_options:
        raise OutputError(f"--co: {writer.driver} has no creation options")
    if writer.driver not in _WRITE_OF:
        check_layer_options(layer_of(_NO_BOXES), options, writer)


def write_boxes(target: str, detections: BoxesOfScene, options: OutputOptions) -> None:
    """Write boxes, no box among them too, in the format of the target; ``-`` is stdout.

    Raises:
        OutputError: if the target exists, cannot be written, or the format cannot hold them.
        BrokenPipeError: if stdout's reader has gone.
    """
    writer = find_writer(target, options, WRITERS)
    write = _WRITE_OF.get(writer.driver, _write_layer)
    if target == STDOUT:
        with spooled_to_stdout(writer.suffix) as path:
            write(path, detections, options, writer, None)
        return
    with replacing_layer(Path(target), options, writer) as path:
        write(path, detections, options, writer, Path(target))
        if options.style:
            style = path.with_suffix(".qml")
            write_style(style, polygons=detections.classes, label="class and score")


def sizes_of(detections: BoxesOfScene) -> GroundSizes:
    """Measure sizes and bearings on the ground; on screen of a scene not tied to the earth."""
    place = detections.georeference
    crs_wkt = crs_of_map(place)
    is_tied = is_tied_to_earth(crs_wkt)

    def describe(part: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        corners = corners_of(*part)
        if not is_tied:
            sizes = sizes_of_corners(corners * (1, -1), None)
        else:
            on_map = points_on_the_map(corners.reshape(-1, 2), place)
            sizes = sizes_of_corners(on_map.reshape(-1, 4, 2), crs_wkt)
        return sizes.length_m, sizes.width_m, sizes.area_m2, sizes.bearing

    length, width, area, bearing = in_parts(describe, split(detections.boxes))
    return GroundSizes(length, width, area, bearing, unit="m" if is_tied else "px")


def layer_of(detections: BoxesOfScene) -> PolygonLayer:
    """Return boxes as polygons with fields, on the scene's map."""
    sizes, place = sizes_of(detections), detections.georeference
    if sizes.unit == "px":
        place = Georeference(transform=None, crs_wkt=None)

    def describe(part: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        (boxes,) = part
        polygons = on_the_map(shapely.polygons(corners_of(boxes)), place)
        return shapely.to_wkb(polygons), points_on_the_map(boxes[:, :2], place)

    wkb, centres = in_parts(describe, split(detections.boxes))
    return PolygonLayer(
        wkb=wkb,
        fields={
            "class": detections.names,
            "class_id": detections.class_ids.astype(np.int32),
            "score": detections.scores.astype(np.float64),
            f"length_{sizes.unit}": sizes.length_m,
            f"width_{sizes.unit}": sizes.width_m,
            "area_m2" if sizes.unit == "m" else "area_px": sizes.area_m2,
            "bearing": sizes.bearing,
            "cx": centres[:, 0],
            "cy": centres[:, 1],
        },
        crs_wkt=crs_of_map(place),
        pixel_m=_pixel_m(detections, place),
    )


def _pixel_m(detections: BoxesOfScene, place: Georeference) -> float | None:
    """Measure a pixel amid the boxes."""
    if len(detections.boxes) == 0:
        return None
    col, row = np.median(detections.boxes[:, :2], axis=0)
    return pixel_size_m(place, col=float(col), row=float(row))


def _write_layer(
    path: Path,
    detections: BoxesOfScene,
    options: OutputOptions,
    writer: Writer,
    target: Path | None,
) -> None:
    layer = layer_of(detections)
    if writer.driver == "GeoJSON" and layer.crs_wkt is not None:
        # GDAL turns the polygons into longitudes and latitudes, but no fields.
        to_lonlat = pyproj.Transformer.from_crs(layer.crs_wkt, _LONLAT, always_xy=True)
        lon, lat = to_lonlat.transform(layer.fields["cx"], layer.fields["cy"])
        layer = replace(layer, fields={**layer.fields, "cx": lon, "cy": lat})
    blame = f"{path.name} cannot be written (is the disk full?)"
    write_layer(path, layer, options, writer, blame=blame, target=target)


def _write_parquet(path: Path, detections: BoxesOfScene, *_: Any) -> None:
    import geopandas  # noqa: PLC0415  GDAL writes all others

    layer = layer_of(detections)
    polygons = shapely.from_wkb(layer.wkb)
    table = geopandas.GeoDataFrame(layer.fields, geometry=polygons, crs=layer.crs_wkt)
    with vector_refusals(f"{path.name} cannot be written (is the disk full?)"):
        table.to_parquet(path, index=False)


def _write_dota(path: Path, detections: BoxesOfScene, *_: Any) -> None:
    """Write ``x1 y1 x2 y2 x3 y3 x4 y4 class score`` a line, in pixels of the scene.

    As the labels of DOTA, with a score in the place of their mark for difficult objects; spaces in
    names of classes become hyphens, as in DOTA's own.
    """
    corners = corners_of(detections.boxes).reshape(-1, 8)
    lines = [
        " ".join([*(f"{value:.3f}" for value in row), "-".join(name.split()), f"{score:.6f}"])
        for row, name, score in zip(
            corners.tolist(), detections.names, detections.scores, strict=True
        )
    ]
    with vector_refusals(f"{path.name} cannot be written (is the disk full?)"):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_WRITE_OF: dict[str, Callable[..., None]] = {
    "Parquet": _write_parquet,
    "DOTA": _write_dota,
}  # all others are GDAL's
_NO_BOXES = BoxesOfScene(
    boxes=np.empty((0, 5)),
    scores=np.empty(0),
    class_ids=np.empty(0, np.int64),
    classes=(),
    georeference=Georeference(transform=None, crs_wkt=None),
)
