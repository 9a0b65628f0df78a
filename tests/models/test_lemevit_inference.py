from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.models import lemevit_inference
from lemevit_cli.models.lemevit import Block, LeMeViT
from lemevit_cli.models.lemevit_inference import FoldedBlock, optimise_for_inference
from lemevit_cli.models.variants import VARIANTS


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


VARIANTS_TO_FOLD = [
    *((name, {}) for name in VARIANTS),
    *((name, {"features_only": True}) for name in VARIANTS),
    ("lemevit_tiny", {"features_only": True, "out_indices": (0, 1)}),
    ("lemevit_tiny", {"drop_path_rate": 0.2, "num_meta_tokens": 8, "num_classes": 0}),
]


@pytest.mark.parametrize(("variant", "arguments"), VARIANTS_TO_FOLD)
def test_every_variant_answers_as_its_original(variant, arguments):
    torch.manual_seed(0)
    model = timm.create_model(variant, **arguments).eval()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    has_pruned = any(isinstance(part, nn.Identity) for block in blocks for part in block.modules())
    assert has_pruned == ("features_only" in arguments)
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        expected, found = model(images), optimise_for_inference(model)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def add_module(part):
    part.further = nn.Linear(64, 64)


def add_parameter(part):
    part.further = nn.Parameter(torch.ones(64))


def add_buffer(part):
    part.register_buffer("further", torch.ones(64))


@pytest.mark.parametrize("add", [add_module, add_parameter, add_buffer])
@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind in "CDS" for path in ("", "attn", "mlp", "mlp.fc1", "cpe", "norm1")]
    + [("C", "attn.kv"), ("D", "attn.proj_x"), ("S", "attn.qkv")],
)
def test_a_part_that_would_be_left_out_is_refused(kind, path, add):
    block = Block(kind, 64, 2, 0.0)
    add(block.get_submodule(path))
    with pytest.raises(ValueError, match=r"has 'further' beside .*lemevit_inference\.py") as raised:
        FoldedBlock(block)
    assert all(name in str(raised.value) for name in path.split("."))


def test_a_block_with_a_further_module_is_refused_in_any_network():
    with torch.device("meta"):
        network = nn.Sequential(timm.create_model("lemevit_tiny", features_only=True))
    backbone = next(module for module in network.modules() if isinstance(module, LeMeViT))
    backbone.stages[4].blocks[1].gate = nn.Linear(320, 320, device="meta")
    with pytest.raises(ValueError, match=r"a block \(Block\) has 'gate' beside what is known"):
        optimise_for_inference(network)


def test_a_known_module_by_a_further_name_is_refused():
    block = Block("S", 64, 2, 0.0)
    block.norm3 = block.norm2
    with pytest.raises(ValueError, match="has 'norm3' beside what is known"):
        FoldedBlock(block)


def test_a_part_of_another_kind_is_refused():
    class Scaled(nn.Linear):
        def forward(self, tokens):
            return 2 * super().forward(tokens)

    class Halved(Block):
        def forward(self, x, c, update_meta):
            return x / 2, c

    block = Block("S", 64, 2, 0.0)
    block.mlp.fc2 = Scaled(256, 64)
    with pytest.raises(ValueError, match="fc2 of mlp of a block is a Scaled, which has no form"):
        FoldedBlock(block)
    with pytest.raises(ValueError, match="a block is a Halved, which has no form"):
        FoldedBlock(Halved("S", 64, 2, 0.0))


def test_autocast_stays_near_full_precision(official):
    fast = optimise_for_inference(official.model)
    images = official.float32["input"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = fast.forward_intermediates(images, intermediates_only=True)
    assert len(maps) == 4
    for i, tensor in enumerate(maps):
        expected = official.float32[f"feature{i}"]
        assert (tensor.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.filterwarnings("ignore")  # of torch, that the size is fixed, which is meant
@pytest.mark.parametrize("way", ["trace", "export"])
def test_a_graph_is_made_of_plain_operations_and_answers_the_same(way):
    torch.manual_seed(0)
    fast = optimise_for_inference(timm.create_model("lemevit_tiny", features_only=True))
    images, others = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        if way == "trace":
            graph = torch.jit.trace(fast, (images,), check_trace=False)
            operations = {node.kind() for node in graph.inlined_graph.nodes()}
        else:
            program = torch.export.export(fast, (images,))
            graph = program.module()
            operations = {str(node.target) for node in program.graph.nodes}
        assert not [name for name in operations if "mkldnn" in name or name == "aten::mT"]
        for found, expected in zip(graph(others), fast(others), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
