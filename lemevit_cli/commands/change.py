"""``lemevit change``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_table
from lemevit_cli.commands.groups import Reporting, Scenes, Spreading, spread_groups
from lemevit_cli.commands.reporting import check_folder, tell_runtime, telling_report
from lemevit_cli.settings import ChangeOptions, OutputOptions


@spread_groups
def change(
    before: Annotated[
        str,
        typer.Argument(
            metavar="BEFORE", help="A raster that GDAL opens; a folder or pattern of such."
        ),
    ],
    after: Annotated[
        str,
        typer.Argument(
            metavar="AFTER",
            help="Another of the same place, on any grid; or a folder of such.",
        ),
    ],
    output: options.Outputs = None,
    weights: options.Weights = None,
    threshold: options.Threshold = 0.5,
    coregister: options.Coregister = False,
    bands_after: options.BandsAfter = None,
    nodata_before: options.NodataBefore = None,
    nodata_after: options.NodataAfter = None,
    *,
    reading: Scenes,
    spreading: Spreading,
    tta: options.Tta = False,
    fuse_tokens: options.FuseTokens = None,
    output_type: options.OutputType = options.OutputTypeName.classes,
    format: options.Format = None,
    co: options.CreationOptions = None,
    style: options.Style = False,
    min_area: options.MinArea = None,
    simplify: options.Simplify = None,
    fill_holes: options.FillHoles = 0.0,
    layer: options.LayerName = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    reporting: Reporting,
) -> None:
    """Find what has changed between two scenes, whatever their grids.

    Prints the paths of the results, on the grid and in the CRS of BEFORE. The suffix of an output
    chooses its format: .shp .gpkg .geojson .fgb for polygons, .tif for the mask; -o may be
    repeated, and -o - is GeoJSON. Without it the result is AFTER_changes.shp here. The scenes of
    two folders are paired by their names; -o results/ takes what changed in each pair.
    """
    settings = reading.settings(
        dry_run=dry_run,
        tta=tta,
        fuse_tokens=fuse_tokens,
        output=OutputOptions(
            format=format,
            output_type=output_type.value,
            creation_options=options.parse_creation_options(co),
            min_area_m2=min_area,
            simplify_m=simplify,
            fill_holes_m2=fill_holes,
            style=style,
            layer=layer,
            overwrite=overwrite,
        ),
        change=ChangeOptions(
            threshold=threshold,
            coregister=coregister,
            bidx_after=options.parse_bands(bands_after),
            nodata_before=nodata_before,
            nodata_after=nodata_after,
        ),
    )
    from lemevit_cli.raster.pairing import pair_scenes
    from lemevit_cli.tasks.change import inference as pipeline

    pairs = pair_scenes(before, after, reporting.console)
    for target in output or ():
        check_folder([first for first, _ in pairs], target)
    with telling_report(
        reporting,
        _summary if verbose else None,
        several=len(pairs) > 1,
        to_stdout="-" in (output or ()) and not dry_run,
    ) as report:
        pipeline.change(
            pairs,
            output or (),
            weights=weights,
            settings=spreading.spread(settings),
            progress=reporting.console,
            report=report,
        )


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
    tell_runtime(result)
