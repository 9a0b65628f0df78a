"""Networks of change put together from their parts, by the arguments in a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import PixelFront, check_backbone, level_norms, make_encoder
from lemevit_cli.models.bit import BIT, LEVELS, BitForm, BitHead
from lemevit_cli.models.difference import (
    Difference,
    DifferenceForm,
    difference_head,
    light_decoder,
)
from lemevit_cli.models.weights import Card

_FINEST = 4  # stride of the first level
_SMALLEST_STRIDE = 16  # that pictures are padded to for BIT
_ONE_KIND = 2  # classes: unchanged and changed
_LARGEST = 4096  # that a width, a depth or a number may be

_FORMS: dict[str, type[BitForm] | type[DifferenceForm]] = {
    "bit": BitForm,
    "difference": DifferenceForm,
}
HEADS = tuple(_FORMS)


def head_defaults(head: str) -> dict[str, Any]:
    """Return all arguments of a head of that name."""
    return asdict(_form(head, None))


def check_head(head: str, head_args: Mapping[str, Any] | None = None) -> None:
    """Refuse a head that there is not, or arguments that it does not take.

    Raises:
        WeightsError: with the names that there are, or the values that fit.
    """
    _form(head, head_args)


def build_change_detector(card: Card, pretrained: bool = False) -> nn.Module:
    """Build the network of a card, untrained.

    Args:
        card: its head is one of ``HEADS``, with fields of :class:`BitForm` or
            :class:`DifferenceForm` that differ from the defaults; the first class is "unchanged".
            Mean and deviation are those of the bands of one date.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm or the head refuses; one line with what fits.
    """
    check_backbone(card.backbone, pretrained=pretrained)
    form = _form(card.head, card.head_args)
    encoder, widths = make_encoder(
        card.backbone, card.backbone_args, bands=card.bands, pretrained=pretrained
    )
    num_classes = len(card.classes)
    signed = num_classes > _ONE_KIND
    if isinstance(form, BitForm):
        stride = max(_SMALLEST_STRIDE, _FINEST << form.level)
        as_they_are = (0.0,) * card.bands, (1.0,) * card.bands
        mean, std = as_they_are if form.raw_pixels else (card.mean, card.std)
        return BIT(
            front=PixelFront(mean, std, stride=stride),
            encoder=encoder,
            head=BitHead(widths[-LEVELS:][form.level], form, num_classes, signed=signed),
            level=form.level,
        )
    return Difference(
        front=PixelFront(card.mean, card.std),
        encoder=encoder,
        feature_norms=level_norms(widths),
        decoder=light_decoder(widths, form),
        head=difference_head(form.channels, num_classes),
        decode_first=form.decode_first,
        signed=signed,
    )


def _form(head: str, head_args: Mapping[str, Any] | None) -> BitForm | DifferenceForm:
    if head not in _FORMS:
        raise WeightsError(f"no change head {head!r}; choose one of {', '.join(HEADS)}")
    form = _FORMS[head]
    defaults = {field.name: field.default for field in fields(form)}
    for name, value in dict(head_args or {}).items():
        if name not in defaults:
            raise WeightsError(
                f"the change head {head!r} has no argument {name!r}; it has {', '.join(defaults)}"
            )
        if (fits := _what_fits(name, value, defaults[name])) is not None:
            raise WeightsError(f"the change head {head!r} takes {fits} as {name}, not {value!r}")
    return form(**dict(head_args or {}))


def _what_fits(name: str, value: object, default: object) -> str | None:
    """Say in words what an argument takes; None if the value is good."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    allowed = range(LEVELS) if name == "level" else range(1, _LARGEST + 1)
    if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
        return None
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"
