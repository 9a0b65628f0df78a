"""Tokens merged by a soft mask that a network learns, in the spirit of LTM.

Paper: Wang and Yang, "Learnable Token Merging", arXiv 2407.15219 (LTM-Transformer); released code:
Statistical-Deep-Learning/LTM @395b959. From these the idea is taken: a module looks at the tokens
after attention, Z, and at the previous block's mask, gives a new mask G, and goes on with
X~ = G^T Z; and the terms of an information-bottleneck bound, whose numbers are those of the
released training script (tests/models/test_token_merging.py).

What the released code leaves open is made here as seemed simplest, and **no parity is claimed**: it
holds no block, so how its mask is built, how many tokens each block keeps, and whether its authors
trained with the bound (which stands in the script, but in the paper bounds what training does) is
not known. Here a mask is a softmax over the new tokens: every old token hands all of itself on.

    in a vision transformer   a mask in every block, between attention and MLP
    in LeMeViT, stage 3       one mask for the stage, within cells of 4 x 4 tokens, because images
                              have any size and the grid must stay whole: merge, attend, spread back

Letters: B images, N tokens, K merged ones, C channels; masks ``(B, N, K)`` with rows of sum 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError

CELL = 4  # tokens on each side of LeMeViT's cells
BOUND_WEIGHT = 0.1  # of the bound beside the cross-entropy, as in the released script
BOUND_FROM = 0.3  # part of the training that passes without it, likewise
_START = 0.9  # of a token, what goes into its own slot at first
_SMALLEST = 1e-6  # size of a merged token that nothing goes into
_ROUNDS = 10  # of k-means


def merge_by(mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return X~ = G^T Z as means ``(..., K, C)`` of tokens ``(..., N, C)``, and sizes ``(..., K)``.

    Sizes sum to N: what a merged token has of the tokens that went into it.
    """
    sizes = mask.sum(dim=-2).clamp(min=_SMALLEST)
    return mask.transpose(-2, -1) @ tokens / sizes[..., None], sizes


def even_start(places: int, slots: int) -> Tensor:
    """Return logits ``(places, slots)`` by which neighbours in a row go into one slot at first."""
    own = torch.arange(places) * slots // places
    preference = math.log(_START / (1 - _START) * max(slots - 1, 1))
    return preference * F.one_hot(own, slots).float()


# --- In a vision transformer --------------------------------------------------------------------


@dataclass(frozen=True)
class MergingOptions:
    """How a vision transformer merges.

    Args:
        keep: part of the patch tokens that a block passes on, above 0; 1 merges nothing.
        blocks: those that merge, from 0; None is all.
    """

    keep: float = 0.95
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: a part of the tokens, above 0 and at most 1")


class MergingMask(nn.Module):
    """Gives the mask of tokens, from themselves and the mask that they came from.

    Args:
        dim: width of a token.
        tokens, slots: N and K.
        previous: tokens that the previous mask merged; 0 where there was none.
    """

    def __init__(self, dim: int, *, tokens: int, slots: int, previous: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.of_tokens = nn.Linear(dim, slots)
        self.of_previous = nn.Linear(previous, slots, bias=False) if previous else None
        self.of_places = nn.Parameter(even_start(tokens, slots))
        nn.init.trunc_normal_(self.of_tokens.weight, std=0.02)
        nn.init.zeros_(self.of_tokens.bias)

    def forward(self, tokens: Tensor, previous: Tensor | None) -> Tensor:
        """Return ``(B, N, K)`` of ``(B, N, C)``.

        Args:
            previous: ``(B, P, N)``, whose columns say which P tokens each of these was merged of.
        """
        logits = self.of_tokens(self.norm(tokens)) + self.of_places
        if self.of_previous is not None and previous is not None:
            logits = logits + self.of_previous(previous.transpose(1, 2))
        return logits.float().softmax(dim=-1)


class MergingBlocks(nn.Module):
    """Takes the place of a vision transformer's blocks, whose parameters and names stay."""

    def __init__(
        self, blocks: nn.Module, options: MergingOptions, *, dim: int, tokens: int, prefix: int
    ) -> None:
        """Take the blocks.

        Args:
            tokens: of the patches, before the first block.
            prefix: tokens in front of them, which stay by themselves.
        """
        super().__init__()
        tokens_given = tokens
        masks, previous = {}, 0
        for index, (name, block) in enumerate(blocks.named_children()):
            self.add_module(name, block)
            slots = max(1, round(options.keep * tokens))
            if slots < tokens and (options.blocks is None or index in options.blocks):
                masks[name] = MergingMask(dim, tokens=tokens, slots=slots, previous=previous)
                previous, tokens = tokens, slots
        self._names = [name for name, _ in blocks.named_children()]
        self._prefix, self._tokens = prefix, tokens_given
        self.masks = nn.ModuleDict(masks)

    def forward(self, x: Tensor) -> Tensor:
        """Return fewer tokens ``(B, prefix + K, C)`` of ``(B, prefix + N, C)``."""
        if x.shape[1] != self._prefix + self._tokens:
            raise WeightsError(
                f"the network merges {self._tokens} tokens of an image, which has "
                f"{x.shape[1] - self._prefix}: give it windows as it learned from, without --window"
            )
        previous: Tensor | None = None
        for name in self._names:
            block: Any = getattr(self, name)
            x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
            if name in self.masks:
                prefix, patches = x[:, : self._prefix], x[:, self._prefix :]
                previous = self.masks[name](patches, previous)
                x = torch.cat([prefix, merge_by(previous.to(x), patches)[0]], dim=1)
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return x

    def __iter__(self) -> Iterator[nn.Module]:
        # timm walks through its blocks for exactly these.
        raise WeightsError(
            "a network that merges tokens gives no maps, takes no mask, and cannot recompute its "
            "activations; use the plain one"
        )


def merge_share(model: nn.Module, share: float, *, side: int) -> None:
    """Let the last block of a vision transformer have merged away this share of the patch tokens.

    Every block merges an equal part of those that it gets.

    Args:
        side: of its images, pixels.

    Raises:
        WeightsError: as :func:`apply_ltm`.
    """
    vit = _check_kind(model)
    depth = len(list(vit.blocks.children()))
    rows, cols = (side // patch for patch in vit.patch_embed.patch_size)
    apply_ltm(vit, MergingOptions(keep=(1 - share) ** (1 / depth)), tokens=rows * cols)


def apply_ltm(model: nn.Module, options: MergingOptions, *, tokens: int | None = None) -> nn.Module:
    """Let a vision transformer of timm merge tokens, in place; its masks are to be learned.

    Args:
        tokens: patches of its images, which are all of one size; None: as it was made for.

    Raises:
        WeightsError: if the network is of another kind, or ``options`` names a block it lacks.
    """
    vit = _check_kind(model)
    depth = len(list(vit.blocks.children()))
    if wrong := [block for block in options.blocks or () if not 0 <= block < depth]:
        raise WeightsError(f"no block {wrong[0]} to merge tokens in: they are 0 to {depth - 1}")
    vit.blocks = MergingBlocks(
        vit.blocks,
        options,
        dim=vit.embed_dim,
        tokens=vit.patch_embed.num_patches if tokens is None else tokens,
        prefix=vit.num_prefix_tokens,
    )
    return vit


def _check_kind(model: nn.Module) -> Any:
    if not isinstance(model, VisionTransformer) or any(
        type(block) is not Block for block in model.blocks.children()
    ):
        raise WeightsError(
            f"{type(model).__name__} cannot merge tokens: only timm's plain vision transformers "
            "can, such as vit_small_patch16_224; LeMeViT has merge_tokens of its own"
        )
    return model


# --- In LeMeViT ---------------------------------------------------------------------------------


class CellMerging(nn.Module):
    """Merges the tokens of a stage within cells of 4 x 4, by one mask that all its blocks share.

    A reduction as ``lemevit.TokenReduction`` asks for it.

    Args:
        dim: of the stage.
        share: of the tokens that are merged away; a cell keeps ``16 - round(16 * share)``.
    """

    def __init__(self, dim: int, share: float) -> None:
        super().__init__()
        places = CELL * CELL
        slots = places - round(places * share)
        if not 0 < slots < places:
            raise ValueError(f"merge_tokens={share}: a share from 0.04 to 0.96, or 0")
        self.norm = nn.LayerNorm(dim)
        self.of_tokens = nn.Linear(dim, slots)
        self.of_places = nn.Parameter(even_start(places, slots)[_squares_first()])

    def plan(self, tokens: Tensor, height: int, width: int) -> CellPlan:
        """Plan for tokens ``(B, height * width, C)`` of a map, by rows."""
        cells = to_cells(tokens, height, width)
        mask = (self.of_tokens(self.norm(cells)) + self.of_places).float().softmax(dim=-1)
        # What a cell has beyond the map's edge goes nowhere.
        there = to_cells(tokens.new_ones(1, height * width, 1), height, width)
        return CellPlan(mask * there, height, width)


def _squares_first() -> Tensor:
    """Order places so that 2, 4 and 8 that follow each other make compact shapes (Z-order)."""
    row, col = torch.meshgrid(torch.arange(CELL), torch.arange(CELL), indexing="ij")
    order = (row // 2) * 8 + (col // 2) * 4 + (row % 2) * 2 + col % 2
    return order.flatten()


@dataclass(frozen=True)
class CellPlan:
    """How the tokens of one map go together.

    Args:
        mask: ``(B, cells, 16, slots)``; rows of sum 1, or 0 beyond the map.
        height, width: of the map, tokens.
    """

    mask: Tensor
    height: int
    width: int

    def merge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, K, C)`` of ``(B, N, C)``, and the logarithms of sizes ``(B, K)``."""
        cells = to_cells(tokens, self.height, self.width)
        merged, sizes = merge_by(self.mask.to(tokens), cells)
        return merged.flatten(1, 2), sizes.float().log().flatten(1)

    def spread(self, merged: Tensor) -> Tensor:
        """Return ``(B, N, C)``: each token gets of the merged ones as it gave to them."""
        slots = merged.unflatten(1, (-1, self.mask.shape[-1]))
        return from_cells(self.mask.to(merged) @ slots, self.height, self.width)


def to_cells(tokens: Tensor, height: int, width: int) -> Tensor:
    """Cut a map ``(B, height * width, C)`` into ``(B, cells, 16, C)``, zeros beyond its edge."""
    grid = tokens.unflatten(1, (height, width))
    grid = F.pad(grid, (0, 0, 0, -width % CELL, 0, -height % CELL))
    cells = grid.unflatten(2, (-1, CELL)).unflatten(1, (-1, CELL))  # (B, rows, 4, cols, 4, C)
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`to_cells`: ``(B, height * width, C)``."""
    grid = cells.unflatten(2, (CELL, CELL)).unflatten(1, (-(-height // CELL), -1))
    whole = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return whole[:, :height, :width].flatten(1, 2)


# --- The information-bottleneck bound -----------------------------------------------------------


class Answer(NamedTuple):
    """What a merging network says of images, and what the bound compares: means over tokens.

    Args:
        logits: ``(B, classes)``.
        inputs, merged: ``(B, C)``, before the first block and behind the last.
    """

    logits: Tensor
    inputs: Tensor
    merged: Tensor


def answer_with_features(model: VisionTransformer, images: Tensor) -> Answer:
    """Run a vision transformer, and keep what the bound compares."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    merged = model.blocks(x)
    return Answer(model.forward_head(model.norm(merged)), x.mean(dim=1), merged.mean(dim=1))


@dataclass(frozen=True)
class Clusters:
    """What the bound knows of a training set; renewed every epoch.

    Args:
        inputs, merged: centroids ``(A, C)`` of features before and behind the blocks, unit length.
        of_classes: ``Q(a, y)``, mean assignment to merged cluster a of the images of class y.
    """

    inputs: Tensor
    merged: Tensor
    of_classes: Tensor


def assignments(features: Tensor, centroids: Tensor) -> Tensor:
    """Return ``phi(x, a) = softmax_a(-|x / |x| - C_a|^2)``: ``(N, A)``."""
    return (-torch.cdist(F.normalize(features), centroids).square()).softmax(dim=1)


def class_means(phi: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean assignment of each class ``(A, classes)``; even where a class has none."""
    of_class = F.one_hot(labels, num_classes).to(phi)
    counts = of_class.sum(dim=0)
    return torch.where(counts > 0, phi.T @ of_class / counts.clamp(min=1), 1 / phi.shape[1])


@torch.no_grad()
def find_clusters(inputs: Tensor, merged: Tensor, labels: Tensor, num_classes: int) -> Clusters:
    """Cluster the features of a training set, as many clusters as classes, by k-means."""
    before, behind = (_k_means(features, num_classes) for features in (inputs, merged))
    means = class_means(assignments(merged, behind), labels, num_classes)
    return Clusters(before, behind, means)


def _k_means(features: Tensor, count: int) -> Tensor:
    """Return centroids of unit length, begun from images spread evenly over the set."""
    points = F.normalize(features)
    centroids = points[torch.linspace(0, len(points) - 1, count).long()]
    for _ in range(_ROUNDS):
        nearest = F.one_hot((points @ centroids.T).argmax(dim=1), count).to(points)
        means = nearest.T @ points
        # One that no point is nearest to stays where it is.
        centroids = torch.where(nearest.sum(dim=0)[:, None] > 0, F.normalize(means), centroids)
    return centroids


def bottleneck_bound(clusters: Clusters, inputs: Tensor, merged: Tensor, labels: Tensor) -> Tensor:
    """Bound how much the merged features say of the inputs beyond what they say of the class.

    ``mean_i [sum_ab phi(X~_i, a) phi(X_i, b) log phi(X_i, b) - sum_a phi(X~_i, a) log Q(a, y_i)]``

    Of the first term nothing flows back into the masks: phi(X~, .) sums to one.
    """
    of_inputs = assignments(inputs, clusters.inputs)
    of_merged = assignments(merged, clusters.merged)
    told_of_inputs = of_merged.sum(dim=1) * (of_inputs * of_inputs.log()).sum(dim=1)
    told_of_class = (of_merged * clusters.of_classes.T[labels].log()).sum(dim=1)
    return (told_of_inputs - told_of_class).mean()


def merging_loss(
    answer: Answer, labels: Tensor, clusters: Clusters | None, done: float, smoothing: float = 0.1
) -> Tensor:
    """Return the cross-entropy, and from ``BOUND_FROM`` on the bound.

    Args:
        clusters: None leaves the bound out.
        done: part of the training that is over.
    """
    loss = F.cross_entropy(answer.logits, labels, label_smoothing=smoothing)
    if clusters is None or done < BOUND_FROM:
        return loss
    bound = bottleneck_bound(clusters, answer.inputs, answer.merged, labels)
    return loss + BOUND_WEIGHT * bound
