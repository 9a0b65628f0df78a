"""Against the table of the authors' nets: calflops ("as reported") and torch's FlopCounterMode."""

from __future__ import annotations

import pytest
import timm
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.cost import cost_of, count
from lemevit_cli.models.lemevit import VARIANTS

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
    """Meta MLPs 3 and 4, and what the last dual block of stage 2 does to the meta tokens."""
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
