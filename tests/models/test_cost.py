"""Against the table of the authors' nets: calflops ("as reported") and torch's FlopCounterMode."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.cost import cost_of, count
from lemevit_cli.models.variants import VARIANTS

M = 16


@pytest.mark.parametrize(
    ("variant", "reported", "true"),
    [
        ("lemevit_tiny", "1.7789", "1.9461"),
        ("lemevit_small", "3.7360", "3.9560"),
        ("lemevit_base", "11.0603", "11.7407"),
    ],
)
def test_multiply_adds_of_the_classifier_at_224(variant, reported, true):
    cost = cost_of(variant, size=224)["classifier"]
    assert f"{cost['macs_as_reported'] / 1e9:.4f}" == reported
    assert f"{cost['macs'] / 1e9:.4f}" == true


@pytest.mark.parametrize(
    ("variant", "size", "reported", "true"),
    [
        ("lemevit_tiny", 512, "8.710", "12.250"),
        ("lemevit_small", 512, "18.419", "22.898"),
        ("lemevit_base", 512, "53.765", "69.234"),
        ("lemevit_tiny", 1024, "34.781", "88.603"),
        ("lemevit_small", 1024, "73.543", "140.988"),
        ("lemevit_base", 1024, "214.846", "453.888"),
    ],
)
def test_dense_backbone_does_the_authors_work_without_its_dead_part(variant, size, reported, true):
    cost = cost_of(variant, size=size)["dense_backbone"]
    layers, attention = dead_in_the_authors_backbone(VARIANTS[variant]["embed_dims"], size)
    assert f"{(cost['macs_as_reported'] + layers) / 1e9:.3f}" == reported
    assert f"{(cost['macs'] + layers + attention) / 1e9:.3f}" == true


def dead_in_the_authors_backbone(dims, size):
    """Return meta MLPs 3 and 4, and what the last dual block of stage 2 does to the meta tokens."""
    mlps = sum(M * (4 * dims[i - 1] ** 2 + 4 * dims[i - 1] * dims[i]) for i in (3, 4))
    projection_and_mlp = M * (1 + 8) * dims[2] ** 2
    return mlps + projection_and_mlp, 2 * (size // 8) ** 2 * M * dims[2]


@pytest.mark.parametrize(
    ("tokens", "billions"), [(64, 4.391), (32, 3.954), (16, 3.736), (8, 3.626)]
)
def test_multiply_adds_by_number_of_meta_tokens(tokens, billions):
    with torch.device("meta"):
        model = timm.create_model("lemevit_small", num_classes=51, num_meta_tokens=tokens)
    assert count(model, size=224).macs_as_reported / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize(
    ("variant", "classes_1000", "classes_51", "headless"),
    [
        ("lemevit_tiny", 8_635_816, 8_331_187, 8_314_816),
        ("lemevit_small", 16_400_456, 16_035_091, 16_015_456),
        ("lemevit_base", 53_098_152, 52_611_315, 52_585_152),
    ],
)
def test_parameters_to_the_unit(variant, classes_1000, classes_51, headless):
    for num_classes, expected in ((1000, classes_1000), (51, classes_51), (0, headless)):
        with torch.device("meta"):
            model = timm.create_model(variant, num_classes=num_classes)
        assert sum(p.numel() for p in model.parameters()) == expected
    assert cost_of(variant, size=64)["classifier"]["parameters"] == classes_1000


def test_another_timm_model_is_counted_too():
    cost = cost_of("resnet18", size=224)["classifier"]
    assert cost["parameters"] == 11_689_512  # as in torchvision's documentation
    assert cost["macs"] == cost["macs_as_reported"]  # it has no attention


def test_model_of_one_size_refuses_another():
    with pytest.raises(WeightsError, match="vit_tiny_patch16_224 does not run on 96 x 96 pixels"):
        cost_of("vit_tiny_patch16_224", size=96)


def state_of(model):
    """Return modes, gradients and hooks of every part of a model, and the hooks on all modules."""
    hooks = [
        {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")}
        for module in model.modules()
    ]
    everywhere = vars(nn.modules.module)
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        hooks,
        {key: len(everywhere[key]) for key in everywhere if key.endswith("_hooks")},
    )


class Unfinished(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, pixels):
        self.layers(pixels)
        raise RuntimeError("no head yet")


@pytest.mark.parametrize("is_training", [True, False])
def test_a_counted_model_is_given_back_as_it_was(is_training):
    with torch.device("meta"):
        model = timm.create_model("lemevit_tiny", num_classes=5).train(is_training)
    # As a training leaves it that lets some parts rest: modes differ below one another.
    model.stages[0].train(not is_training)
    model.stages[0].blocks[0].norm1.train(is_training)
    model.stages[1].requires_grad_(False)
    model.head.register_forward_hook(lambda module, args, answer: None)
    before = state_of(model)
    assert {True, False} == set(before[0]) == {requires for requires, _ in before[1]}
    count(model, size=64)
    assert state_of(model) == before


def test_a_model_that_fails_is_given_back_as_it_was_too():
    model = Unfinished()
    before = state_of(model)
    with pytest.raises(RuntimeError, match="no head yet"):
        count(model, size=32)
    assert state_of(model) == before and all(before[0])
