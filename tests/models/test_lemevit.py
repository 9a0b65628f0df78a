from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.export import Dim

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.variants import VARIANTS


@pytest.fixture
def small_net():
    """Return a net of two blocks in the long stages, small enough for exhaustive checks."""
    torch.manual_seed(0)
    return LeMeViT((16, 16, 32, 48, 64), (1, 1, 2, 2, 1), 16, num_meta_tokens=4, num_classes=5)


def dense(**arguments):
    torch.manual_seed(0)
    return timm.create_model("lemevit_tiny", features_only=True, **arguments)


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_makes_a_backbone_of_four_maps(variant):
    with torch.device("meta"):
        model = timm.create_model(variant, features_only=True, in_chans=4)
        maps = model(torch.empty(2, 4, 75, 101))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert model.feature_info.channels() == list(VARIANTS[variant]["embed_dims"][1:])
    expected = [(19, 26), (10, 13), (5, 7), (3, 4)]
    assert [m.shape[2:] for m in maps] == expected
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


def test_maps_can_be_chosen_and_later_stages_are_not_built(tiny_images):
    whole, chosen = dense().eval(), dense(out_indices=(0, 2)).eval()
    chosen.load_state_dict(whole.state_dict(), strict=False)
    assert len(chosen.model.stages) == 4
    with torch.no_grad():
        expected = [whole(tiny_images)[i] for i in (0, 2)]
        assert all(torch.equal(a, b) for a, b in zip(chosen(tiny_images), expected, strict=True))


def test_a_fresh_network_keeps_all_channels_in_sight():
    torch.manual_seed(0)
    network = timm.create_model("lemevit_tiny", features_only=True).eval()
    with torch.inference_mode():
        maps = network(torch.randn(2, 3, 128, 128))
    assert len(maps) == 4
    for features in maps:
        deviations = features.std(dim=(0, 2, 3))
        assert deviations.max() < 10 * deviations.median()


@pytest.mark.parametrize("size", [(9, 9), (9, 1), (1, 40), (33, 64), (75, 101)])
def test_any_size_above_eight_pixels_gives_finite_maps(small_net, size):
    maps = small_net.eval().forward_intermediates(torch.randn(1, 3, *size), intermediates_only=True)
    for level, m in zip((4, 8, 16, 32), maps, strict=True):
        assert m.shape[2:] == tuple(-(-side // level) for side in size)
        assert m.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (8, 3)])
def test_smaller_images_are_refused(small_net, size):
    with pytest.raises(ValueError, match=rf"above 8 pixels, got an image of {size[0]} x {size[1]}"):
        small_net(torch.randn(1, 3, *size))


def test_stages_zero_and_one_must_share_their_width():
    with pytest.raises(ValueError, match="stages 0 and 1 share one map"):
        LeMeViT((32, 64, 128, 192, 320))


def test_evaluation_is_deterministic_and_does_not_depend_on_the_batch(small_net, tiny_images):
    model = small_net.eval()
    with torch.no_grad():
        logits = model(tiny_images)
        assert torch.equal(logits, model(tiny_images))
        torch.testing.assert_close(model(tiny_images[1:]), logits[1:], rtol=0, atol=1e-6)


def test_maps_equal_those_of_the_classification_path(small_net, tiny_images):
    model = small_net.eval()
    with torch.no_grad():
        features, beside = model.forward_intermediates(tiny_images)
        alone = model.forward_intermediates(tiny_images, intermediates_only=True)
        assert torch.equal(features, model.forward_features(tiny_images))
        assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_norm_is_applied_to_the_last_map_alone(small_net, tiny_images):
    model = small_net.eval()
    raw = model.forward_intermediates(tiny_images, intermediates_only=True)
    normed = model.forward_intermediates(tiny_images, norm=True, intermediates_only=True)
    assert torch.equal(normed[2], raw[2])
    assert torch.equal(normed[3], model.norm(raw[3]))


def test_only_channels_first_maps_are_given(small_net, tiny_images):
    with pytest.raises(ValueError, match="output_fmt must be NCHW, got NHWC"):
        small_net.forward_intermediates(tiny_images, output_fmt="NHWC")


def test_every_parameter_of_a_dense_backbone_gets_a_gradient():
    # Distributed training stops at a parameter that is never used.
    for out_indices in ((0, 1, 2, 3), (0, 1), (0,)):
        model = dense(out_indices=out_indices).train()
        sum(m.square().sum() for m in model(torch.randn(2, 3, 64, 64))).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_every_parameter_of_a_classifier_gets_a_gradient(small_net, tiny_images):
    small_net(tiny_images).square().sum().backward()
    assert [name for name, p in small_net.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_changes_no_gradient(small_net, tiny_images):
    other = copy.deepcopy(small_net)
    other.set_grad_checkpointing(True)
    for model in (small_net, other):
        model.train()(tiny_images).square().sum().backward()
    for ours, theirs in zip(small_net.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    tensors = {False: 0, True: 0}
    for enable in tensors:
        small_net.set_grad_checkpointing(enable)
        tensors[enable] = bytes_kept_for_backward(small_net, tiny_images)
    assert tensors[True] < tensors[False] / 3


def bytes_kept_for_backward(model, images):
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    return kept


def test_drop_path_rises_linearly_over_the_blocks():
    model = timm.create_model("lemevit_tiny", drop_path_rate=0.14)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(15)])


def test_drop_path_draws_image_and_meta_tokens_apart(small_net):
    block = small_net.stages[1].blocks[0].train()
    block.drop_path.drop_prob = 0.5
    c = torch.randn(64, 4, 16)
    x = torch.randn(64, 16, 6, 5)
    new_x, new_c = block(x, c, True)
    kept_x = (new_x != x + block.cpe(x)).flatten(1).any(1)
    kept_c = (new_c != c).flatten(1).any(1)
    assert (kept_x != kept_c).any()


def test_linear_layers_start_small_and_convolutions_as_in_torch():
    torch.manual_seed(0)
    model = timm.create_model("lemevit_tiny")
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.1) for m in linears)
    assert all((m.bias == 0).all() for m in linears)
    assert model.meta_tokens.std().item() == pytest.approx(1, rel=0.1)
    stem = model.stages[0].downsample[0]
    assert stem.weight.abs().max().item() == pytest.approx(27**-0.5, rel=0.02)


def test_classifier_can_be_replaced_or_taken_away(small_net, tiny_images):
    model = small_net.eval()
    model.reset_classifier(3)
    assert model(tiny_images).shape == (2, 3)
    assert model.get_classifier() is model.head
    model.reset_classifier(0)
    pooled = model(tiny_images)
    assert torch.equal(pooled, model.forward_head(model.forward_features(tiny_images), True))
    assert pooled.shape == (2, 64)
    model.reset_classifier(0, "")
    assert model(tiny_images).shape == (2, 64, 3, 4)


def test_layer_groups_cover_every_parameter_in_order(small_net):
    from timm.models import group_parameters

    groups = group_parameters(small_net, small_net.group_matcher())
    layer = {name: index for index, names in groups.items() for name in names}
    assert set(layer) == {name for name, _ in small_net.named_parameters()}
    path = [
        "meta_tokens",
        "stages.0.blocks.0.attn.q.weight",
        "stages.1.blocks.0.cpe.weight",
        "stages.2.downsample.0.weight",
        "stages.2.blocks.1.cpe.weight",
        "norm.weight",
        "head.weight",
    ]
    order = [layer[name] for name in path]
    assert order == sorted(order)
    assert order[0] == layer["stages.0.downsample.0.weight"] < order[1] < order[2] < order[-1]
    assert small_net.no_weight_decay() == set()


def test_autocast_stays_near_full_precision(small_net, tiny_images):
    model = small_net.eval()
    with torch.no_grad():
        expected, expected_maps = model(tiny_images), model.forward_intermediates(tiny_images)[1]
        with torch.autocast("cpu", torch.bfloat16):
            logits, maps = model(tiny_images), model.forward_intermediates(tiny_images)[1]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.01)
    # The logits of two pictures differ by as little before a training; their maps do not.
    for found, wanted in zip(maps, expected_maps, strict=True):
        assert (found - wanted).abs().max() < 0.1 * (wanted[0] - wanted[1]).abs().max()


def test_memory_format_does_not_matter(small_net, tiny_images):
    model = small_net.eval()
    with torch.no_grad():
        expected = model(tiny_images)
        model = model.to(memory_format=torch.channels_last)
        logits = model(tiny_images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_tokens_are_views_of_the_maps(small_net, tiny_images):
    maps = small_net.eval().forward_intermediates(tiny_images, intermediates_only=True)
    assert len(maps) == 4
    for m in maps:
        assert m.is_contiguous(memory_format=torch.channels_last)


def test_exported_program_takes_other_sizes_and_batches(small_net, tiny_images):
    model = small_net.eval()
    # Above 32 pixels: torch.export treats a last map of one pixel as another program.
    sides = {0: Dim("batch", min=1), 2: Dim("height", min=33), 3: Dim("width", min=33)}
    program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(sides,))
    other = torch.cat([tiny_images, tiny_images])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), model(other), rtol=0, atol=1e-6)


def test_pretrained_weights_are_not_promised():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for lemevit_tiny"):
        timm.create_model("lemevit_tiny", pretrained=True)
