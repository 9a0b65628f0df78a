"""Results of classification that are no raster: a polygon a window, and tables of pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import replacing
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.qgis_style import write_style
from lemevit_cli.raster.spec import RasterSpec, Sink, Writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.layer import (
    PolygonLayer,
    check_layer_options,
    crs_of_map,
    in_parts,
    on_the_map,
    pixel_amid_m,
    replacing_layer,
    split,
    write_layer,
)

_BEST = 5  # classes of a picture in a table


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option that polygons of windows do not have, or the driver refuses.
    """
    if options.output_type == "scores":
        raise OutputError(
            f"{writer.driver} holds the best class of every window with its score; write the "
            "scores of all classes to a .tif"
        )
    if options.asked_of_polygons:
        name = options.asked_of_polygons[0]
        raise OutputError(f"{name}: polygons of windows are squares, all of one size; leave it out")
    empty = _CellSink((), options).layer(Georeference(transform=None, crs_wkt=None))
    check_layer_options(empty, options, writer)


@contextmanager
def open_sink(
    target: Path, spec: RasterSpec, options: OutputOptions, writer: Writer
) -> Iterator[Sink]:
    """Open a layer to be written window by window, of scores; NaN leaves a cell out.

    Every pixel becomes a polygon with the fields ``class``, ``class_id`` and ``score``.

    Raises:
        OutputError: if the target exists, cannot be written, or the disk is full.
    """
    sink = _CellSink([info.name for info in spec.classes], options)
    with replacing_layer(target, options, writer) as path:
        yield sink
        blame = f"{target} cannot be written (is the disk full?)"
        layer = replace(sink.layer(spec.georeference), pixel_m=pixel_amid_m(spec))
        write_layer(path, layer, options, writer, blame=blame, target=target)
        if options.style:
            kept = [info for info in spec.classes if info.name in (options.classes or (info.name,))]
            style = path.with_suffix(".qml")
            write_style(style, polygons=kept, filled=True, raster=spec.classes)


class _CellSink:
    """Keeps the best class of every pixel, its score and its outline."""

    def __init__(self, names: Sequence[str], options: OutputOptions) -> None:
        self._names = np.array(names, dtype=object)
        self._kept = np.array([name in (options.classes or names) for name in names], dtype=bool)
        self._found: list[NDArray[np.float64]] = [np.empty((0, 4))]  # col, row, class id, score

    def write(self, window: Window, values: NDArray[Any]) -> None:
        rows, cols = np.nonzero(~np.isnan(values[0]))
        scores = values[:, rows, cols]
        ids = scores.argmax(axis=0)
        places = (cols + window.col_off, rows + window.row_off)
        self._found.append(np.stack([*places, ids, scores.max(axis=0)], axis=1)[self._kept[ids]])

    def layer(self, georeference: Georeference) -> PolygonLayer:
        """Return all that was written, on the map."""
        cols, rows, ids, scores = np.concatenate(self._found).T

        def describe(part: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
            cols, rows = part
            squares = shapely.box(cols, rows, cols + 1, rows + 1)
            return (shapely.to_wkb(on_the_map(squares, georeference)),)

        (wkb,) = in_parts(describe, split(cols, rows))
        return PolygonLayer(
            wkb=wkb,
            fields={
                "class": self._names[ids.astype(np.intp)],
                "class_id": ids.astype(np.int32),
                "score": scores.astype(np.float64),
            },
            crs_wkt=crs_of_map(georeference),
        )


def write_table(target: str, pictures: Sequence[dict[str, Any]], *, overwrite: bool) -> None:
    """Write a CSV: path, class, score, and the next classes with theirs, as far as there are.

    Args:
        pictures: each with ``path`` and ``scores``, by class and the best first.
    """
    with (
        replacing(target, overwrite=overwrite) as path,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        count = min(_BEST, max((len(picture["scores"]) for picture in pictures), default=1))
        further = [f"{name}_{i}" for i in range(2, count + 1) for name in ("class", "score")]
        table.writerow(["path", "class", "score", *further])
        for picture in pictures:
            best = list(picture["scores"].items())[:count]
            table.writerow([picture["path"], *(v for name, s in best for v in (name, f"{s:.4f}"))])
