"""Where each meta token of a LeMeViT looks: its attention over the image, as maps.

Paper: Jiang et al., "LeMeViT", IJCAI 2024, arXiv 2405.09789, figure 5. Stage 0 has cross-attention
(meta tokens read the image), stages 1 and 2 dual cross-attention, of which this is the direction
from image to meta tokens. From stage 3 on the two streams do not meet.

The queries and keys of one block are computed a second time, beside the network: its own attention
runs in one fused step that never holds the map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit import Block, CrossAttention, LeMeViT, split_heads

STAGES = range(3)  # where meta tokens read the image


class MetaAttention(nn.Module):
    """Pixels in, a map of each meta token out, at the size of the pixels.

    A map is the softmax over the window's image tokens, mean over heads, times their number: 1 is
    what an even look gives every place, and the mean of each map. So bands compare with each other,
    and windows of any size with their neighbours.

    Args:
        front: brings pixels to what the backbone reads.
        stage: 0 to 2.
        block: of the stage, from 0; None is the last.
        tokens: from 0; None takes all.

    Raises:
        WeightsError: if there is no such stage, block or token.
    """

    def __init__(
        self,
        front: nn.Module,
        backbone: LeMeViT,
        *,
        stage: int,
        block: int | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if stage not in STAGES:
            raise WeightsError(f"--stage {stage}: meta tokens read the image in stages 0, 1 and 2")
        depth, count = len(backbone.stages[stage].blocks), len(backbone.meta_tokens)
        if block is not None and not 0 <= block < depth:
            raise WeightsError(f"--block {block}: stage {stage} has blocks 0 to {depth - 1}")
        unknown = [token for token in tokens or () if not 0 <= token < count]
        if unknown:
            raise WeightsError(f"--tokens {unknown[0]}: there are meta tokens 0 to {count - 1}")
        self.front, self.backbone = front, backbone
        self.stage, self.block = stage, depth - 1 if block is None else block
        self.tokens = tuple(range(count)) if tokens is None else tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """Return maps ``(B, tokens, H, W)`` of uint8 or float ``(B, bands, H, W)``, any size."""
        height, width = pixels.shape[-2:]
        picture = self.front(pixels)
        block, x, c = self._at_block(picture)
        maps = attention_to_image(block, x, c)[:, list(self.tokens)]
        maps = maps * (maps.shape[-2] * maps.shape[-1])
        maps = F.interpolate(maps, size=picture.shape[-2:], mode="bilinear")
        return maps[..., :height, :width]

    def _at_block(self, picture: Tensor) -> tuple[Block, Tensor, Tensor]:
        """Return the block with what reaches it: the map, and the meta tokens."""
        x = picture.contiguous(memory_format=torch.channels_last)
        c = self.backbone.meta_tokens.expand(len(x), -1, -1)
        *before, last = self.backbone.stages[: self.stage + 1]
        for stage in before:
            x, c = stage(x, c, True)
        x, c = last.downsample(x), last.meta_mlp(c)
        for block in last.blocks[: self.block]:
            x, c = block(x, c, True)
        return last.blocks[self.block], x, c


def attention_to_image(block: Block, x: Tensor, c: Tensor) -> Tensor:
    """Return what meta tokens take from each image token in a block: ``(B, M, H, W)`` of sum 1.

    Args:
        x: the map ``(B, C, H, W)`` that comes to the block.
        c: the meta tokens ``(B, M, C)``, likewise.
    """
    t = (x + block.cpe(x)).permute(0, 2, 3, 1).flatten(1, 2)
    t, c = block.norm1(t), block.norm1(c)
    attn: Any = block.attn
    if isinstance(attn, CrossAttention):
        (q,) = split_heads(attn.q(c), 1, attn.num_heads)
        k, _ = split_heads(attn.kv(t), 2, attn.num_heads)
        scale = q.shape[-1] ** -0.5
    else:
        q, _, _ = split_heads(attn.qkv_meta(c), 3, attn.num_heads)
        _, k, _ = split_heads(attn.qkv_x(t), 3, attn.num_heads)
        scale = attn.scale
    logits = scale * q.float() @ k.float().transpose(-2, -1)  # (B, heads, M, HW)
    return logits.softmax(dim=-1).mean(dim=1).unflatten(-1, x.shape[-2:])
