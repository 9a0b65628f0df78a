import numpy as np
import pytest
import timm
import torch
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.meta_attention import MetaAttention, attention_to_image


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    model = LeMeViT(embed_dims=(32, 32, 64, 64, 96), depths=(1, 2, 2, 1, 1), num_meta_tokens=5)
    for parameter in model.parameters():  # far from the start, where attention is nearly even
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def seen_by_block(backbone, stage, block, picture):
    """What really comes to a block when the whole network runs."""
    seen = []
    hook = (
        backbone.stages[stage]
        .blocks[block]
        .register_forward_pre_hook(lambda module, arguments: seen.append(arguments[:2]))
    )
    backbone(picture)
    hook.remove()
    return seen[0]


def by_hand(block, x, c, stage):
    """softmax(q k^T) of each head in numpy float64, from the tensors of the state dict alone."""
    state = {k: v.double().numpy() for k, v in block.state_dict().items()}

    def linear(name, tokens):
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(tokens):
        centred = tokens - tokens.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return unit * state["norm1.weight"] + state["norm1.bias"]

    placed = (x + block.cpe(x)).double().numpy()
    t, c = norm(placed.reshape(*placed.shape[:2], -1).swapaxes(1, 2)), norm(c.double().numpy())
    dim = t.shape[-1]
    if stage == 0:
        q, k, scale = linear("attn.q", c), linear("attn.kv", t)[..., :dim], 32**-0.5
    else:
        q, k = linear("attn.qkv_meta", c)[..., :dim], linear("attn.qkv_x", t)[..., dim : 2 * dim]
        scale = dim**-0.5
    heads = []
    for head in range(dim // 32):
        part = slice(32 * head, 32 * head + 32)
        powers = np.exp(scale * q[..., part] @ k[..., part].swapaxes(1, 2))
        heads.append(powers / powers.sum(-1, keepdims=True))
    return np.mean(heads, axis=0).reshape(*c.shape[:2], *x.shape[-2:])


@torch.inference_mode()
@pytest.mark.parametrize(("stage", "block"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)])
def test_maps_are_the_softmax_of_what_the_network_really_sees(backbone, stage, block):
    picture = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    x, c = seen_by_block(backbone, stage, block, picture)
    module = backbone.stages[stage].blocks[block]
    expected = by_hand(module, x, c, stage)
    maps = attention_to_image(module, x, c)
    np.testing.assert_allclose(maps, expected, rtol=2e-4, atol=1e-7)
    shown = MetaAttention(nn.Identity(), backbone, stage=stage, block=block)(picture)
    even = x.shape[-1] * x.shape[-2]
    larger = torch.nn.functional.interpolate(
        even * torch.from_numpy(expected), size=(64, 96), mode="bilinear"
    )
    np.testing.assert_allclose(shown, larger, rtol=1e-3, atol=1e-4)
    assert shown.std() > 0.01


@torch.inference_mode()
def test_an_even_look_is_one_everywhere_and_tokens_are_chosen(backbone):
    block = backbone.stages[2].blocks[1].attn
    block.qkv_meta.weight.zero_()
    block.qkv_meta.bias.zero_()  # no query: all logits are equal
    maps = MetaAttention(nn.Identity(), backbone, stage=2, tokens=(3, 0))(torch.rand(1, 3, 50, 70))
    assert maps.shape == (1, 2, 50, 70)
    np.testing.assert_allclose(maps, 1, rtol=1e-5)


@torch.inference_mode()
def test_a_pruned_backbone_shows_what_the_whole_one_does(backbone):
    torch.manual_seed(0)
    whole = timm.create_model("lemevit_tiny", num_classes=0).eval()
    pruned = timm.create_model("lemevit_tiny", features_only=True).eval()
    pruned.model.load_state_dict(whole.state_dict(), strict=False)
    picture = torch.rand(1, 3, 64, 64)
    shown = [
        MetaAttention(nn.Identity(), model, stage=2)(picture) for model in (whole, pruned.model)
    ]
    assert torch.equal(*shown)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stage": 3}, "--stage 3: meta tokens read the image in stages 0, 1 and 2"),
        ({"stage": 1, "block": 2}, "--block 2: stage 1 has blocks 0 to 1"),
        ({"stage": 0, "tokens": (1, 5)}, "--tokens 5: there are meta tokens 0 to 4"),
    ],
)
def test_what_there_is_not_is_refused(backbone, asked, message):
    with pytest.raises(WeightsError, match=message):
        MetaAttention(nn.Identity(), backbone, **asked)
