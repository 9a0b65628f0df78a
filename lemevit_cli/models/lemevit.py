"""LeMeViT: a vision transformer whose early stages talk to a few learnable meta tokens.

Paper: Jiang et al., "LeMeViT: Efficient Vision Transformer with Learnable Meta Tokens for Remote
Sensing Image Interpretation", IJCAI 2024, arXiv 2405.09789.
Original code: ViTAE-Transformer/LeMeViT @1b48783, for research use only. This file is written from
a description of what that code computes, not from the code, and reproduces its numbers
(tests/models/test_official_checkpoint.py).

Two streams run side by side: the image map ``x`` of ``(B, C, H, W)`` and ``M`` meta tokens ``c`` of
``(B, M, C)``. Attention costs ``N * M`` instead of ``N * N`` where maps are large (N = H * W):

    stage  stride  blocks                     attention
    0      4       cross-attention            meta tokens read the image, the image stays as it is
    1, 2   4, 8    dual cross-attention       both streams read each other
    3, 4   16, 32  self-attention             each stream by itself, with the same weights

As in the original where the paper says otherwise or nothing: the two directions of dual
cross-attention scale differently; stage 0 leaves the image map unchanged; the meta tokens also have
an MLP between stages 0 and 1; a batch norm (image) and a layer norm (meta tokens) precede pooling.

Deviations, none of which changes a feature map or a logit:
- With ``features_only`` the parts that no map depends on do not exist: meta-token MLPs of stages 3
  and 4, the last meta-token projection, final norms, head. ``official_checkpoint.load_backbone``
  leaves them out.
- ``forward_features`` adds the meta tokens' mean to every pixel of the map before pooling, instead
  of to the pooled map, so that one tensor goes to ``forward_head`` as in other timm models.
- Maps are kept in channels_last memory: tokens are then a view of the map, not a copy.

A stage of self-attention may run its attention and MLPs on fewer tokens (``reduce_tokens``). The
grid stays whole: tokens are merged behind each positional convolution, what the block adds to them
is spread back, and meta tokens have no part in it. ``merge_tokens`` has stage 3 learn which.

timm is not imported here, for that takes longer than a small scene: ``timm_backbones.py`` makes the
network known to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

STAGE_KINDS = "CDDSS"
MLP_RATIO = 4
# Stages 1 and 2 divide by ln(N): at or below this side the map of stage 2 is one pixel.
LARGEST_SIDE_TOO_SMALL = 8
POOLINGS = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
MERGED_STAGE = 3  # of most of the operations


# --- Fewer tokens in a stage ------------------------------------------------------------------


class TokenPlan(Protocol):
    """Which tokens of a stage go together, decided once for all of its blocks."""

    def merge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Merge tokens ``(B, N, C)`` to ``(B, K, C)``; also return logarithms of sizes ``(B, K)``.

        Sizes sum to N, and bias the keys: a token of size s counts as s equal ones. One of size
        zero (minus infinity) is not seen.
        """
        ...

    def spread(self, merged: Tensor) -> Tensor:
        """Give every token ``(B, N, C)`` what its merged one has: of equal tokens, their value."""
        ...


class TokenReduction(Protocol):
    """Decides how the tokens of a stage are merged. May be a module with parameters, or none."""

    def plan(self, tokens: Tensor, height: int, width: int) -> TokenPlan | None:
        """Plan for tokens ``(B, N, C)`` of a stage's map, by rows; None leaves them as they are.

        The plan of an image does not depend on the others of its batch.
        """
        ...


# --- Attention: each returns what is added to the image tokens and to the meta tokens ---------


class CrossAttention(nn.Module):
    """Meta tokens attend to the image tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, t: Tensor, c: Tensor, update_meta: bool) -> tuple[None, Tensor]:
        (q,) = split_heads(self.q(c), 1, self.num_heads)
        k, v = split_heads(self.kv(t), 2, self.num_heads)
        return None, self.proj(_attend(q, k, v))


class DualCrossAttention(nn.Module):
    """Image and meta tokens attend to each other, both as they were before this block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = dim**-0.5  # of the whole width, not of a head
        self.qkv_x = nn.Linear(dim, 3 * dim)
        self.qkv_meta = nn.Linear(dim, 3 * dim)
        self.proj_x = nn.Linear(dim, dim)
        self.proj_meta = nn.Linear(dim, dim)

    def forward(self, t: Tensor, c: Tensor, update_meta: bool) -> tuple[Tensor, Tensor | None]:
        qx, kx, vx = split_heads(self.qkv_x(t), 3, self.num_heads)
        qc, kc, vc = split_heads(self.qkv_meta(c), 3, self.num_heads)
        sharpness = log_ratio(c.shape[1], t.shape[1], like=kc)
        x_update = self.proj_x(_attend(qx, kc * sharpness, vc, self.scale))
        if not update_meta:
            return x_update, None
        return x_update, self.proj_meta(_attend(qc, kx, vx, self.scale))


class SelfAttention(nn.Module):
    """Image tokens attend to image tokens, meta tokens to meta tokens, by the same weights."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, t: Tensor, c: Tensor | None, update_meta: bool, log_sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self._attend_within(t, log_sizes), None if c is None else self._attend_within(c)

    def _attend_within(self, tokens: Tensor, log_sizes: Tensor | None = None) -> Tensor:
        q, k, v = split_heads(self.qkv(tokens), 3, self.num_heads)
        return self.proj(_attend(q, k, v, bias=key_bias(log_sizes, like=q)))


def key_bias(log_sizes: Tensor | None, *, like: Tensor) -> Tensor | None:
    """Bring logarithms of sizes ``(B, K)`` to what scores of ``(B, heads, N, K)`` are added to."""
    return None if log_sizes is None else log_sizes[:, None, None].to(like.dtype)


def split_heads(tokens: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Split ``(B, N, parts * C)`` into ``parts`` times ``(B, heads, N, C / heads)``."""
    return tokens.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Attend over ``(B, heads, N, d)``, merged to ``(B, N, C)``; 1/sqrt(d) if no scale."""
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return heads.transpose(1, 2).flatten(2)


def log_ratio(num_meta: int, num_pixels: int, *, like: Tensor) -> Tensor:
    """Return ln(M) / ln(N) as a tensor, because N may be symbolic under ``torch.export``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return math.log(num_meta) / torch.full((), num_pixels, dtype=dtype, device=like.device).log()


# --- Blocks and stages ----------------------------------------------------------------------

ATTENTIONS = {"C": CrossAttention, "D": DualCrossAttention, "S": SelfAttention}


class DropPath(nn.Module):
    """Stochastic depth: in training, take what a block adds away from some images of a batch.

    The others get it divided by the share that keeps it, so that the mean stays. As timm's, which
    draws the same images from the same state of the generator.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = 1.0 - self.drop_prob
        mask = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(kept)
        return x * (mask.div_(kept) if kept > 0.0 else mask)


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Convolutional position encoding of the image, attention, MLP; norms and MLP serve both."""

    def __init__(self, kind: str, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.cpe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        # Deviates from the original, which keeps PyTorch's kernels: sums of nine of those multiply
        # smooth channels by up to three, block after block, and the few that grow most drown all
        # others in the next norm (stage 3: deviations of 6,000 beside a median of 41).
        nn.init.trunc_normal_(self.cpe.weight, std=0.02)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ATTENTIONS[kind](dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)
        # Called once for each stream and residual: the masks are independent.
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, c: Tensor | None, update_meta: bool, plan: TokenPlan | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Update both streams; ``c`` is returned as it came if nothing later reads it.

        Args:
            plan: of self-attention alone.
        """
        H, W = x.shape[-2:]
        t = (x + self.cpe(x)).permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C)
        normed_c = None if c is None else self.norm1(c)
        if plan is not None:
            merged, log_sizes = plan.merge(t)  # (B, K, C), (B, K)
            update, c_update = self.attn(self.norm1(merged), normed_c, update_meta, log_sizes)
            c = c if c is None else self._add(c, c_update)
            t = t + plan.spread(self._add(merged, update) - merged)
            return t.unflatten(1, (H, W)).permute(0, 3, 1, 2), c
        t_update, c_update = self.attn(self.norm1(t), normed_c, update_meta)
        if c is not None and c_update is not None:
            c = self._add(c, c_update)
        if t_update is None:
            # As in the original: stage 0 keeps neither the position encoding nor an MLP of x.
            return x, c
        t = self._add(t, t_update)
        return t.unflatten(1, (H, W)).permute(0, 3, 1, 2), c

    def _add(self, tokens: Tensor, update: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(update)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Stage(nn.Module):
    """Bring both streams to this stage's resolution and width, then run its blocks."""

    blocks: Any  # nn.ModuleList of Block

    def __init__(
        self, kind: str, downsample: nn.Module, meta_dims: tuple[int, int], blocks: list[Block]
    ) -> None:
        super().__init__()
        self.image_reads_meta = kind == "D"
        self.reduction: TokenReduction | None = None
        self.attends_to_itself = kind == "S"
        self.grad_checkpointing = False
        self.downsample = downsample
        self.meta_mlp: nn.Module = _meta_mlp(*meta_dims)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, c: Tensor | None, keep_meta: bool) -> tuple[Tensor, Tensor | None]:
        """Update both streams; without ``keep_meta`` meta tokens only as far as maps need it."""
        x = self.downsample(x)
        c = self.meta_mlp(c) if keep_meta or self.image_reads_meta else None
        plan = None
        if self.reduction is not None:
            plan = self.reduction.plan(x.permute(0, 2, 3, 1).flatten(1, 2), *x.shape[-2:])
        for i, block in enumerate(self.blocks, start=1):
            update_meta = keep_meta or (self.image_reads_meta and i < len(self.blocks))
            if self.grad_checkpointing and torch.is_grad_enabled():
                x, c = recompute(block, x, c, update_meta, plan, use_reentrant=False)
            else:
                x, c = block(x, c, update_meta, plan)
        return x, c


def _meta_mlp(dim_in: int, dim_out: int) -> nn.Sequential:
    hidden = MLP_RATIO * dim_in
    return nn.Sequential(
        nn.Linear(dim_in, hidden),
        nn.LayerNorm(hidden, eps=1e-5),
        nn.GELU(),
        nn.Linear(hidden, dim_out),
        nn.LayerNorm(dim_out, eps=1e-5),
    )


def _halving_conv(dim_in: int, dim_out: int) -> list[nn.Module]:
    return [nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1), nn.BatchNorm2d(dim_out)]


def _downsample(stage: int, in_chans: int, dims: Sequence[int]) -> nn.Module:
    if stage == 0:
        half = dims[0] // 2
        return nn.Sequential(
            *_halving_conv(in_chans, half), nn.GELU(), *_halving_conv(half, dims[0])
        )
    if stage == 1:
        return nn.Identity()
    return nn.Sequential(*_halving_conv(dims[stage - 1], dims[stage]))


# --- The backbone ---------------------------------------------------------------------------


class LeMeViT(nn.Module):
    """Image classifier, or with ``features_only`` a backbone of four maps (strides 4 to 32).

    Images are ``(B, in_chans, H, W)``, normalised, of any size with a side above 8 pixels. A map of
    stride s has ``ceil(H / s)`` rows.

    Args:
        embed_dims: widths of stages 0 to 4; stage 0 and 1 share one.
        depths: blocks of stages 0 to 4.
        head_dim: width of an attention head; divides every ``embed_dims``.
        num_meta_tokens: M.
        num_classes: 0 for no head: the answer is then the pooled feature.
        global_pool: avg or max; '' leaves the map unpooled.
        drop_path_rate: of the last block; rises linearly from 0 over all blocks.
        merge_tokens: share of stage 3's tokens that a learned mask merges away; not of the paper.
    """

    stages: Any  # nn.ModuleList of Stage

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 64, 128, 192, 320),
        depths: Sequence[int] = (1, 2, 2, 8, 2),
        head_dim: int = 32,
        num_meta_tokens: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_path_rate: float = 0.0,
        merge_tokens: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims[0] != embed_dims[1]:
            raise ValueError(f"stages 0 and 1 share one map, but embed_dims is {embed_dims}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.meta_tokens = nn.Parameter(torch.randn(num_meta_tokens, embed_dims[0]))
        self.stages = nn.ModuleList()
        self.feature_info: list[dict[str, Any]] = []
        last_block = max(1, sum(depths) - 1)
        for i, (kind, dim, depth) in enumerate(zip(STAGE_KINDS, embed_dims, depths, strict=True)):
            first = sum(depths[:i])
            blocks = [
                Block(kind, dim, dim // head_dim, drop_path_rate * (first + j) / last_block)
                for j in range(depth)
            ]
            meta_dims = (embed_dims[max(0, i - 1)], dim)
            downsample = _downsample(i, in_chans, embed_dims)
            self.stages.append(Stage(kind, downsample, meta_dims, blocks))
            if i > 0:
                self.feature_info.append(
                    {"num_chs": dim, "reduction": 2 ** (i + 1), "module": f"stages.{i}"}
                )
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.norm_meta: nn.Module = nn.LayerNorm(self.num_features, eps=1e-5)
        self.reset_classifier(num_classes, global_pool)
        if merge_tokens:
            from lemevit_cli.models.token_merging import CellMerging  # noqa: PLC0415  few ask

            self.reduce_tokens({MERGED_STAGE: CellMerging(embed_dims[MERGED_STAGE], merge_tokens)})
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, normalised, plus the mean of the meta tokens at every pixel."""
        maps, c = self._run_stages(x, len(self.stages), keep_meta=True)
        return self._fuse(maps[-1], c)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return maps of stages 1 to 4 (indices 0 to 3), not normalised, as dense tasks take them.

        Args:
            norm: apply the final batch norm to the last map.
            stop_early: no effect unless ``intermediates_only``, which always stops early.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt}")
        take = _choose_maps(len(self.feature_info), indices)
        last = max(take)
        num_stages = last + 2 if intermediates_only else len(self.stages)
        maps, c = self._run_stages(x, num_stages, keep_meta=not intermediates_only)
        taken = [
            self.norm(maps[i + 1]) if norm and i + 1 == len(STAGE_KINDS) - 1 else maps[i + 1]
            for i in take
        ]
        return taken if intermediates_only else (self._fuse(maps[-1], c), taken)

    def _run_stages(
        self, x: Tensor, num_stages: int, *, keep_meta: bool
    ) -> tuple[list[Tensor], Tensor]:
        """Return each stage's map and the last meta tokens; no use without ``keep_meta``."""
        H, W = x.shape[-2:]
        if H <= LARGEST_SIDE_TOO_SMALL and W <= LARGEST_SIDE_TOO_SMALL:
            raise ValueError(f"LeMeViT needs a side above 8 pixels, got an image of {H} x {W}")
        x = x.contiguous(memory_format=torch.channels_last)
        c = self.meta_tokens.expand(x.shape[0], -1, -1)
        stages = list(self.stages[:num_stages])
        maps = []
        for i, stage in enumerate(stages):
            read_later = any(later.image_reads_meta for later in stages[i + 1 :])
            x, c = stage(x, c, keep_meta or read_later)
            maps.append(x)
        return maps, c

    def _fuse(self, x: Tensor, c: Tensor) -> Tensor:
        # The mean over the map of this sum is the sum of the two means.
        return self.norm(x) + self.norm_meta(c).mean(1)[:, :, None, None]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = _pooling(global_pool)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head.apply(_init_weights)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop every part that the maps at ``indices`` do not depend on; timm calls it."""
        take = _choose_maps(len(self.feature_info), indices)
        last = max(take)
        self.stages = self.stages[: last + 2]
        if prune_norm or last + 1 < len(self.feature_info):
            self.norm = nn.Identity()
        if prune_head:
            self.norm_meta = nn.Identity()
            self.reset_classifier(0, "")
            last_reader = max(i for i, stage in enumerate(self.stages) if stage.image_reads_meta)
            self.stages[last_reader].blocks[-1].attn.proj_meta = nn.Identity()
            for stage in self.stages[last_reader + 1 :]:
                stage.meta_mlp = nn.Identity()
        return take

    def reduce_tokens(self, reductions: Mapping[int, TokenReduction | None]) -> None:
        """Let stages (3, 4: those of self-attention) run on fewer tokens; None on all of them.

        A reduction that is a module becomes a part of its stage, and its parameters of the state.
        It was learned with all others and stays: None does not take it away.

        Raises:
            ValueError: if a stage has no self-attention, was not built, or has learned a reduction
                and is to have another.
        """
        for i, reduction in reductions.items():
            if not (i < len(self.stages) and self.stages[i].attends_to_itself):
                raise ValueError(f"stage {i} has no self-attention whose tokens could be reduced")
            if isinstance(self.stages[i].reduction, nn.Module):
                if reduction is None:
                    continue
                raise ValueError(f"stage {i} has learned how to reduce its tokens; keep to that")
            self.stages[i].reduction = reduction

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Return no name: as in the original, the meta tokens and position kernels decay."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^meta_tokens|^stages\.0\.(?:downsample|meta_mlp)",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.(?:downsample|meta_mlp)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        }


def _pooling(name: str) -> nn.Module:
    """Return what makes one vector of a map ``(B, C, H, W)``, by timm's name for it."""
    if not name:
        return nn.Identity()
    if name not in POOLINGS:
        raise ValueError(f"LeMeViT pools by {', '.join(POOLINGS)}, not by {name!r}")
    return nn.Sequential(POOLINGS[name](1), nn.Flatten(1))


def _choose_maps(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return which of ``count`` maps are meant: all, the last so many, or these (-1 is the last).

    Raises:
        IndexError: if there is no such map.
    """
    if indices is None:
        return list(range(count))
    chosen = range(-indices, 0) if isinstance(indices, int) else indices
    return [range(count)[i] for i in chosen]


def _init_weights(module: nn.Module) -> None:
    """Initialise linear layers as the original; norms and convolutions keep PyTorch's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
