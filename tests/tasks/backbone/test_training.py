from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import OutputError
from lemevit_cli.models.dense_features import FeatureSource
from lemevit_cli.models.distiller import build_distiller, tokens_of
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.backbone.losses import token_loss, token_weights
from lemevit_cli.tasks.backbone.pretraining import pretrain
from lemevit_cli.tasks.backbone.training import (
    Distillation,
    DistillationOptions,
    backbone_alone,
)
from lemevit_cli.training.augmentation import symmetry
from lemevit_cli.training.options import DataOptions, TrainingOptions


def test_a_student_that_says_what_the_teacher_says_has_no_loss():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([3.0, 1.0, 0.2])
    wanted = torch.randn(2, 3, 5, generator=generator) * scale.view(-1, 1)
    said = wanted / scale.view(-1, 1)
    torch.testing.assert_close(
        token_loss(said, wanted, scale), torch.zeros(2, 5), atol=1e-6, rtol=0
    )
    opposite = token_loss(-said, wanted, scale)
    smooth = F.smooth_l1_loss(-said, said, reduction="none").mean(dim=1)
    torch.testing.assert_close(opposite, 2.0 + 0.5 * smooth)


def test_a_level_counts_by_its_weight_whatever_its_tokens():
    weights = token_weights(64, {4: 0.25, 8: 1.0, 16: 1.0, 32: 0.5})
    parts = weights.split([64, 64, 16, 4])
    np.testing.assert_allclose([p.sum() for p in parts], np.array([0.25, 1, 1, 0.5]) / 2.75)
    assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("backbone", ["lemevit_tiny", "test_resnet"])
def test_what_is_saved_is_timms_backbone(backbone):
    card = Card(task="backbone", backbone=backbone, classes=())
    model = build_distiller(card, strides=(8, 16), width=4).eval()
    saved = backbone_alone(model.state_dict())
    plain = timm.create_model(backbone, features_only=True).eval()
    plain.load_state_dict(saved)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x)[-1], model.encoder(x)[-1])


def test_a_teacher_is_not_replaced_by_its_student(tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    teacher.write_bytes(b"weights")
    options, given = TrainingOptions(overwrite=True), DataOptions(paths=(str(tmp_path),))
    taught = DistillationOptions(teacher=FeatureSource(str(teacher)))
    with pytest.raises(OutputError, match=r"teacher\.safetensors is an input itself"):
        pretrain(given, str(teacher), taught, options)
    assert teacher.read_bytes() == b"weights"


class Repeater(nn.Module):
    """A teacher that repeats what it was given to say."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, pixels):
        return self.tokens


@pytest.fixture
def taught(monkeypatch):
    """Return a distillation whose teacher answers its own numbers, and a batch of turned views."""
    task = Distillation(DistillationOptions(teacher=FeatureSource("nobody")), Path("nowhere"))
    answers = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    scale = torch.tensor([2.0, 1.0, 1.0, 0.5])
    monkeypatch.setattr(task, "_teacher", FakeTeacher(answers, scale))
    batch = {
        "pixels": torch.zeros(3, 3, 64, 64),
        "symmetry": torch.tensor([0, 3, 6]),
        "valid": torch.ones(3, 64, 64, dtype=torch.uint8),
    }
    return task, answers, batch


class FakeTeacher:
    def __init__(self, answers, scale):
        self.answers, self.scale = answers, scale

    def __call__(self, batch):
        return self.answers


def said_of(answers, batch, levels):
    turned = [symmetry(a, int(t)) for a, t in zip(answers, batch["symmetry"], strict=True)]
    scale = torch.tensor([2.0, 1.0, 1.0, 0.5]).view(-1, 1)
    return tokens_of(torch.stack(turned), levels) / scale


def test_a_student_that_sees_what_is_turned_has_to_say_what_is_turned(taught):
    task, answers, batch = taught
    loss = task.make_loss(None, TrainingOptions(crop=64))
    right = said_of(answers, batch, (4, 8, 16, 32))
    total, count = loss(Repeater(right), batch)
    assert float(total) == pytest.approx(0.0, abs=1e-5) and float(count) == pytest.approx(3.0)
    unturned = said_of(answers, batch | {"symmetry": torch.zeros(3)}, (4, 8, 16, 32))
    assert float(loss(Repeater(unturned), batch)[0]) > 0.5


def test_what_is_said_of_nodata_pixels_costs_nothing(taught):
    task, answers, batch = taught
    batch["valid"][1] = 0
    loss = task.make_loss(None, TrainingOptions(crop=64))
    said = said_of(answers, batch, (4, 8, 16, 32))
    said[1] = 9.0
    total, count = loss(Repeater(said), batch)
    assert float(total) == pytest.approx(0.0, abs=1e-5) and float(count) == pytest.approx(2.0)
