"""``lemevit predict``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_table
from lemevit_cli.commands.reporting import check_folder, tell_failures, tell_results
from lemevit_cli.settings import (
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    RuntimeOptions,
    SceneOptions,
    Tiling,
)


def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(metavar="SCENE...", help="Rasters that GDAL opens, or - for stdin."),
    ],
    task: options.Task = options.TaskName.seg,
    output: options.Output = None,
    weights: options.Weights = None,
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
    tta: options.Tta = False,
    output_type: options.OutputType = options.OutputTypeName.classes,
    format: options.Format = None,
    co: options.CreationOptions = None,
    classes: options.Classes = None,
    min_area: options.MinArea = 0.0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Tell what covers the ground, pixel by pixel, on the scene's own grid.

    Prints the path of the result. The suffix of the output chooses the format: .tif for a
    raster of classes, .shp .gpkg .geojson .fgb for polygons.
    """
    settings = InferenceSettings(
        scene=SceneOptions(bidx=options.parse_bands(bidx), nodata=nodata, src_crs=src_crs),
        reading=ReadingOptions(stretch=stretch, gsd=gsd, bounds=bounds, mask=mask),
        tiling=Tiling(window=window, overlap=overlap, batch_size=batch_size, block_size=block_size),
        runtime=RuntimeOptions(device=device, precision=precision.value, threads=threads, tta=tta),
        output=OutputOptions(
            format=format,
            output_type=output_type.value,
            creation_options=options.parse_creation_options(co),
            classes=options.parse_names(classes),
            min_area_m2=min_area,
            overwrite=overwrite,
        ),
    )
    from lemevit_cli.tasks.segmentation import inference as prediction

    check_folder(scenes, output)
    report = prediction.predict(
        scenes,
        output,
        weights=weights,
        task=task.value,
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
    print_table(
        f"{result['scene']}: {result['width']} x {result['height']} pixels, "
        f"{result['windows']} windows ({result['windows_skipped']} empty), "
        f"{seconds['total']:.1f} s, {result['peak_memory_mb']:.0f} MB",
        ["class", "share", "hectares"],
        [
            [name, f"{record['share']:.1%}", _hectares(record["area_m2"])]
            for name, record in result["classes"].items()
        ],
        to_stderr=True,
    )


def _hectares(area_m2: float | None) -> str:
    return "-" if area_m2 is None else f"{area_m2 / 1e4:,.2f}"
