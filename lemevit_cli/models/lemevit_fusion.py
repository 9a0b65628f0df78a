"""Similar tokens of LeMeViT's last stages made one, without training: fuse, attend, unfuse.

Paper: Bolya and Hoffman, "Token Merging for Fast Stable Diffusion", CVPRW 2023, arXiv 2303.17604;
code dbolya/tomesd @27a14a3, MIT. This file is made from a description of what that code does, and
reproduces its numbers (tests/models/test_lemevit_fusion.py).

As there, the first token of each cell of the map is a target; every other token finds the most
similar target, and the most similar of these go into their targets.

Deviations:
- Tokens are matched once a stage, on what enters it, not in every block.
- A token of size s counts as s tokens in attention (Bolya et al., "Token Merging", ICLR 2023, arXiv
  2210.09461), so that fusing equal tokens changes nothing but rounding.
- The MLP runs on fused tokens too, and a block's update is what is spread back.
- Targets are the first tokens of their cells: nothing is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.settings import FusedShare

# Where a card has no threshold of its own: see docs/tokens.md, "Inside LeMeViT".
DEFAULT_THRESHOLD = 0.85
_FUSED_STAGES = (3,)
_SMALLEST_CELL = 2
_EPS = 1e-6  # of a token's length, far below any that a network gives but zero
_COSINE_STEPS = 4096  # from 0 to 1, far above the rounding of sums
_MATCHED_AT_ONCE = 2**24  # similarities in memory


@dataclass(frozen=True)
class Groups:
    """Tokens that go together, as a plan of a stage.

    Args:
        rows: ``(B * N,)``: where, in merged tokens of all images ``(B * K, C)``, each token goes.
        sizes: ``(B, K)``; zero where an image has fewer groups than another of its batch.
    """

    rows: Tensor
    sizes: Tensor

    def merge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of each group ``(B, K, C)``, and the logarithms of sizes ``(B, K)``."""
        flat = tokens.flatten(0, 1)
        sums = flat.new_zeros(self.sizes.numel(), flat.shape[1]).index_add(0, self.rows, flat)
        means = sums.unflatten(0, self.sizes.shape) / self.sizes.clamp(min=1)[..., None].to(flat)
        return means, self.sizes.log()

    def spread(self, merged: Tensor) -> Tensor:
        """Give each token ``(B, N, C)`` what its group has."""
        return merged.flatten(0, 1).index_select(0, self.rows).unflatten(0, (len(merged), -1))


@dataclass(frozen=True)
class Matches:
    """Of each token where it may go, and how similar it is to that one.

    Args:
        target: ``(B, N)``, a token's index.
        similarity: ``(B, N)``, cosine; minus infinity where a token must stay.
        most: of the tokens of an image that may go.
    """

    target: Tensor
    similarity: Tensor
    most: int


@dataclass(frozen=True)
class FuseShare:
    """Fuses a fixed share of the tokens, the most similar ones.

    Args:
        share: from 0 to below 1; cells are larger where those of 2 x 2 cannot give up as much.
    """

    share: float

    @torch.no_grad()
    def plan(self, tokens: Tensor, height: int, width: int) -> Groups | None:
        """Plan for a map of tokens; None where it is too small to give any up."""
        cell = max(_SMALLEST_CELL, math.ceil((1 - self.share) ** -0.5 - 1e-9))
        matches = match_cells(tokens, height, width, cell)
        num_tokens = int(height) * int(width)  # a constant of a graph, where it is recorded
        fused = min(round(self.share * num_tokens), matches.most)
        if fused == 0:
            return None
        # Equal ones in the order of their places: sorting is stable.
        order = matches.similarity.argsort(dim=1, descending=True, stable=True)
        goes = torch.zeros_like(order).scatter(1, order[:, :fused], 1).bool()
        return group_tokens(matches.target, goes, num_tokens - fused)


@dataclass(frozen=True)
class FuseAlike:
    """Fuses all tokens that are similar enough: many of flat water, few of a town.

    Args:
        threshold: cosine from which a token goes into its target.
        cell: side of the cells, of which each keeps a token: flat water is left with a ninth.
    """

    threshold: float = DEFAULT_THRESHOLD
    cell: int = 3

    @torch.no_grad()
    def plan(self, tokens: Tensor, height: int, width: int) -> Groups | None:
        """Plan for a map of tokens; an image's share is its own, whatever else is in the batch."""
        matches = match_cells(tokens, height, width, self.cell)
        return group_tokens(matches.target, matches.similarity >= self.threshold)


def match_cells(tokens: Tensor, height: int, width: int, cell: int) -> Matches:
    """Match tokens ``(B, H * W, C)`` with the first token of each whole cell of the map."""
    places = torch.arange(height * width, device=tokens.device).unflatten(0, (height, width))
    whole = places[: height // cell * cell, : width // cell * cell]
    targets = whole[::cell, ::cell].flatten()
    stays = torch.zeros(height * width, dtype=torch.bool, device=tokens.device)
    stays[targets] = True
    most = tokens.shape[1] - len(targets) if len(targets) else 0
    target = places.flatten().expand(tokens.shape[:2])
    if most == 0:
        return Matches(target, tokens.new_full(tokens.shape[:2], -math.inf), 0)
    unit = unit_length(tokens)
    similarity, best = most_similar(unit, unit[:, targets])
    return Matches(targets[best], similarity.masked_fill(stays, -math.inf), most)


def unit_length(tokens: Tensor) -> Tensor:
    """Bring tokens to length one in full precision; those of zeros stay zeros."""
    return F.normalize(tokens.float(), dim=-1, eps=_EPS)


def most_similar(unit: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest cosine of each token ``(B, N)`` with a candidate, and the first such one.

    Cosines are rounded, so that ties stay ties in whatever batch the products are computed: on a
    plain of nodata many are equal but for the last digits.

    Args:
        unit, candidates: ``(B, N, C)`` and ``(B, K, C)``, of length one.
    """
    step = max(1, _MATCHED_AT_ONCE // (len(unit) * candidates.shape[1]))
    found = []
    with torch.autocast(unit.device.type, enabled=False):  # sixteen bits cannot tell 0.99 from 1
        for top in range(0, unit.shape[1], step):
            cosine = unit[:, top : top + step] @ candidates.mT
            found.append(cosine.mul_(_COSINE_STEPS).round_().max(dim=-1))
    values, indices = zip(*found, strict=True)
    return torch.cat(values, dim=1) / _COSINE_STEPS, torch.cat(indices, dim=1)


def group_tokens(target: Tensor, goes: Tensor, groups: int | None = None) -> Groups:
    """Let tokens go into their targets, which stay; groups are in the order of those that stay.

    Args:
        target, goes: ``(B, N)``.
        groups: of every image, if they are equally many; None counts them.
    """
    batch, num_tokens = target.shape
    if groups is None:
        groups = int((~goes).sum(dim=1).max())
    place = torch.arange(num_tokens, device=target.device)
    group = ((~goes).cumsum(dim=1) - 1).gather(1, torch.where(goes, target, place))
    first = groups * torch.arange(batch, device=target.device)[:, None]
    rows = (group + first).flatten()
    ones = torch.ones(batch * num_tokens, device=target.device)
    sizes = ones.new_zeros(batch * groups).index_add(0, rows, ones)
    return Groups(rows, sizes.unflatten(0, (batch, groups)))


def fuse_tokens(model: nn.Module, share: FusedShare, threshold: float | None = None) -> str:
    """Let every LeMeViT inside a model fuse similar tokens; a share of 0 is the plain network.

    Args:
        threshold: of ``auto``: cosine from which tokens are alike; None takes a usual one.

    Returns:
        What is fused, in a word, for tags and reports.
    """
    reduction, fused = _reduction(share, threshold)
    for backbone in [module for module in model.modules() if isinstance(module, LeMeViT)]:
        backbone.reduce_tokens(dict.fromkeys(_FUSED_STAGES, reduction))
    return fused


def _reduction(
    share: FusedShare, threshold: float | None
) -> tuple[FuseShare | FuseAlike | None, str]:
    if share == "auto":
        alike = FuseAlike(DEFAULT_THRESHOLD if threshold is None else threshold)
        return alike, f"auto, cosine {alike.threshold:g}"
    return FuseShare(share) if share else None, f"{share:g}"
