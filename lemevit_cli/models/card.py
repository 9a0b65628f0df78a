"""The card of weights: what they expect, what they answer, and what can be said of them.

A card comes from strangers as its weights do. It is held to its contract in one place, when it is
read: types, ranges, finite numbers, lengths that agree, names that can be shown, and no argument
that would make a library open files or build what no memory holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from math import inf
from textwrap import shorten
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import LONGEST_NAME, MAX_CLASSES, ClassInfo, is_class_name

FORMAT_VERSION = 1
_LONGEST = 10_000_000  # characters of a card
_LARGEST = 4096  # of a network's widths
_LARGEST_OF = {"num_classes": 30_000, "depths": 64}
_LARGEST_WINDOW = 16_384
_LARGEST_FLOAT = 1e30  # what fp32 still multiplies
_MOST_NUMBERS = 16
_MOST_BANDS = 10_000
_MOST_OF_BACKBONE = 30_000  # classes of ImageNet, which no raster is to hold
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_LATER = ("fuse_threshold", "class_scores")  # left out where None: earlier versions read the card
# What training and import write: LeMeViT's own, and what timm's networks share.
_BACKBONE_ARGS = (
    *("embed_dims", "depths", "head_dim", "num_meta_tokens", "num_classes", "in_chans"),
    *("global_pool", "drop_path_rate", "drop_rate", "merge_tokens", "fuse_tokens", "img_size"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What weights expect and what they answer.

    Args:
        task: name in ``TASKS`` (``seg``), or ``backbone`` for an imported backbone without a task.
        backbone: timm name, with the arguments that made it.
        head: the head's name (for ``seg`` a decoder of segmentation-models-pytorch), likewise.
        classes: in the order of the logits.
        bands: number of input bands.
        dtype: numpy name of the rasters it learned from; others are stretched unless
            their numbers lie in ``value_range``.
        value_range: the values of ``dtype`` that it saw, lowest and highest.
        mean, std: per band, in the same values; applied inside the model.
        gsd_m: smallest and largest ground sample distance it learned, None if unknown.
        window, overlap: in pixels, the tiling that suits it.
        fuse_threshold: cosine from which tokens are alike to ``--fuse-tokens auto``; None where it
            was never calibrated. A card without it says nothing of it.
        class_scores: of a detector, the score from which on a box of each class counts by default;
            None where they were never chosen, and a card without them says nothing of it.
        training: data with licences, steps, recipe: for people.
        metrics: each with the command that measured it.
    """

    task: str
    backbone: str
    backbone_args: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    head_args: dict[str, Any] = field(default_factory=dict)
    classes: tuple[ClassInfo, ...]
    bands: int = 3
    dtype: str = "uint8"
    value_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    gsd_m: tuple[float, float] | None = None
    window: int = 512
    overlap: int = 64
    fuse_threshold: float | None = None
    class_scores: tuple[float, ...] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def to_json(self) -> str:
        fields = asdict(self)
        for name in _LATER:
            if fields[name] is None:
                del fields[name]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what :meth:`to_json` wrote, by whomever: nothing in it is believed unseen.

        Fields of later versions are refused, not ignored.

        Raises:
            WeightsError: naming the field, what it holds, and what fits; without the file's name.
        """
        raw = _parse(text)
        version = raw.get("format_version", 0)
        _require(_is_whole(version, 0, 2**31), "format_version", version, "a whole number")
        if version > FORMAT_VERSION:
            raise WeightsError(
                f"its card has format version {version}, this program reads up to "
                f"{FORMAT_VERSION}; update lemevit"
            )
        known = {of.name: of for of in fields(cls)}
        for name in raw:
            _require(name in known, "fields", name, f"any of {', '.join(known)}")
        for name, of in known.items():
            is_optional = of.default is not MISSING or of.default_factory is not MISSING
            _require(name in raw or is_optional, "fields", list(raw), f"with {name}")
        given = {name: _default(of) for name, of in known.items()} | raw
        _check_names(given)
        _check_arguments(given)
        _check_pixels(given)
        _check_windows(given)
        _check_thresholds(given)
        _check_records(given)
        return cls(**raw | _as_tuples(given))


def check_readable(card: Card) -> None:
    """Refuse a card that no program could read again, before weights are made for it.

    Raises:
        WeightsError: with what is wrong with it, such as the name of a class.
    """
    try:
        Card.from_json(card.to_json())
    except WeightsError as error:
        raise WeightsError(f"the weights could not be read again: {error}") from error


def _parse(text: str) -> dict[str, Any]:
    _require(len(text) <= _LONGEST, "length", len(text), f"up to {_LONGEST:,} characters")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its card is no JSON that can be read ({error})") from error
    _require(isinstance(raw, dict), "whole", raw, "an object")
    return dict(raw)


def _default(of: Field[Any]) -> Any:
    if of.default_factory is not MISSING:
        return of.default_factory()
    return None if of.default is MISSING else of.default


def _check_names(card: Mapping[str, Any]) -> None:
    for name in ("task", "backbone", "head"):
        value = card[name]
        is_name = isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()
        _require(is_name, name, value, "a name")
    # timm takes models of other places, and files, behind a colon.
    _require(":" not in card["backbone"], "backbone", card["backbone"], "a name of timm or ours")
    classes = card["classes"]
    most = _MOST_OF_BACKBONE if card["task"] == "backbone" else MAX_CLASSES
    _require(_is_list(classes, most), "classes", classes, f"a list of up to {most}")
    for entry in classes:
        is_entry = isinstance(entry, dict) and entry.keys() == {"name", "color"}
        _require(is_entry, "classes", entry, "a name and a color each")
        _check_class_name(entry["name"])
        color = entry["color"]
        is_rgb = _is_list(color, 3, 3) and all(_is_whole(value, 0, 255) for value in color)
        _require(is_rgb, "color of a class", color, "three whole numbers from 0 to 255")
    names = [entry["name"] for entry in classes]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    _require(twice is None, "classes", twice, "named once each")


def _check_class_name(name: object) -> None:
    # One that steers a terminal, or is empty, could not be shown.
    fits = f"1 to {LONGEST_NAME} characters that can be printed"
    _require(is_class_name(name), "name of a class", name, fits)


def _check_arguments(card: Mapping[str, Any]) -> None:
    """Hold what the parts of the network are made with to what a card may say.

    What the head takes is the head's to know; here its values are bounded. A backbone takes what is
    named, for timm takes anything: with ``checkpoint_path`` it would open any file.
    """
    for name in ("backbone_args", "head_args"):
        arguments = card[name]
        _require(isinstance(arguments, dict), name, arguments, "an object")
        for key, value in arguments.items():
            most = _LARGEST_OF.get(key, _LARGEST)
            fits = f"a name, a number up to {most}, or a short list of such"
            _require(_is_argument(value, most), f"{name}: {key}", value, fits)
    for key in card["backbone_args"]:
        _require(key in _BACKBONE_ARGS, "backbone_args", key, f"of {', '.join(_BACKBONE_ARGS)}")


def _is_argument(value: object, most: int) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST_NUMBERS and all(_is_whole(v, 0, most) for v in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_NAME and value.isprintable()
    return value is None or isinstance(value, bool) or _is_number(value, -most, most)


def _check_pixels(card: Mapping[str, Any]) -> None:
    bands = card["bands"]
    _require(_is_whole(bands, 1, _MOST_BANDS), "bands", bands, f"from 1 to {_MOST_BANDS}")
    _require(card["dtype"] in _DTYPES, "dtype", card["dtype"], f"one of {', '.join(_DTYPES)}")
    low_high = card["value_range"]
    _require(_is_rising(low_high), "value_range", low_high, "two rising numbers")
    for name in ("mean", "std"):
        values = card[name]
        fits = _is_list(values, bands, bands) and all(_is_number(value) for value in values)
        _require(fits, name, values, f"a finite number for each of {bands} bands")
    is_positive = all(value > 0 for value in card["std"])
    _require(is_positive, "std", card["std"], "above 0")
    gsd = card["gsd_m"]
    is_gsd = gsd is None or (_is_rising(gsd, equal=True) and gsd[0] > 0)
    _require(is_gsd, "gsd_m", gsd, "null, or two numbers above 0, the smaller one first")


def _check_windows(card: Mapping[str, Any]) -> None:
    window, overlap = card["window"], card["overlap"]
    fits = f"a whole number from 1 to {_LARGEST_WINDOW}"
    _require(_is_whole(window, 1, _LARGEST_WINDOW), "window", window, fits)
    _require(_is_whole(overlap, 0, window - 1), "overlap", overlap, "smaller than the window")


def _check_thresholds(card: Mapping[str, Any]) -> None:
    threshold = card["fuse_threshold"]
    is_cosine = threshold is None or _is_number(threshold, -1, 1)
    _require(is_cosine, "fuse_threshold", threshold, "a number from -1 to 1")
    scores, number = card["class_scores"], len(card["classes"])
    are_scores = _is_list(scores, number, number) and all(_is_number(v, 0, 1) for v in scores)
    fits = "null, or a number from 0 to 1 for each class"
    _require(scores is None or are_scores, "class_scores", scores, fits)


def _check_records(card: Mapping[str, Any]) -> None:
    training, metrics = card["training"], card["metrics"]
    _require(isinstance(training, dict), "training", training, "an object")
    is_list = isinstance(metrics, (list, tuple)) and all(isinstance(m, dict) for m in metrics)
    _require(is_list, "metrics", metrics, "a list of objects")


def _as_tuples(card: Mapping[str, Any]) -> dict[str, Any]:
    classes = (ClassInfo(entry["name"], tuple(entry["color"])) for entry in card["classes"])
    names = ("value_range", "mean", "std", "metrics")
    return {
        "classes": tuple(classes),
        **{
            name: None if card[name] is None else tuple(card[name])
            for name in ("gsd_m", "class_scores")
        },
        **{name: tuple(card[name]) for name in names},
    }


def _is_list(value: object, most: int, least: int = 0) -> bool:
    return isinstance(value, (list, tuple)) and least <= len(value) <= most


def _is_whole(value: object, low: float, high: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float = -inf, high: float = inf) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST_FLOAT and low <= value <= high


def _is_rising(value: Any, *, equal: bool = False) -> bool:
    if not (_is_list(value, 2, 2) and all(_is_number(v) for v in value)):
        return False
    return bool(value[0] < value[1] or (equal and value[0] == value[1]))


def _require(is_good: bool, name: str, value: object, fits: str) -> None:
    if not is_good:
        shown = shorten(ascii(value), LONGEST_NAME, placeholder="...")
        raise WeightsError(f"its card's {name}: {shown} is not {fits}")
