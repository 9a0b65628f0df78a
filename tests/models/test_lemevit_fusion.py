from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.lemevit_fusion import FuseAlike, FuseShare, fuse_tokens
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.variants import check_fusion

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tomesd_fuse.safetensors"
REDUCTIONS = [FuseShare(0.25), FuseShare(0.5), FuseShare(0.9), FuseAlike(0.3), FuseAlike(0.99)]
SIZES = [(1, 1), (1, 7), (2, 2), (3, 5), (4, 4), (9, 13)]


@pytest.fixture
def small_net():
    torch.manual_seed(0)
    net = LeMeViT((16, 16, 32, 48, 64), (1, 1, 2, 2, 1), 16, num_meta_tokens=4, num_classes=5)
    return net.eval()


def maps_of(net, images):
    with torch.no_grad():
        return net.forward_intermediates(images, intermediates_only=True)


def fixture(case):
    with safe_open(FIXTURE, "pt") as file:
        settings = json.loads(file.metadata()["meta"])[case]
        tensors = {name: file.get_tensor(f"{case}.{name}") for name in ("x", "merged", "unmerged")}
    return settings, tensors


@pytest.mark.parametrize("case", ["sq", "odd", "max"])
def test_fusing_equals_the_published_numbers(case):
    settings, expected = fixture(case)
    tokens = expected["x"]
    reduction = FuseShare(settings["r"] / tokens.shape[1])
    merged, _ = reduction.plan(tokens, settings["h"], settings["w"]).merge(tokens)
    spread = reduction.plan(tokens, settings["h"], settings["w"]).spread(merged)
    torch.testing.assert_close(spread, expected["unmerged"], rtol=0, atol=1e-6)
    # There, tokens that stay come first, the most similar last; here they are in the map's order.
    for ours, theirs in zip(merged, expected["merged"], strict=True):
        distances = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.min(dim=1)
        assert nearest.values.max() < 1e-5
        assert sorted(nearest.indices.tolist()) == list(range(settings["tokens"]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_sizes_sum_to_all_tokens_and_equal_tokens_come_back(reduction, size):
    torch.manual_seed(0)
    H, W = size
    plan = reduction.plan(torch.randn(3, H * W, 8), H, W)
    if plan is None:
        return
    merged, log_sizes = plan.merge(equal := torch.randn(3, 1, 8).expand(3, H * W, 8))
    assert torch.equal(log_sizes.exp().sum(dim=1).round(), torch.full((3,), float(H * W)))
    assert merged.shape[:2] == log_sizes.shape
    torch.testing.assert_close(plan.spread(merged), equal, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("share", "left"), [(0.25, 48), (0.5, 32), (0.75, 16), (0.9, 6)])
def test_a_share_of_the_tokens_is_fused(share, left):
    tokens = torch.randn(2, 64, 8)
    merged, _ = FuseShare(share).plan(tokens, 8, 8).merge(tokens)
    assert merged.shape == (2, left, 8)


def test_the_most_similar_tokens_are_fused():
    tokens = torch.eye(16, 32)[None].clone()
    tokens[0, 9] = tokens[0, 2]  # the first token of the second cell
    merged, log_sizes = FuseShare(1 / 16).plan(tokens, 4, 4).merge(tokens)
    assert log_sizes.exp()[0].round().tolist() == [1, 1, 2, *[1] * 12]
    torch.testing.assert_close(merged[0, 2], tokens[0, 2])


def test_flat_images_fuse_more_than_busy_ones_whatever_else_is_in_the_batch():
    torch.manual_seed(0)
    busy, flat = torch.randn(1, 64, 32), torch.ones(1, 64, 32)
    reduction = FuseAlike(0.8)
    of_both = reduction.plan(torch.cat((busy, flat)), 8, 8)
    groups = (of_both.sizes > 0).sum(dim=1).tolist()
    assert groups == [64, 4]
    assert reduction.plan(flat, 8, 8).sizes.shape == (1, 4)


def test_no_share_is_bitwise_the_plain_network(small_net):
    images = torch.randn(2, 3, 75, 101)
    expected = maps_of(small_net, images)
    keys = list(small_net.state_dict())
    assert fuse_tokens(small_net, 0.5) == "0.5"
    assert list(small_net.state_dict()) == keys
    fused = maps_of(small_net, images)
    assert not torch.equal(fused[2], expected[2])
    fuse_tokens(small_net, 0.0)
    assert all(map(torch.equal, maps_of(small_net, images), expected))
    fuse_tokens(small_net, 1e-9)  # not one token
    assert all(map(torch.equal, maps_of(small_net, images), expected))


def test_a_threshold_that_nothing_reaches_changes_rounding_alone(small_net):
    images = torch.randn(2, 3, 75, 101)
    expected = maps_of(small_net, images)
    fuse_tokens(small_net, "auto", 1.1)
    for found, plain in zip(maps_of(small_net, images), expected, strict=True):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 117.0])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_fusing_equal_tokens_changes_nothing(small_net, reduction, value):
    # Around the middle every token of a flat picture is the same: nodata, or water.
    attention = small_net.stages[3].blocks[0]
    x = torch.full((2, 48, 8, 8), value)
    attention.cpe.weight.data.zero_()
    plan = reduction.plan(x.permute(0, 2, 3, 1).flatten(1, 2), 8, 8)
    with torch.no_grad():
        expected, _ = attention(x, None, False)
        found, _ = attention(x, None, False, plan)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (9, 1), (1, 40), (33, 64), (75, 101)])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_any_size_gives_finite_maps_in_any_batch_and_in_the_folded_form(small_net, reduction, size):
    small_net.reduce_tokens({3: reduction, 4: reduction})
    images = torch.cat((torch.randn(2, 3, *size), torch.zeros(1, 3, *size)))
    together = maps_of(small_net, images)
    assert all(m.isfinite().all() for m in together)
    alone = [maps_of(small_net, image[None]) for image in images]
    folded = maps_of(optimise_for_inference(small_net), images)
    for level, found in enumerate(together):
        expected = torch.cat([maps[level] for maps in alone])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(found, folded[level], rtol=0, atol=2e-5)


def test_the_classifiers_meta_tokens_are_not_fused(small_net):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        _, plain = small_net._run_stages(images, 5, keep_meta=True)
        small_net.reduce_tokens({3: FuseShare(0.5), 4: FuseShare(0.5)})
        maps, fused = small_net._run_stages(images, 5, keep_meta=True)
        folded, of_folded = optimise_for_inference(small_net)._run_stages(images, 5, keep_meta=True)
    assert torch.equal(plain, fused)
    torch.testing.assert_close(of_folded, fused, rtol=0, atol=1e-5)
    torch.testing.assert_close(folded[-1], maps[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, "auto"])
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(share):
    torch.manual_seed(0)
    model = timm.create_model("lemevit_tiny", features_only=True)
    fuse_tokens(model, share, 0.5)
    other = copy.deepcopy(model)
    other.model.set_grad_checkpointing(True)
    images = torch.randn(2, 3, 96, 96)
    for network in (model, other):
        sum(m.square().mean() for m in network.train()(images)).backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert all(map(torch.equal, gradients, [p.grad for p in other.parameters()]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["trace", "export"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_graph_of_a_fixed_share_answers_the_same(way, share):
    torch.manual_seed(0)
    model = timm.create_model("lemevit_tiny", features_only=True)
    fuse_tokens(model, share)
    fast = optimise_for_inference(model)
    images, others = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        if way == "trace":
            graph = torch.jit.trace(fast, (images,), check_trace=False)
        else:
            graph = torch.export.export(fast, (images,)).module()
        for found, expected in zip(graph(others), fast(others), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_autocast_matches_tokens_in_full_precision():
    torch.manual_seed(0)
    tokens = torch.randn(1, 64, 32)
    expected = FuseAlike(0.4).plan(tokens, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = FuseAlike(0.4).plan(tokens, 8, 8)
    assert torch.equal(found.rows, expected.rows)


def test_only_stages_of_self_attention_are_reduced(small_net):
    for stage in (0, 2, 5):
        with pytest.raises(ValueError, match=f"stage {stage} has no self-attention"):
            small_net.reduce_tokens({stage: FuseShare(0.5)})


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(WeightsError, match=r"--fuse-tokens .*: use auto, or a share from 0 to"):
        check_fusion("lemevit_tiny", {}, share)


@pytest.mark.parametrize("share", [0.5, "auto"])
def test_other_backbones_are_refused(share):
    with pytest.raises(WeightsError, match="the backbone is resnet18; tokens are fused in lemevit"):
        check_fusion("resnet18", {}, share)
    check_fusion("resnet18", {}, 0.0)
