"""``lemevit detect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_table
from lemevit_cli.commands.reporting import check_folder, tell_failures, tell_results
from lemevit_cli.settings import (
    DetectionOptions,
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    RuntimeOptions,
    SceneOptions,
    Tiling,
)


def detect(
    scenes: Annotated[
        list[str],
        typer.Argument(metavar="SCENE...", help="Rasters that GDAL opens, or - for stdin."),
    ],
    output: options.Output = None,
    weights: options.Weights = None,
    score: options.Score = 0.3,
    nms_iou: options.NmsIou = 0.3,
    classes: options.FoundClasses = None,
    max_per_window: options.MaxPerWindow = 300,
    bidx: options.Bidx = None,
    nodata: options.Nodata = None,
    src_crs: options.SrcCrs = None,
    stretch: options.Stretch = "auto",
    gsd: options.Gsd = "auto",
    bounds: options.Bounds = None,
    mask: options.Mask = None,
    window: options.Window = None,
    overlap: options.Overlap = None,
    batch_size: options.BatchSize = None,
    block_size: options.BlockSize = None,
    device: options.Device = "auto",
    precision: options.Precision = options.PrecisionName.auto,
    threads: options.Threads = None,
    tta: options.TtaBoxes = False,
    format: options.Format = None,
    co: options.CreationOptions = None,
    style: options.Style = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Find objects: where they are, how long, and which way they lie.

    Prints the path of the result, polygons of oriented boxes in the scene's CRS. The suffix of the
    output chooses the format: .shp .gpkg .geojson .fgb .csv .parquet, or .txt for DOTA's pixels;
    -o - is GeoJSON. A .csv names no CRS.
    """
    settings = InferenceSettings(
        scene=SceneOptions(bidx=options.parse_bands(bidx), nodata=nodata, src_crs=src_crs),
        reading=ReadingOptions(stretch=stretch, gsd=gsd, bounds=bounds, mask=mask),
        tiling=Tiling(window=window, overlap=overlap, batch_size=batch_size, block_size=block_size),
        runtime=RuntimeOptions(device=device, precision=precision.value, threads=threads, tta=tta),
        output=OutputOptions(
            format=format,
            creation_options=options.parse_creation_options(co),
            classes=options.parse_names(classes),
            style=style,
            overwrite=overwrite,
        ),
        detection=DetectionOptions(score=score, nms_iou=nms_iou, max_per_window=max_per_window),
    )
    from lemevit_cli.tasks.detection import inference as detection

    check_folder(scenes, output)
    report = detection.detect(
        scenes,
        output,
        weights=weights,
        settings=settings,
        progress=Console(quiet=quiet, show_progress=not no_progress),
    )
    tell_results(report, as_json=json, to_stdout=output == "-")
    if verbose:
        for result in report.results:
            _summary(result)
    tell_failures(report)


def _summary(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    unit = "m" if all("length_m" in record for record in result["classes"].values()) else "px"
    print_table(
        f"{result['scene']}: {result['objects']} objects in {result['width']} x "
        f"{result['height']} pixels, {result['windows']} windows "
        f"({result['windows_skipped']} empty), {seconds['total']:.1f} s, "
        f"{result['peak_memory_mb']:.0f} MB",
        ["class", "objects", f"median length, {unit}", f"median width, {unit}"],
        [
            [
                name,
                str(record["objects"]),
                _size(record[f"length_{unit}"]),
                _size(record[f"width_{unit}"]),
            ]
            for name, record in result["classes"].items()
        ],
        to_stderr=True,
    )


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
