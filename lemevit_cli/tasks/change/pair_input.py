"""From two dates and a card to what the model reads: checks, shift, stretch, pixel size, mask."""

from __future__ import annotations

from lemevit_cli.inference.pixel_size import choose_scale
from lemevit_cli.inference.scene_input import Area, SceneInput, area_of
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.bands import check_bands
from lemevit_cli.raster.inspection import value_warnings
from lemevit_cli.raster.radiometry import choose_stretch, tell_stretch
from lemevit_cli.raster.registration import Shift, estimate_shift
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import ReadingOptions

_WORTH_A_WARNING_PX = 1.0


def check_bands_of_dates(pair: ScenePair, card: Card) -> None:
    """Refuse a date whose number of chosen bands is not what the weights want.

    Raises:
        SceneError: naming the date, and the option that chooses its bands.
    """
    check_bands(pair.before, card.bands)
    # -b would choose those of the first date too, and is not asked where this one is given.
    check_bands(pair.after, card.bands, option="--bands-after")


def register_dates(
    pair: ScenePair, *, coregister: bool, progress: Progress
) -> tuple[ScenePair, Shift | None]:
    """Measure how far the dates lie off one another, tell it, and undo it if asked to.

    Returns:
        The pair to go on with (close this one), and the shift that was found before; None if none
        could be measured.

    Raises:
        SceneError: if a file cannot be read.
    """
    shift = estimate_shift(pair)
    if shift is None:
        message = f"{pair.name}: too little matches to measure a shift between them"
        (progress.warn if coregister else progress.note)(message)
        return pair, None
    metres = "" if shift.length_m is None else f" ({shift.length_m:.2f} m)"
    message = (
        f"{pair.after.name} lies {shift.dx_px:+.2f}, {shift.dy_px:+.2f} pixels{metres} off "
        f"{pair.before.name}, to {shift.spread_px:.2f} pixels in {shift.windows} windows"
    )
    if coregister:
        progress.note(f"{message}; it is moved back")
        return pair.shift(dx_px=shift.dx_px, dy_px=shift.dy_px), shift
    if shift.length_px > _WORTH_A_WARNING_PX:
        progress.warn(f"{message}; --coregister moves it back")
    else:
        progress.note(message)
    return pair, shift


def pair_input(
    pair: ScenePair,
    card: Card,
    options: ReadingOptions,
    progress: Progress,
    *,
    area: Area | None = None,
) -> SceneInput:
    """Check two dates against a card, and decide how they are read; tell what was decided.

    Bounds, mask and pixel size are of ``before``; each date is stretched by what it holds of the
    overlap. The area is of the grid of ``before``, and windows outside the overlap cost nothing;
    who has asked for it already hands it on.

    Returns:
        The source; its ``scene`` is the pair with the values of each date stretched (close this
        one), its own ``stretch`` None.

    Raises:
        SceneError: if bands, bounds, mask or pixel size do not fit.
    """
    for scene in (pair.before, pair.after):
        for warning in scene.warnings:
            progress.warn(f"{scene.name}: {warning}")
    check_bands_of_dates(pair, card)
    for warning in pair.warnings:
        progress.warn(f"{pair.name}: {warning}")
    for scene, option, window in (
        (pair.before, "--nodata-before", pair.overlap),
        (pair.after, "--nodata-after", pair.after_overlap),
    ):
        for warning in value_warnings(scene, option=option, window=window):
            progress.warn(f"{scene.name}: {warning}")
    grid = pair.before
    area = area or area_of(grid, options, progress)
    stretches = [
        choose_stretch(
            scene,
            spec=options.stretch,
            dtype=card.dtype,
            value_range=card.value_range,
            window=window,
        )
        for scene, window in ((grid, pair.overlap), (pair.after, pair.after_overlap))
    ]
    for scene, stretch in zip((grid, pair.after), stretches, strict=True):
        tell_stretch(stretch, scene, spec=options.stretch, dtype=card.dtype, progress=progress)
    scale = choose_scale(grid, card, options.gsd)
    scale.tell(grid.name, progress)
    pair = pair.stretch(*stretches)
    view = SceneView(area.of(pair), scale=scale.both, fill=(*card.mean, *card.mean))
    return SceneInput(pair, view, area.window, None, scale)
