"""Pixel sizes: what a scene has, what the weights learned, what the model gets to see.

One rule for all commands: within the range of the card nothing is resampled, else a scene is read
at the nearest end of it, and what that means is told in words. Enlarging costs as the square of its
factor and shows nothing new; shrinking reads all that lies under a window. Both have a limit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import Scene

MOST_ENLARGED = 4.0  # times a side of a pixel may be cut
MOST_SHRUNK = 128.0  # pixels that may lie beside one another under one of the model's
_NEARLY_SQUARE = 1.1  # sides that differ by less are left alone
_SAME = 1e-3  # sizes that differ by a lesser share are one
_FAR_OUTSIDE = 2.0  # times beyond the card's pixel sizes: the answer deserves a warning


@dataclass(frozen=True)
class PixelScale:
    """Decision on the pixel size that the model sees.

    Args:
        along_row, along_col: model pixels per scene pixel.
        note: what a user should know of it, None where nothing is to be said.
        is_far: the model sees pixels of a size that the weights hardly know.
    """

    along_row: float = 1.0
    along_col: float = 1.0
    note: str | None = None
    is_far: bool = False

    @property
    def both(self) -> tuple[float, float]:
        """Return the scale along rows and along columns."""
        return self.along_row, self.along_col

    def tell(self, name: str, progress: Progress) -> None:
        """Tell the note, as a warning where it is one."""
        if self.note is not None:
            (progress.warn if self.is_far else progress.note)(f"{name}: {self.note}")


def choose_scale(scene: Scene, card: Card, spec: str) -> PixelScale:
    """Decide what pixel size a scene is read at.

    ``auto``: its own within the card's range, else the nearest end of that; pixels that are no
    squares on the ground, as those in degrees, become squares. ``native``: its own. Or metres.

    Raises:
        LemevitError: if ``spec`` is none of these.
        SceneError: if metres are asked of a scene that is not tied to the earth, or its pixels
            would be enlarged or shrunk beyond the limits.
    """
    check_gsd(spec)
    own, sides = scene.gsd_m, scene.pixel_sides_m
    if own is None or sides is None:
        if spec not in ("auto", "native"):
            raise SceneError(
                f"{scene.name}: its pixels have no size on the ground, so --gsd {spec} means "
                "nothing; state its CRS by --src-crs, or use --gsd native"
            )
        return PixelScale()
    seen = _seen(own, card.gsd_m, spec)
    are_squares = max(sides) < _NEARLY_SQUARE * min(sides)
    text = _metres(own) if are_squares else f"{_number(sides[0])} x {_metres(sides[1])}"
    if seen is None or (are_squares and abs(own / seen - 1.0) < _SAME):
        if card.gsd_m is not None and _is_within(own, card.gsd_m):
            return PixelScale()
        note, is_far = _remark(f"pixels of {text} are read as they are", own, own, card)
        return PixelScale(1.0, 1.0, note, is_far)
    scales = (own / seen, own / seen) if are_squares else (sides[0] / seen, sides[1] / seen)
    _refuse_beyond_limits(scene, card, f"pixels of {text} read at {_metres(seen)}", scales)
    note, is_far = _remark(f"pixels of {text} are read at {_metres(seen)}", own, seen, card)
    return PixelScale(*scales, note, is_far)


def check_gsd(spec: str) -> None:
    """Refuse a malformed ``--gsd``.

    Raises:
        LemevitError: naming the value and the forms that are understood.
    """
    if spec in ("auto", "native"):
        return
    if not re.fullmatch(r"\d*\.?\d+(e-?\d+)?", spec) or not 0 < float(spec) < math.inf:
        raise LemevitError(f"--gsd {spec}: use auto, native, or metres such as 0.5")


def describe_known(card: Card) -> str:
    """Say in words what pixel sizes weights learned."""
    if card.gsd_m is None:
        return "the weights do not say what pixel sizes they learned"
    low, high = card.gsd_m
    sizes = _metres(low) if low == high else f"{_number(low)} to {_metres(high)}"
    return f"the weights learned {sizes}"


def _seen(own: float, known: tuple[float, float] | None, spec: str) -> float | None:
    """Return the pixel size that the model is to see; None for the scene's own."""
    if spec == "native" or (spec == "auto" and known is None):
        return None
    if spec == "auto" and known is not None:
        return min(max(own, known[0]), known[1])
    return float(spec)


def _is_within(size: float, known: tuple[float, float]) -> bool:
    return known[0] * (1 - _SAME) <= size <= known[1] * (1 + _SAME)


def _remark(reading: str, own: float, seen: float, card: Card) -> tuple[str, bool]:
    """Say how pixels are read beside what the weights know, and whether that is far from it."""
    if card.gsd_m is not None:
        low, high = card.gsd_m
        # What is enlarged stays as coarse as it was.
        for word, times in (("coarser", max(own, seen) / high), ("finer", low / seen)):
            if times > _FAR_OUTSIDE:
                return (
                    f"{reading}; {describe_known(card)}, and these are far {word}: expect little "
                    "of the result",
                    True,
                )
    return f"{reading}; {describe_known(card)}", False


def _refuse_beyond_limits(
    scene: Scene, card: Card, reading: str, scales: tuple[float, float]
) -> None:
    largest, smallest = max(scales), min(scales)
    if largest <= MOST_ENLARGED * (1 + _SAME) and smallest * MOST_SHRUNK >= 1 - _SAME:
        return
    if largest > MOST_ENLARGED:
        how, most = f"enlarged {_number(largest)} times", MOST_ENLARGED
        way_out = "take weights that know such pixels"
    else:
        how, most = f"shrunk {_number(1 / smallest)} times", MOST_SHRUNK
        way_out = "shrink it first (gdalwarp -r average -tr)"
    width, height = (
        max(1, round(size * scale))
        for size, scale in zip((scene.width, scene.height), scales, strict=True)
    )
    raise SceneError(
        f"{scene.name}: its {reading} would be {width:,} x {height:,} pixels (it has "
        f"{scene.width:,} x {scene.height:,}), a side {how} where {most:g} times is the most; "
        f"{describe_known(card)}: {way_out}, or use --gsd native, which shows the model the "
        "scene's own pixels as if they were of a size that it knows"
    )


def _metres(size: float) -> str:
    return f"{_number(size)} m"


def _number(value: float) -> str:
    """Write a number with three digits that count, none of them as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
