import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import lemevit_cli.models.lemevit  # noqa: F401
from lemevit_cli.models.distiller import Distiller
from lemevit_cli.tasks.backbone.training import backbone_alone, token_loss, token_weights


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
    model = Distiller(
        backbone=backbone, strides=(8, 16), width=4, mean=(1.0,) * 3, std=(1.0,) * 3
    ).eval()
    saved = backbone_alone(model.state_dict())
    plain = timm.create_model(backbone, features_only=True).eval()
    plain.load_state_dict(saved)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x)[-1], model.encoder(x)[-1])
