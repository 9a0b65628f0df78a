"""Our LeMeViT against numbers that the authors' own class gave, and their checkpoints' layouts.

The fixtures were made by running ViTAE-Transformer/LeMeViT @1b48783 on random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.official_checkpoint import (
    identify_official,
    load_backbone,
    load_official_state_dict,
    our_key,
)
from lemevit_cli.models.variants import VARIANTS

FIXTURES = Path(__file__).parents[1] / "fixtures"
VANISHING = 1e-12  # norm below which a gradient is rounding: key biases, biases before a norm


def official_keys(variant):
    record = json.loads((FIXTURES / f"state_dict_keys_{variant}.json").read_text())
    return {key: tuple(shape) for key, shape, _ in record["state_dict"]}


def official_like(variant):
    """Return a checkpoint in the authors' layout, of this variant's shapes."""
    return {key: torch.zeros(shape) for key, shape in official_keys(variant).items()}


def run_and_record(model, images):
    """Return every number that the fixtures list, under their names."""
    seen = {}

    def record(name):
        def hook(module, inputs, output):
            if isinstance(output, tuple):
                seen[f"{name}.x"], seen[f"{name}.meta"] = output
            else:
                seen[name] = output

        return hook

    handles = [model.norm.register_forward_hook(record("norm_x"))]
    handles.append(model.norm_meta.register_forward_hook(record("meta_final_normed")))
    for i, stage in enumerate(model.stages):
        handles.append(stage.downsample.register_forward_hook(record(f"down{i}")))
        handles.append(stage.meta_mlp.register_forward_hook(record(f"meta_in{i}")))
        for j, block in enumerate(stage.blocks):
            handles.append(block.register_forward_hook(record(f"block{i}.{j}")))
    with torch.no_grad():
        features = model.forward_features(images)
        seen["pooled"] = model.forward_head(features, pre_logits=True)
        seen["logits"] = model.forward_head(features)
    for handle in handles:
        handle.remove()
    depths = [len(stage.blocks) for stage in model.stages]
    for i in range(4):
        seen[f"feature{i}"] = seen[f"block{i + 1}.{depths[i + 1] - 1}.x"]
    seen["meta_final"] = seen[f"block4.{depths[4] - 1}.meta"]
    # Dense networks of the authors pass the tokens through MLPs 3 and 4 and no block between.
    with torch.no_grad():
        after_stage_2 = seen[f"block2.{depths[2] - 1}.meta"]
        seen["meta_final_dense"] = model.stages[4].meta_mlp(model.stages[3].meta_mlp(after_stage_2))
    return seen


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_outputs_equal_the_authors_numbers(official, dtype, tolerance):
    expected = getattr(official, dtype)
    seen = run_and_record(official.model.to(getattr(torch, dtype)), expected.pop("input"))
    assert len(expected) == 9
    for name, tensor in expected.items():
        torch.testing.assert_close(seen[name], tensor, rtol=0, atol=tolerance, msg=name)


def test_every_intermediate_equals_the_authors_numbers(official):
    seen = run_and_record(official.model.double(), official.float64["input"])
    assert len(official.intermediates) == {1: 19, 2: 21}[official.record["config"]["depth"][0]]
    for name, tensor in official.intermediates.items():
        torch.testing.assert_close(seen[name], tensor, rtol=0, atol=1e-12, msg=name)


def test_dense_maps_equal_the_authors_numbers(official):
    maps = official.model.double().forward_intermediates(
        official.float64["input"], intermediates_only=True
    )
    assert len(maps) == 4
    for i, tensor in enumerate(maps):
        torch.testing.assert_close(tensor, official.float64[f"feature{i}"], rtol=0, atol=1e-12)


def test_training_step_equals_the_authors_numbers(official):
    model, record = official.model.double().train(), official.record["train_float64"]
    logits = model(official.float64["input"])
    loss = F.cross_entropy(logits, torch.tensor(record["labels"]))
    loss.backward()
    torch.testing.assert_close(
        logits, torch.tensor(record["logits"], dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert loss.item() == pytest.approx(record["loss"], rel=1e-12)
    parameters = dict(model.named_parameters())
    assert {our_key(key) for key in record["grad_l2"]} == set(parameters)
    for key, expected in record["grad_l2"].items():
        norm = parameters[our_key(key)].grad.norm().item()
        if expected < VANISHING:
            assert norm < VANISHING, key
        else:
            assert norm == pytest.approx(expected, rel=1e-9), key


def test_batch_norm_statistics_equal_the_authors_numbers(official):
    model, record = official.model.double().train(), official.record["train_float64"]
    model(official.float64["input"])
    state = model.state_dict()
    statistics = record["running_mean_after_l2"] | record["running_var_after_l2"]
    assert len(statistics) == 12
    for key, expected in statistics.items():
        assert state[our_key(key)].norm().item() == pytest.approx(expected, rel=1e-12), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_tensors_are_those_of_the_published_class(variant):
    with torch.device("meta"):
        model = timm.create_model(variant)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    theirs = {our_key(key): shape for key, shape in official_keys(variant).items()}
    assert len(theirs) == len(official_keys(variant))
    assert ours == theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_is_told_from_a_checkpoint(variant):
    arguments = {"num_classes": 1000, "in_chans": 3, "num_meta_tokens": 16}
    assert identify_official(official_like(variant)) == (variant, arguments)


def test_foreign_checkpoint_is_refused_with_the_three_variants(official):
    with pytest.raises(WeightsError, match=r"32x\d, .* lemevit_tiny, lemevit_small, lemevit_base"):
        identify_official({"state_dict": official.weights})
    with pytest.raises(WeightsError, match="no block at all"):
        identify_official({"fc.weight": torch.zeros(2, 2)})


NO_SIDE = {
    "head.bias": [torch.tensor(1.0), torch.zeros(1).expand(10**9), torch.zeros(0)],
    "meta_tokens": [torch.tensor(1.0), None, torch.zeros(1, 1).expand(10**9, 1)],
    "stages.2.0.norm1.weight": [torch.tensor(1.0), torch.zeros(0)],
    "downsample_layers.0.0.weight": [torch.tensor(1.0), torch.zeros(3), 7],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in NO_SIDE.items() for v in vs])
def test_what_a_network_cannot_be_built_by_is_told_before_it_is(key, value):
    """A side of a billion costs a file nothing: its tensor repeats one value."""
    with pytest.raises(
        WeightsError, match=r"none of the authors': its [\w.]+ is (of shape|missing)"
    ):
        identify_official(official_like("lemevit_tiny") | {key: value})


@pytest.mark.parametrize(
    "strange",
    [
        *(
            {"state_dict": torch.ones(2)},
            {"model": [1]},
            {7: torch.ones(1)},
            {"state_dict": {7: 8}},
        ),
        {"stages.0.99999999.norm1.weight": torch.ones(1)},
    ],
)
def test_what_is_no_state_of_a_network_is_refused(strange):
    with pytest.raises(WeightsError, match="it is none of lemevit_tiny"):
        identify_official(strange)


def test_tensors_that_hold_no_plain_values_are_missing_ones(official):
    for strange in (torch.ones(32).to_sparse(), torch.ones(32, device="meta")):
        weights = official.weights | {"norm.weight": strange}
        with pytest.raises(WeightsError, match=r"lack norm\.weight"):
            load_official_state_dict(official.model, weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "args": None},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()} | _decoder()},
        lambda s: {"state_dict": {f"module.backbone.{k}": v for k, v in s.items()} | _decoder()},
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
    ],
    ids=["bare", "timm", "model", "module", "backbone", "both", "averaged weights first"],
)
def test_every_layout_of_the_authors_is_read(official, wrap):
    model = official.model
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert load_official_state_dict(model, wrap(official.weights)) == []
    state = model.state_dict()
    for key, tensor in official.weights.items():
        assert torch.equal(state[our_key(key)], tensor), key


def _decoder():
    return {"decode_head.conv.weight": torch.zeros(1)}


def test_norms_that_the_authors_detector_never_applies_are_passed_over(official):
    extra = {"extra_norms.0.weight": torch.zeros(32)}
    assert load_official_state_dict(official.model, official.weights | extra) == []


def test_tensors_that_do_not_fit_are_named(official):
    weights = dict(official.weights)
    with pytest.raises(WeightsError, match=r"have unknown gate\.weight; "):
        load_official_state_dict(official.model, weights | {"gate.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"other shapes: head.bias \(3,\) for"):
        load_official_state_dict(official.model, weights | {"head.bias": torch.zeros(3)})
    four = [key for key in weights if ".qkv1." in key or ".qkv2." in key][:4]
    for key in four:
        del weights[key]
    with pytest.raises(WeightsError, match=r"lack .*qkv_x.weight, .* and 1 more; "):
        load_official_state_dict(official.model, weights)


def test_classifier_loads_into_a_dense_backbone_which_leaves_out_what_it_lacks(tiny_images):
    classifier = timm.create_model("lemevit_tiny", num_classes=5).eval()
    dense = timm.create_model("lemevit_tiny", features_only=True).eval()
    left_out = load_backbone(dense, classifier.state_dict())
    parts = {key.rsplit(".", 1)[0] for key in left_out}
    assert parts == {
        "stages.2.blocks.1.attn.proj_meta",
        *(f"stages.{i}.meta_mlp.{j}" for i in (3, 4) for j in (0, 1, 3, 4)),
        "norm",
        "norm_meta",
        "head",
    }
    with torch.no_grad():
        expected = classifier.forward_intermediates(tiny_images)[1]
        assert all(torch.equal(a, b) for a, b in zip(dense(tiny_images), expected, strict=True))
    # And back: exactly these are missing, but for the counter, which torch supplies.
    missing, unexpected = classifier.load_state_dict(dense.model.state_dict(), strict=False)
    assert set(missing) == set(left_out) - {"norm.num_batches_tracked"}
    assert unexpected == []


def test_classifier_loads_into_a_network_without_a_head():
    headless = timm.create_model("lemevit_tiny", num_classes=0)
    state = timm.create_model("lemevit_tiny", num_classes=5).state_dict()
    assert load_backbone(headless, state) == ["head.weight", "head.bias"]


def test_classifier_loads_into_a_backbone_of_two_maps():
    short = timm.create_model("lemevit_tiny", features_only=True, out_indices=(0, 1))
    left_out = load_backbone(short, timm.create_model("lemevit_tiny").state_dict())
    assert "stages.3.blocks.0.norm1.weight" in left_out
    assert not any(key.startswith("stages.1.") for key in left_out)
