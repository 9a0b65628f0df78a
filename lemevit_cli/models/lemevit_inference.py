"""The same LeMeViT in fewer and cheaper operations, for inference.

Every step is an identity of real arithmetic, so that results differ by rounding only; each is here
because benchmarks/model.py (``--ablate``) shows that it helps on a CPU:

- Where N image tokens meet M meta tokens, the image's projections move to the side of the few. The
  scores of the image's queries, ``(Wq t) . k``, are ``t . (Wq' k)``: one product of N x C by
  C x (heads * M) replaces a projection by C x C and the scores. Keys, values and the projection
  after attention go the same way: no N queries, keys or values are ever made, and with 16 meta
  tokens and heads of 32 the multiply-adds of these layers are halved.
- oneDNN adds bias and residual and applies GELU while a linear layer writes its result.
- Image and meta tokens of the last stages pass through their shared weights as one stream.

Tried and left out, as nothing was gained: batch norms folded into convolutions, and the residual of
the position encoding folded into its kernel.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.models.device import is_recording
from lemevit_cli.models.lemevit import (
    Block,
    CrossAttention,
    DropPath,
    DualCrossAttention,
    LeMeViT,
    Mlp,
    SelfAttention,
    TokenPlan,
    key_bias,
    log_ratio,
    split_heads,
)

# Private to torch, which compiles to it; without it the three steps run one after the other.
_HAS_FUSED_LINEAR = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def optimise_for_inference(model: nn.Module) -> nn.Module:
    """Copy a model with every LeMeViT inside it made faster; other parts stay as they are.

    The copy is in evaluation mode, has no gradients, and its state dict is not that of ``model``:
    load weights before, save and export the original.

    Raises:
        ValueError: if a block has a part that the faster form would leave out.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for backbone in [module for module in model.modules() if isinstance(module, LeMeViT)]:
        for stage in backbone.stages:
            stage.blocks = nn.ModuleList(FoldedBlock(block) for block in stage.blocks)
    return model


class FoldedBlock(nn.Module):
    """Takes the place of a :class:`Block`; its attention adds the residual itself."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        _refuse_unknown_parts(block)
        self.cpe = block.cpe
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = _FOLDED[type(block.attn)](block.attn)

    def forward(
        self, x: Tensor, c: Tensor | None, update_meta: bool, plan: TokenPlan | None = None
    ) -> tuple[Tensor, Tensor | None]:
        H, W = x.shape[-2:]
        t = (x + self.cpe(x)).permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C)
        if plan is not None:
            merged, log_sizes = plan.merge(t)
            new, _ = self.attn(merged, None, self.norm1, update_meta, log_sizes)
            t = t + plan.spread(self._feed_forward(new) - merged)
            if c is not None:
                c = self._feed_forward(self.attn(c, None, self.norm1, update_meta)[0])
            return t.unflatten(1, (H, W)).permute(0, 3, 1, 2), c
        if c is not None and isinstance(self.attn, FoldedSelfAttention):
            both = self._feed_forward(self.attn.of_both(t, c, self.norm1))
            new_x, c = both.split((t.shape[1], c.shape[1]), dim=1)
            return new_x.unflatten(1, (H, W)).permute(0, 3, 1, 2), c
        new_t, new_c = self.attn(t, c, self.norm1, update_meta)
        if new_c is not None:
            c = self._feed_forward(new_c)
        if new_t is None:
            return x, c
        return self._feed_forward(new_t).unflatten(1, (H, W)).permute(0, 3, 1, 2), c

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        hidden = _linear(self.mlp.fc1, self.norm2(tokens), gelu=True)
        return _linear(self.mlp.fc2, hidden, plus=tokens)


class FoldedCrossAttention(nn.Module):
    def __init__(self, attn: CrossAttention) -> None:
        super().__init__()
        self.num_heads = attn.num_heads
        self.q, self.proj = attn.q, attn.proj
        self.scale = (attn.q.out_features // attn.num_heads) ** -0.5
        (wk, wv), (_, bv) = attn.kv.weight.chunk(2), attn.kv.bias.chunk(2)
        self.reader = ImageReader(wk, wv, bv, attn.num_heads)

    def forward(
        self, t: Tensor, c: Tensor, norm: nn.Module, update_meta: bool
    ) -> tuple[None, Tensor]:
        (q,) = split_heads(self.q(norm(c)), 1, self.num_heads)
        return None, _linear(self.proj, self.reader(q * self.scale, norm(t)), plus=c)


class FoldedDualCrossAttention(nn.Module):
    wq: Tensor
    bq: Tensor
    w_proj: Tensor
    b_proj: Tensor

    def __init__(self, attn: DualCrossAttention) -> None:
        super().__init__()
        heads = self.num_heads = attn.num_heads
        self.scale = attn.scale
        self.qkv_meta, self.proj_meta = attn.qkv_meta, attn.proj_meta
        (wq, wk, wv), (bq, _, bv) = attn.qkv_x.weight.chunk(3), attn.qkv_x.bias.chunk(3)
        self.reader = ImageReader(wk, wv, bv, heads)
        self.register_buffer("wq", wq.unflatten(0, (heads, -1)).contiguous())  # (h, d, C)
        self.register_buffer("bq", bq.unflatten(0, (heads, -1, 1)).contiguous())  # (h, d, 1)
        w_proj = attn.proj_x.weight.t().unflatten(0, (heads, -1))  # (h, d, C)
        self.register_buffer("w_proj", w_proj.contiguous())
        # A head's weights sum to one: a share of the bias in every value adds up to the bias.
        self.register_buffer("b_proj", attn.proj_x.bias / heads)

    def forward(
        self, t: Tensor, c: Tensor, norm: nn.Module, update_meta: bool
    ) -> tuple[Tensor, Tensor | None]:
        normed_t = norm(t)
        q, k, v = split_heads(self.qkv_meta(norm(c)), 3, self.num_heads)  # (B, h, M, d)
        k = k * (self.scale * log_ratio(c.shape[1], t.shape[1], like=k))
        bias = (k @ self.bq).flatten(1)[:, None]  # (B, 1, hM)
        scores = torch.baddbmm(
            bias, normed_t, (k @ self.wq).flatten(1, 2).transpose(1, 2)
        )  # (B, N, hM)
        weights = scores.unflatten(-1, (self.num_heads, -1)).softmax(-1).flatten(2)
        values = (v @ self.w_proj + self.b_proj).flatten(1, 2)  # (B, hM, C)
        new_t = torch.baddbmm(t, weights, values)
        if not update_meta:
            return new_t, None
        return new_t, _linear(self.proj_meta, self.reader(q * self.scale, normed_t), plus=c)


class ImageReader(nn.Module):
    """Attention of few queries to the image tokens, whose keys and values are never made."""

    wk: Tensor
    wv: Tensor
    bv: Tensor

    def __init__(self, wk: Tensor, wv: Tensor, bv: Tensor, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("wk", wk.unflatten(0, (num_heads, -1)).contiguous())  # (h, d, C)
        self.register_buffer("wv", wv.unflatten(0, (num_heads, -1)).mT.contiguous())  # (h, C, d)
        self.register_buffer("bv", bv.clone())

    def forward(self, q: Tensor, t: Tensor) -> Tensor:
        """Read tokens ``(B, N, C)`` by scaled queries ``(B, h, M, d)`` into ``(B, M, C)``."""
        # The keys' bias adds the same to all scores of a query: softmax does not see it.
        weights = ((q @ self.wk).flatten(1, 2) @ t.transpose(1, 2)).softmax(-1)  # (B, hM, N)
        read = (weights @ t).unflatten(1, (q.shape[1], -1)) @ self.wv  # (B, h, M, d)
        return read.transpose(1, 2).flatten(2) + self.bv


class FoldedSelfAttention(nn.Module):
    def __init__(self, attn: SelfAttention) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = attn.num_heads, attn.qkv, attn.proj

    def forward(
        self,
        t: Tensor,
        c: None,
        norm: nn.Module,
        update_meta: bool,
        log_sizes: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        q, k, v = split_heads(_linear(self.qkv, norm(t)), 3, self.num_heads)
        bias = key_bias(log_sizes, like=q)
        return self._merge(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), t), None

    def of_both(self, t: Tensor, c: Tensor, norm: nn.Module) -> Tensor:
        """Attend in both streams as one of ``(B, N + M, C)``, because they share their weights."""
        both, N = torch.cat((t, c), dim=1), t.shape[1]
        q, k, v = split_heads(_linear(self.qkv, norm(both)), 3, self.num_heads)
        of_image = F.scaled_dot_product_attention(q[:, :, :N], k[:, :, :N], v[:, :, :N])
        of_meta = F.scaled_dot_product_attention(q[:, :, N:], k[:, :, N:], v[:, :, N:])
        return self._merge(torch.cat((of_image, of_meta), dim=2), both)

    def _merge(self, heads: Tensor, tokens: Tensor) -> Tensor:
        return _linear(self.proj, heads.transpose(1, 2).flatten(2), plus=tokens)


_FOLDED: dict[type[nn.Module], Any] = {
    CrossAttention: FoldedCrossAttention,
    DualCrossAttention: FoldedDualCrossAttention,
    SelfAttention: FoldedSelfAttention,
}


# All that the folded form takes over, by the module that has it. Norms are applied to both streams
# at once and linear layers are taken apart, so that only those that are known will do.
_TAKEN_OVER: dict[type[nn.Module], set[str]] = {
    Block: {"cpe", "norm1", "attn", "norm2", "mlp", "drop_path"},
    CrossAttention: {"q", "kv", "proj"},
    DualCrossAttention: {"qkv_x", "qkv_meta", "proj_x", "proj_meta"},
    SelfAttention: {"qkv", "proj"},
    Mlp: {"fc1", "fc2"},
    nn.Conv2d: {"weight", "bias"},
    nn.LayerNorm: {"weight", "bias"},
    nn.Linear: {"weight", "bias"},
    DropPath: set(),  # does nothing in evaluation
    nn.Identity: set(),  # where a part was pruned
}


def _refuse_unknown_parts(module: nn.Module, place: str = "a block") -> None:
    """Refuse a module if it, or one inside it, has parts that the folded form leaves out.

    Raises:
        ValueError: naming the part.
    """
    kind = type(module)
    advice = "fold it in models/lemevit_inference.py, or the answers for inference would lack it"
    if kind not in _TAKEN_OVER:
        raise ValueError(f"{place} is a {kind.__name__}, which has no form for inference; {advice}")
    # Not by ``named_children``, which leaves out the second name of a module that has two.
    for name in (*module._parameters, *module._buffers, *module._modules):
        if name not in _TAKEN_OVER[kind]:
            raise ValueError(
                f"{place} ({kind.__name__}) has {name!r} beside what is known; {advice}"
            )
    for name, child in module.named_children():
        _refuse_unknown_parts(child, f"{name} of {place}")


def _linear(
    layer: nn.Linear, x: Tensor, *, gelu: bool = False, plus: Tensor | None = None
) -> Tensor:
    """Apply a linear layer, then GELU or a residual, in one pass over the result where possible."""
    # No other runtime knows the fused operation: what is exported is made of plain ones.
    if _HAS_FUSED_LINEAR and _is_plain_float32_on_cpu(x) and not is_recording():
        fused = torch.ops.mkldnn._linear_pointwise
        if plus is not None:
            return fused.binary(x, plus, layer.weight, layer.bias, "add")
        if gelu:
            return fused(x, layer.weight, layer.bias, "gelu", [], "none")  # none: by erf
        return fused(x, layer.weight, layer.bias, "none", [], "")
    y = layer(x)
    if gelu:
        y = F.gelu(y)
    return y if plus is None else plus + y


def _is_plain_float32_on_cpu(x: Tensor) -> bool:
    # The fused operation does not know autocast.
    return (
        x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    )
