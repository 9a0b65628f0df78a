"""MCTF: a vision transformer whose blocks fuse tokens that are alike, say little and stand for few.

Paper: Lee et al., "Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision
Transformers", CVPR 2024, arXiv 2403.10030.
Original code: mlvlab/MCTF @2004da0, its core file for non-commercial use only. This file is written
from a description of what that code computes, not from the code, and reproduces its numbers
(tests/models/test_token_fusion.py).

    tokens -> which pairs fuse, by three criteria -> weighted means of them -> fewer tokens
    attention of all tokens -----------------------> summed over the same groups -> reads the fewer

Letters: B images, T tokens and S after fusing, P of them prefix tokens (class, registers), which
never fuse, H heads, C channels. A *group* is an index ``(B, T)``: the new token, 0 to S - 1, that
an old one becomes part of. Everything is summed by it.

Deviations from the original, none of which changes a number where it runs:
- Groups are summed by ``index_add`` instead of gathered and scattered pair by pair.
- Any number of prefix tokens is kept, registers too, or none; the original knows a class token.
- Where the head reads all tokens (mean, attention pooling), each fused token is put back to every
  place it stands for: the head sees as many tokens as before, and a mean is weighted by size.
- Nine patch tokens always stay; at or below that no token fuses (the original fails at 9 tokens).
- Tokens of equal score fuse in the order of their index; one of zeros is at right angles to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError

FEWEST_PATCHES = 9
# Of training: the teacher fuses fewer than so many tokens a block; the weight of the consistency;
# how sure of its class the student must be to be held to the teacher.
TEACHER_FUSES_BELOW = 8
CONSISTENCY_WEIGHT = 3.0
SURE_ABOVE = 0.4
_TINY = 1e-12


# --- What is asked for -------------------------------------------------------------------------


@dataclass(frozen=True)
class FusionOptions:
    """How tokens fuse; the defaults are the paper's.

    Args:
        r: tokens that a block fuses; below 1 their share of the patch tokens; 0 leaves the network
            as it is.
        blocks: the blocks that fuse, from 0; None is all but the first.
        tau_similarity, tau_information, tau_size: temperatures: a criterion enters as its
            ``1 / tau``-th power; 0 leaves it out.
        bidirectional: half of the tokens fuse into their neighbours, then half of these back.
        pooling: a token's weight in its group (``POOLINGS``): ``attention`` it gets times its
            ``size``; ``size``; the same for all, ``mean``; or of each channel the ``max``.
        attention: what reads the fused tokens (``ATTENTIONS``): the block's own attention, fused
            one step ``ahead``; a ``precise`` one, computed anew; or the next block's, ``after``.
    """

    r: float = 16
    blocks: tuple[int, ...] | None = None
    tau_similarity: float = 1
    tau_information: float = 20
    tau_size: float = 40
    bidirectional: bool = True
    pooling: str = "attention"
    attention: str = "ahead"

    def __post_init__(self) -> None:
        if self.r < 0 or (self.r > 1 and self.r != int(self.r)):
            raise ValueError(f"r={self.r}: a number of tokens, or a share of them below 1")
        if self.pooling not in POOLINGS or self.attention not in ATTENTIONS:
            raise ValueError(
                f"pooling {self.pooling!r}, attention {self.attention!r}: not of "
                f"{', '.join(POOLINGS)}; {', '.join(ATTENTIONS)}"
            )


def parse_fusion(text: str) -> FusionOptions:
    """Read ``r=16`` (tokens a block) or ``ratio=0.35@3,6,9`` (a share, and in which blocks).

    Raises:
        WeightsError: if the text is neither.
    """
    amount, _, blocks = text.replace(" ", "").partition("@")
    name, _, number = amount.partition("=")
    try:
        r = {"r": int, "ratio": float}[name](number)
        if name == "ratio" and not 0 <= r < 1:
            raise ValueError(f"{r} is no share")
        chosen = tuple(int(block) for block in blocks.split(",")) if blocks else None
        return FusionOptions(r=r, blocks=chosen)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{text!r} is no fusion of tokens; write r=16, or ratio=0.35@3,6,9 for a share of them "
            "in some blocks"
        ) from error


# --- Which tokens fuse -------------------------------------------------------------------------


def attractiveness(
    x: Tensor, information: Tensor, size: Tensor, options: FusionOptions, prefix: int
) -> Tensor:
    """Score every pair that may fuse: high where both are alike, uninformative and small.

    Args:
        x: ``(B, T, C)``.
        information: ``(B, T)``, attention that a token gets, mean over heads and queries.
        size: ``(B, T)``, patches that a token stands for.

    Returns:
        ``(B, len(A), len(B))``: tokens at even places by tokens at odd ones, prefix left out.
    """
    a, b = _sides(x.shape[1], prefix)
    # Logarithms of the inverse over its maximum in the image, times 1 / tau; of a power, torch's
    # last digit would depend on where in the batch an image stands.
    factor = torch.zeros_like(size)  # (B, T)
    for value, tau in ((information, options.tau_information), (size, options.tau_size)):
        if tau:
            logarithm = value.clamp_min(_TINY).log()
            factor = factor + (logarithm.amin(1, keepdim=True) - logarithm) / tau
    factor = _round(factor.exp())
    score = factor[:, a, None] * factor[:, None, b]  # (B, len(A), len(B))
    if options.tau_similarity:
        direction = F.normalize(x.float(), dim=-1, eps=_TINY)
        similarity = _round((direction[:, a] @ direction[:, b].transpose(1, 2) + 1) / 2)
        # Rounding may pass -1, whose power would be NaN.
        score = score * similarity.clamp_min(0) ** (1 / options.tau_similarity)
    return score


def _round(value: Tensor) -> Tensor:
    """Round to a millionth, far above float32's noise: tokens that are equal get equal scores."""
    return (value * 2**20).round() / 2**20


def match(score: Tensor, r: int, *, prefix: int, bidirectional: bool = True) -> Tensor:
    """Choose ``r`` tokens that fuse into others.

    Half of them are of A: those with the best score fuse into their best of B. Then as many of B,
    what they took with them, into their best of those of A that are left. The new order is:
    prefix, A by place, B by falling score; it decides who faces whom next time.

    Args:
        score: ``(B, len(A), len(B))`` of :func:`attractiveness`.

    Returns:
        The group ``(B, T)``.
    """
    from_a = r // 2 if bidirectional else r
    batch, length_a, length_b = score.shape
    best, target_a = score.max(dim=2)  # (B, len(A)); of equal ones the first
    order = best.argsort(dim=1, descending=True, stable=True)
    fused_a, kept_a = order[:, :from_a], order[:, from_a:].sort(dim=1).values
    target_b = order = torch.arange(length_b, device=score.device).expand(batch, -1)
    if bidirectional:
        left = score.scatter(1, fused_a[:, :, None].expand(-1, -1, length_b), -torch.inf)
        best, target_b = left.max(dim=1)  # (B, len(B))
        order = best.argsort(dim=1, descending=True, stable=True)
    fused_b, kept_b = order[:, : r - from_a], order[:, r - from_a :]

    places = torch.arange(prefix + length_a + length_b - r, device=score.device)
    places = places.expand(batch, -1)
    split = prefix + length_a - from_a
    group_a = torch.zeros_like(target_a).scatter_(1, kept_a, places[:, prefix:split])
    group_b = torch.zeros_like(target_b).scatter_(1, kept_b, places[:, split:])
    group_b.scatter_(1, fused_b, group_a.gather(1, target_b.gather(1, fused_b)))
    group_a.scatter_(1, fused_a, group_b.gather(1, target_a.gather(1, fused_a)))

    group = places.new_empty(batch, prefix + length_a + length_b)
    a, b = _sides(group.shape[1], prefix)
    group[:, :prefix], group[:, a], group[:, b] = places[:, :prefix], group_a, group_b
    return group


def _sides(tokens: int, prefix: int) -> tuple[slice, slice]:
    """Even and odd places from the prefix on."""
    odd = prefix % 2
    return slice(prefix + odd, tokens, 2), slice(prefix + 1 - odd, tokens, 2)


def tokens_to_fuse(tokens: int, r: float, prefix: int) -> int:
    """Bound ``r`` by what can fuse: half of the patch tokens, and never the last nine."""
    patches = tokens - prefix
    wanted = int(patches * r) if r < 1 else int(r)
    return max(min(wanted, patches // 2, patches - FEWEST_PATCHES), 0)


# --- Fusing ------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """Tokens and what they stand for.

    Args:
        x: ``(B, T, C)``.
        size: ``(B, T)``, patches that each stands for; None before any has fused.
        origin: ``(B, T at the start)``, the token that each of the first became part of; or None.
    """

    x: Tensor
    size: Tensor | None = None
    origin: Tensor | None = None


@dataclass(frozen=True)
class Groups:
    """What becomes one.

    Args:
        index: ``(B, T)``, the group of each token.
        count: S, number of groups.
        share: ``(B, T)``, a token's weight in its group, 1 in all; None where the largest counts.
    """

    index: Tensor
    count: int
    share: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sum ``(B, T, ...)`` over each group: ``(B, S, ...)``."""
        batch = len(values)
        first = self.count * torch.arange(batch, device=values.device)
        rows = (self.index + first[:, None]).flatten()
        sums = values.new_zeros(batch * self.count, *values.shape[2:])
        return sums.index_add_(0, rows, values.flatten(0, 1)).unflatten(0, (batch, self.count))

    def sum_columns(self, values: Tensor) -> Tensor:
        """Sum ``(B, H, Q, T)`` over each group of columns: ``(B, H, Q, S)``."""
        sums = values.new_zeros(*values.shape[:3], self.count)
        return sums.scatter_add_(3, self.index[:, None, None, :].expand_as(values), values)

    def pool(self, values: Tensor) -> Tensor:
        """Make one of the ``(B, T, C)`` of each group: ``(B, S, C)``."""
        if self.share is not None:
            return self.sum(values * self.share[:, :, None].to(values))
        lowest = values.new_full((len(values), self.count, values.shape[2]), -torch.inf)
        return lowest.scatter_reduce(1, self.index[:, :, None].expand_as(values), values, "amax")

    def of_heads(self, heads: int) -> Groups:
        """Repeat the groups of an image for each of its heads: ``(B * H, T)``."""
        share = None if self.share is None else self.share.repeat_interleave(heads, 0)
        return Groups(self.index.repeat_interleave(heads, 0), self.count, share)


# A token's weight in its group, of its attention and its size; the paper's numbers are 1, 0, 3, 2.
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "attention": lambda information, size: information * size,
    "size": lambda information, size: size,
    "mean": lambda information, size: torch.ones_like(size),
    "max": None,
}


def fuse(
    tokens: Tokens, attention: Tensor, r: int, options: FusionOptions, prefix: int
) -> tuple[Tokens, Tensor]:
    """Fuse ``r`` tokens, and the attention's keys and queries with them.

    Args:
        attention: ``(B, H, T, T)``, queries by keys.

    Returns:
        The tokens, and the attention ``(B, H, S, S)``: summed over the keys of a group, then pooled
        over its queries. Its rows still sum to 1, save where the largest counts.
    """
    size = tokens.size
    if size is None:
        size = tokens.x.new_ones(tokens.x.shape[:2], dtype=torch.float32)
    groups = plan_groups(tokens.x, attention, size, r, options, prefix)
    origin = groups.index if tokens.origin is None else groups.index.gather(1, tokens.origin)
    heads = attention.shape[1]
    columns = groups.sum_columns(attention).flatten(0, 1)  # (B * H, T, S)
    attention = groups.of_heads(heads).pool(columns).unflatten(0, (-1, heads))
    return Tokens(groups.pool(tokens.x), groups.sum(size), origin), attention


@torch.no_grad()
def plan_groups(
    x: Tensor, attention: Tensor, size: Tensor, r: int, options: FusionOptions, prefix: int
) -> Groups:
    """Choose what fuses, and with which weights: constants, through which nothing learns.

    Args:
        x: ``(B, T, C)``.
        attention: ``(B, H, T, T)``.
        size: ``(B, T)``.
    """
    information = attention.float().mean(dim=(1, 2))  # (B, T)
    score = attractiveness(x, information, size, options, prefix)
    index = match(score, r, prefix=prefix, bidirectional=options.bidirectional)
    groups = Groups(index, index.shape[1] - r)
    weigh = POOLINGS[options.pooling]
    if weigh is None:
        return groups
    weight = weigh(information, size).clamp_min(_TINY)
    return replace(groups, share=weight / groups.sum(weight).gather(1, index))


# --- Blocks ------------------------------------------------------------------------------------


class FusingBlocks(nn.Module):
    """Take the place of a vision transformer's blocks, whose parameters and names stay."""

    def __init__(
        self, blocks: nn.Module, options: FusionOptions, *, prefix: int, puts_back: bool
    ) -> None:
        """Take the blocks.

        Args:
            prefix: number of tokens before those of the patches.
            puts_back: a fused token is repeated at every place that it stands for.
        """
        super().__init__()
        for name, block in blocks.named_children():
            self.add_module(name, block)
        self.options, self._prefix, self._puts_back = options, prefix, puts_back

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, S, C)`` of ``(B, T, C)``; where they are put back, S is T."""
        options, tokens = self.options, Tokens(x)
        for index, block in enumerate(self.children()):
            is_chosen = index > 0 if options.blocks is None else index in options.blocks
            r = tokens_to_fuse(tokens.x.shape[1], options.r, self._prefix) if is_chosen else 0
            if r == 0:
                tokens = _run_plainly(block, tokens)
            else:
                fuse_r = partial(fuse, r=r, options=options, prefix=self._prefix)
                tokens = ATTENTIONS[options.attention](block, tokens, fuse_r)
        if tokens.origin is None or not self._puts_back:
            return tokens.x
        return tokens.x.gather(1, tokens.origin[:, :, None].expand(-1, -1, x.shape[2]))

    @contextmanager
    def fusing(self, r: float) -> Iterator[None]:
        """Fuse ``r`` tokens a block for a while."""
        options = self.options
        self.options = replace(options, r=r)
        try:
            yield
        finally:
            self.options = options

    def __iter__(self) -> Iterator[nn.Module]:
        """Refuse: timm walks through its blocks, or counts them, only for what is named here."""
        raise WeightsError(
            "a network that fuses tokens gives no maps, takes no mask, and cannot recompute its "
            "activations; use the plain one"
        )

    def __len__(self) -> int:
        return len(list(iter(self)))


def _run_plainly(block: Block, tokens: Tokens) -> Tokens:
    if tokens.size is None:
        return tokens._replace(x=block(tokens.x))
    return tokens._replace(x=block(tokens.x, attn_mask=_key_bias(tokens.size, tokens.x)))


# Tokens and attention ``(B, H, T, T)`` to fewer tokens and ``(B, H, S, S)``.
_Fuse = Callable[[Tokens, Tensor], tuple[Tokens, Tensor]]


def _fuse_after(block: Block, tokens: Tokens, fuse: _Fuse) -> Tokens:
    """Fuse what the block gives, by its attention."""
    attention = _attention_map(block, tokens)
    tokens = tokens._replace(x=_finish(block, tokens.x, attention))
    return fuse(tokens, attention)[0]


def _fuse_ahead(block: Block, tokens: Tokens, fuse: _Fuse) -> Tokens:
    """Fuse by this block's attention, which then reads the values of the fused."""
    tokens, attention = fuse(tokens, _attention_map(block, tokens))
    return tokens._replace(x=_finish(block, tokens.x, attention))


def _fuse_precisely(block: Block, tokens: Tokens, fuse: _Fuse) -> Tokens:
    """Fuse by this block's attention, which is then computed anew from the fused."""
    return _run_plainly(block, fuse(tokens, _attention_map(block, tokens))[0])


# The paper's numbers of one-step-ahead attention are 0, 1 and 2.
ATTENTIONS: dict[str, Callable[[Block, Tokens, _Fuse], Tokens]] = {
    "after": _fuse_after,
    "ahead": _fuse_ahead,
    "precise": _fuse_precisely,
}


def _attention_map(block: Block, tokens: Tokens) -> Tensor:
    """Attention ``(B, H, T, T)`` of a block's tokens to each other; only Q and K are projected."""
    attn = block.attn
    q, k = _project(attn, block.norm1(tokens.x), slice(0, 2))
    logits = (attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(2, 3)
    if tokens.size is not None:
        logits = logits + _key_bias(tokens.size, logits)
    return logits.softmax(dim=-1)


def _key_bias(size: Tensor, like: Tensor) -> Tensor:
    """``(B, 1, 1, T)``: a token of size n counts as a key as n tokens do."""
    return size.log()[:, None, None, :].to(like)


def _finish(block: Block, x: Tensor, attention: Tensor) -> Tensor:
    """Give tokens ``(B, S, C)`` what attention ``(B, H, S, S)`` reads of them, then the MLP."""
    attn, normed = block.attn, block.norm1(x)
    (v,) = _project(attn, normed, slice(2, 3))
    read = (attn.attn_drop(attention) @ v).transpose(1, 2).flatten(2)  # (B, S, C)
    read = attn.norm(read)
    if getattr(attn, "gate", None) is not None:  # timm knows it since lately
        read = read * attn.gate(normed).sigmoid()
    x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(read))))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _project(attn: Attention, normed: Tensor, which: slice) -> tuple[Tensor, ...]:
    """Of queries, keys and values those asked for, each ``(B, H, T, C / H)``."""
    weight = attn.qkv.weight.unflatten(0, (3, -1))[which].flatten(0, 1)
    bias = attn.qkv.bias
    if bias is not None:
        bias = bias.unflatten(0, (3, -1))[which].flatten()
    parts = F.linear(normed, weight, bias).unflatten(2, (-1, attn.num_heads, attn.head_dim))
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def apply_mctf(model: nn.Module, options: FusionOptions) -> nn.Module:
    """Let a vision transformer of timm fuse tokens, in place; its state dict stays as it is.

    Applied again, it takes the new options.

    Raises:
        WeightsError: if the network is of another kind, or ``options`` names a block it lacks.
    """
    if not isinstance(model, VisionTransformer) or any(
        type(block) is not Block or type(block.attn) is not Attention
        for block in model.blocks.children()
    ):
        raise WeightsError(
            f"{type(model).__name__} cannot fuse tokens: only timm's plain vision transformers "
            "can, such as deit_small_patch16_224; LeMeViT fuses a share, --fuse-tokens 0.5 or auto"
        )
    depth = len(list(model.blocks.children()))
    if wrong := [block for block in options.blocks or () if not 0 <= block < depth]:
        raise WeightsError(f"no block {wrong[0]} to fuse tokens in: they are 0 to {depth - 1}")
    model.blocks = FusingBlocks(
        model.blocks,
        options,
        prefix=model.num_prefix_tokens,
        puts_back=model.global_pool != "token",
    )
    return model


# --- Training ----------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a network makes of images.

    Args:
        embedding: ``(B, C)``, what its last layer sees: the class token, or the mean, normed.
        logits: ``(B, classes)``.
    """

    embedding: Tensor
    logits: Tensor


def answer_twice(
    model: VisionTransformer, images: Tensor, *, teacher_r: int | None = None
) -> tuple[Answer, Answer]:
    """Run a network of :func:`apply_mctf` as student, with its options, and as its own teacher.

    Args:
        images: ``(B, bands, height, width)``, normalised.
        teacher_r: tokens a block that the teacher fuses; None draws 0 to 7.
    """
    if teacher_r is None:
        teacher_r = int(torch.randint(TEACHER_FUSES_BELOW, ()))
    student = _answer(model, images)
    with model.blocks.fusing(teacher_r):
        return student, _answer(model, images)


def _answer(model: VisionTransformer, images: Tensor) -> Answer:
    tokens = model.forward_features(images)  # (B, S, C)
    return Answer(model.fc_norm(model.pool(tokens)), model.forward_head(tokens))


def token_consistency(student: Answer, teacher: Answer) -> Tensor:
    """Return how far a student's embedding is from its teacher's, squared, mean over C: ``(B,)``.

    Only the student learns of it.
    """
    return (teacher.embedding.detach().float() - student.embedding.float()).square().mean(dim=1)


def consistent_loss(
    student: Answer,
    teacher: Answer,
    class_ids: Tensor,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Add both answers' cross-entropy and three times the consistency of images that are sure.

    Args:
        class_ids: ``(B,)``. An image is sure where the student gives its class more than 0.4.
        cross_entropy: of logits and class ids, a mean over the images.
    """
    chance = student.logits.detach().float().softmax(dim=1).gather(1, class_ids[:, None])[:, 0]
    is_sure = (chance > SURE_ABOVE).float()  # (B,)
    consistency = (token_consistency(student, teacher) * is_sure).sum() / is_sure.sum().clamp_min(1)
    answers = cross_entropy(student.logits, class_ids) + cross_entropy(teacher.logits, class_ids)
    return answers + CONSISTENCY_WEIGHT * consistency
