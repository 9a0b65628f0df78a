"""Losses of dense predictions, for data that may know only some of the model's classes.

A source's class ``g`` stands for the set ``G`` of the model's classes that it cannot tell apart
(see ``class_groups``). Its score is the sum of theirs; with the logits ``z`` of a pixel::

    log score_g = logsumexp_{c in G}(log_softmax(z)_c)

Every loss here is one of these scores, computed in float32 whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch import Tensor, nn

from lemevit_cli.errors import DataError
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.class_groups import NO_GROUP

AUXILIARY_WEIGHT = 0.4  # as in the paper's recipe; the main head's is 1
_FOCUS = 2.0  # gamma of Lin et al.

Answer = Tensor | tuple[Tensor, Tensor]  # logits, or logits and those of an auxiliary head
Loss = Callable[[Answer, Tensor, Tensor], tuple[Tensor, Tensor]]
_Term = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def make_loss(spec: str, class_weights: Sequence[float] | None = None) -> Loss:
    """Build a loss from names joined by ``+``, whose values are added: ``ce``, ``ce+dice``.

    ``ce``      cross-entropy, ``-log score`` of a pixel's target, times the target's weight.
    ``focal``   ``(1 - score) ** 2 * -log score``: pixels that are right already count less.
    ``dice``    ``1 - 2 sum(score * is_g) / (sum(score) + sum(is_g))``, mean over the classes.
    ``lovasz``  the Lovasz extension of ``1 - IoU``, mean over the classes that are there.

    Dice and Lovasz are of all pixels of a batch whose source knows the same classes. Only the
    cross-entropy has weights; a target that stands for several classes has their mean weight.

    Args:
        class_weights: one a class of the model.

    Returns:
        A function of the model's answer ``(B, C, H, W)`` (or the pair of answers of a model with
        an auxiliary head, which counts 0.4), ids ``(B, H, W)`` and groups ``(B, C)`` as in
        :func:`grouped_cross_entropy`. It answers a sum and the number of targets: their ratio is
        the loss, also when both are summed over several processes. Dice and Lovasz, which are no
        sums over pixels, enter as their value times the number of targets.

    Raises:
        DataError: if a name is unknown.
    """
    names = [name.strip() for name in spec.lower().split("+")]
    unknown = [name for name in names if name not in _TERMS]
    if unknown:
        raise DataError(
            f"no loss {unknown[0]!r} (of {spec!r}); join with + any of {', '.join(_TERMS)}"
        )

    def loss(answer: Answer, ids: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        answers = answer if isinstance(answer, tuple) else (answer,)
        weights = None
        if class_weights is not None:
            weights = torch.tensor(class_weights, device=ids.device, dtype=torch.float32)
        with torch.autocast(ids.device.type, enabled=False):
            total = ids.new_zeros((), dtype=torch.float32)
            for logits, share in zip(answers, (1.0, AUXILIARY_WEIGHT), strict=False):
                for name in names:
                    total = total + share * _TERMS[name](logits.float(), ids, groups, weights)
        return total, _is_target(ids, groups).sum()

    return loss


def weigh_classes(
    text: str, classes: Sequence[str], counts: Sequence[int], *, loss: str = "ce"
) -> tuple[float, ...] | None:
    """Weigh the classes: of ``none`` None, of ``balanced`` or ``name=2,other=0.5`` a tuple.

    Balanced weights go by the inverse square root of a class's share ``f`` of the labelled pixels,
    and their mean over these pixels is 1::

        w_c = f_c ** -0.5 / sum_k f_k ** 0.5

    Classes that are not named, or have no pixel, weigh 1.

    Args:
        counts: labelled pixels of each class.
        loss: that they are for, as of :func:`make_loss`.

    Raises:
        DataError: if a name is no class, a weight no number from 0 on, or no term of the loss has
            weights.
    """
    if text == "none":
        return None
    if "ce" not in [name.strip() for name in loss.lower().split("+")]:
        raise DataError(f"class weights {text!r}: only ce has them, the loss is {loss}; add +ce")
    if text == "balanced":
        mean_root = sum(sqrt(count) for count in counts)
        return tuple(sum(counts) / sqrt(n) / mean_root if n else 1.0 for n in counts)
    weights = dict.fromkeys(classes, 1.0)
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in weights:
            raise DataError(f"class weights {text!r}: no class {name!r} in {', '.join(classes)}")
        if not _is_weight(value):
            raise DataError(
                f"class weights {text!r}: {value!r} is no number from 0 on; "
                "write none, balanced, or name=2,other=0.5"
            )
        weights[name] = float(value)
    return tuple(weights.values())


def _is_weight(text: str) -> bool:
    try:
        return 0.0 <= float(text) < float("inf")
    except ValueError:
        return False


def grouped_cross_entropy(
    logits: Tensor, ids: Tensor, groups: Tensor, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum cross-entropy where a target may mean several classes that its source cannot tell apart.

    With the logits ``z`` of a pixel and the set ``G`` of the model's classes that its target
    stands for::

        loss = -log sum_{c in G} softmax(z)_c = logsumexp_c(z_c) - logsumexp_{c in G}(z_c)

    which is plain cross-entropy where ``G`` has one class, and zero where it has all: an ignored
    pixel is one that tells nothing apart.

    Args:
        logits: ``(B, C, H, W)``.
        ids: ``(B, H, W)``, class ids of the source, ``NODATA_CLASS`` where ignored.
        groups: ``(B, C)``, for every class of the model the source's class that it belongs to.
        class_weights: ``(C,)``; a target has the mean weight of its classes.

    Returns:
        Sum over the pixels that are not ignored, and their number.
    """
    counted = _is_target(ids, groups)
    surprise = _surprise(logits, ids, groups)[counted]
    if class_weights is not None:
        surprise = surprise * _target_weights(ids, groups, class_weights)[counted]
    return surprise.sum(), counted.sum()


def _is_target(ids: Tensor, groups: Tensor) -> Tensor:
    """Mark where an id teaches something: it is not ignored, and the model has a class for it."""
    known = (groups[:, :, None, None] == ids[:, None]).any(dim=1)
    return known & (ids != NODATA_CLASS)


def _surprise(logits: Tensor, ids: Tensor, groups: Tensor) -> Tensor:
    """Return ``-log score`` of every pixel's target, ``(B, H, W)``; 0 where there is none."""
    log_scores = torch.log_softmax(logits.float(), dim=1)
    belongs = groups[:, :, None, None] == ids[:, None]  # (B, C, H, W)
    # Without a target all classes belong: the gradient of an empty set would be NaN.
    belongs = belongs | ~_is_target(ids, groups)[:, None]
    return -log_scores.masked_fill(~belongs, float("-inf")).logsumexp(dim=1)


def _target_weights(ids: Tensor, groups: Tensor, class_weights: Tensor) -> Tensor:
    """Average the weights of the classes that each pixel's target stands for."""
    all_ids = torch.arange(NODATA_CLASS + 1, device=ids.device)
    belongs = groups[:, :, None] == all_ids  # (B, C, 256)
    sums = (class_weights[:, None] * belongs).sum(dim=1)
    means = sums / belongs.sum(dim=1).clamp(min=1)  # (B, 256)
    return means.gather(1, ids.flatten(1).long()).view(ids.shape)


def _cross_entropy(logits: Tensor, ids: Tensor, groups: Tensor, weights: Tensor | None) -> Tensor:
    return grouped_cross_entropy(logits, ids, groups, weights)[0]


def _focal(logits: Tensor, ids: Tensor, groups: Tensor, weights: Tensor | None) -> Tensor:
    # Not the library's: it has a sigmoid for each class, our scores come from one softmax.
    surprise = _surprise(logits, ids, groups)[_is_target(ids, groups)]
    return ((-torch.expm1(-surprise)).clamp(min=0.0) ** _FOCUS * surprise).sum()


def _of_regions(region_loss: nn.Module) -> _Term:
    """Make a term of a library's loss that sees all pixels at once, times the number of targets."""

    def term(logits: Tensor, ids: Tensor, groups: Tensor, weights: Tensor | None) -> Tensor:
        total = logits.sum() * 0.0
        for group in groups.unique(dim=0):
            alike = (groups == group).all(dim=1)
            merged, targets = _merge_classes(logits[alike], ids[alike], group)
            count = (targets != NODATA_CLASS).sum()
            if count:
                total = total + region_loss(merged, targets) * count
        return total

    return term


def _merge_classes(logits: Tensor, ids: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and ids of a source's own classes, whose softmax is the sum of the scores.

    Returns:
        ``(B, G, H, W)``, where classes that the source never names are one more group at the end,
        and ``(B, H, W)`` counted from 0.
    """
    log_scores = torch.log_softmax(logits, dim=1)
    named = group[group >= 0].unique()
    parts = [log_scores[:, group == g].logsumexp(dim=1) for g in named]
    if (group < 0).any():
        parts.append(log_scores[:, group < 0].logsumexp(dim=1))
    numbers = torch.full((NODATA_CLASS + 1,), NODATA_CLASS, device=ids.device)
    numbers[named] = torch.arange(len(named), device=ids.device)
    numbers[NODATA_CLASS] = NODATA_CLASS
    return torch.stack(parts, dim=1), numbers[ids.long()]


_TERMS: dict[str, _Term] = {
    "ce": _cross_entropy,
    "dice": _of_regions(DiceLoss("multiclass", ignore_index=NODATA_CLASS)),
    "lovasz": _of_regions(LovaszLoss("multiclass", ignore_index=NODATA_CLASS)),
    "focal": _focal,
}


def own_ids(ids: Tensor, groups: Tensor, *, several: int = NODATA_CLASS) -> Tensor:
    """Return a source's class ids as the model's.

    Args:
        ids: ``(H, W)``, of the source.
        groups: ``(C,)``, the source's class of every class of the model.
        several: given to ids that stand for several classes; those that stand for none, and
            ``NODATA_CLASS``, become ``NODATA_CLASS``.
    """
    table = torch.full((NODATA_CLASS + 1,), NODATA_CLASS)
    members, counts = groups.unique(return_counts=True)
    for member, count in zip(members.tolist(), counts.tolist(), strict=True):
        if member != NO_GROUP:
            table[member] = int((groups == member).nonzero()) if count == 1 else several
    return table[ids.long()]
