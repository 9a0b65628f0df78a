"""``lemevit change``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json, print_table
from lemevit_cli.settings import (
    ChangeOptions,
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    RuntimeOptions,
    SceneOptions,
    Tiling,
)


def change(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A raster that GDAL opens.")],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", help="Another of the same place; on any grid.")
    ],
    output: options.Outputs = None,
    weights: options.Weights = None,
    threshold: options.Threshold = 0.5,
    min_area: options.MinArea = 0.0,
    simplify: options.Simplify = None,
    coregister: options.Coregister = False,
    bidx: options.Bidx = None,
    bands_after: options.BandsAfter = None,
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
    style: options.Style = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Find what has changed between two scenes, whatever their grids.

    Prints the paths of the results, on the grid and in the CRS of BEFORE. The suffix of an output
    chooses its format: .shp .gpkg .geojson .fgb for polygons, .tif for the mask; -o may be
    repeated, and -o - is GeoJSON.
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
            min_area_m2=min_area,
            style=style,
            overwrite=overwrite,
        ),
        change=ChangeOptions(
            threshold=threshold,
            simplify_m=simplify,
            coregister=coregister,
            bidx_after=options.parse_bands(bands_after),
        ),
    )
    from lemevit_cli.tasks.change import inference as pipeline

    result = pipeline.change(
        before,
        after,
        output or (),
        weights=weights,
        settings=settings,
        progress=Console(quiet=quiet, show_progress=not no_progress),
    )
    to_stdout = "-" in result["paths"]
    if json:
        print_json(result, to_stderr=to_stdout)
    elif not to_stdout:
        for path in result["paths"]:
            typer.echo(path)
    if verbose:
        _summary(result)


def _summary(result: dict[str, Any]) -> None:
    area, shift = result["changed_area_m2"], result["shift"]
    found = "no layer" if result["polygons"] is None else f"{result['polygons']} polygons"
    rows = [
        ["changed", f"{result['changed_share']:.2%}"],
        ["hectares", "-" if area is None else f"{area / 1e4:,.2f}"],
        ["shift, px", "-" if shift is None else f"{shift['dx_px']:+.2f} {shift['dy_px']:+.2f}"],
    ]
    print_table(
        f"{result['before']['path']} and {result['after']['path']}: {found} in "
        f"{result['width']} x {result['height']} pixels, {result['windows']} windows "
        f"({result['windows_skipped']} empty), {result['seconds']['total']:.1f} s, "
        f"{result['peak_memory_mb']:.0f} MB",
        ["", ""],
        rows,
        to_stderr=True,
    )
