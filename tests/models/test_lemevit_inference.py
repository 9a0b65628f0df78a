from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from lemevit_cli.models import lemevit_inference
from lemevit_cli.models.lemevit import Block
from lemevit_cli.models.lemevit_inference import optimise_for_inference


@pytest.fixture(params=["fused", "step by step"])
def linear_layers(request, monkeypatch):
    if request.param == "step by step":
        monkeypatch.setattr(lemevit_inference, "_HAS_FUSED_LINEAR", False)


def test_float64_equals_the_authors_numbers(official):
    fast = optimise_for_inference(official.model.double())
    expected = official.float64
    with torch.no_grad():
        torch.testing.assert_close(fast(expected["input"]), expected["logits"], rtol=0, atol=1e-12)
        maps = fast.forward_intermediates(expected["input"], intermediates_only=True)
    for i, tensor in enumerate(maps):
        torch.testing.assert_close(tensor, expected[f"feature{i}"], rtol=0, atol=1e-12)


def test_float32_equals_the_authors_numbers(official, linear_layers):
    fast = optimise_for_inference(official.model)
    expected = official.float32
    with torch.no_grad():
        torch.testing.assert_close(fast(expected["input"]), expected["logits"], rtol=0, atol=1e-5)
        maps = fast.forward_intermediates(expected["input"], intermediates_only=True)
    for i, tensor in enumerate(maps):
        torch.testing.assert_close(tensor, expected[f"feature{i}"], rtol=0, atol=1e-5)


def test_backbone_inside_another_network_is_found():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = timm.create_model("lemevit_tiny", features_only=True)

        def forward(self, x):
            return self.encoder(x)[-1]

    torch.manual_seed(0)
    network = Network().eval()
    fast = optimise_for_inference(network)
    assert not any(isinstance(m, Block) for m in fast.modules())
    for size in ((75, 101), (9, 9), (9, 1)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(fast(images), network(images), rtol=0, atol=2e-5)


def test_the_original_is_left_as_it_was(official):
    before = {key: tensor.clone() for key, tensor in official.model.state_dict().items()}
    fast = optimise_for_inference(official.model)
    after = official.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(p.requires_grad for p in official.model.parameters())
    assert not any(p.requires_grad for p in fast.parameters())


def test_autocast_stays_near_full_precision(official):
    fast = optimise_for_inference(official.model)
    images = official.float32["input"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = fast.forward_intermediates(images, intermediates_only=True)
    for i, tensor in enumerate(maps):
        expected = official.float32[f"feature{i}"]
        assert (tensor.float() - expected).abs().max() < 0.05 * expected.abs().max()
