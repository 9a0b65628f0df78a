import pytest
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.distiller import build_distiller, tokens_of, tokens_of_levels
from lemevit_cli.models.weights import Card


def distiller(backbone, strides):
    card = Card(task="backbone", backbone=backbone, classes=(), mean=(128.0,) * 3, std=(64.0,) * 3)
    return build_distiller(card, strides=strides, width=5)


def test_every_level_answers_with_its_tokens():
    model = distiller("test_resnet", (4, 8, 16, 32))
    tokens = model(torch.rand(2, 3, 64, 64) * 255)
    counts = tokens_of_levels(64, (4, 8, 16, 32))
    assert counts == [64, 64, 16, 4]  # stride 4 is averaged to 8
    assert tokens.shape == (2, 5, sum(counts))


def test_targets_of_a_level_are_the_means_over_its_cells():
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    fine, coarse = tokens_of(maps, (8, 32)).split(tokens_of_levels(64, (8, 32)), dim=2)
    assert fine.flatten().tolist() == maps.flatten().tolist()
    assert coarse.flatten().tolist() == [
        float(maps[0, 0, r : r + 4, c : c + 4].mean()) for r in (0, 4) for c in (0, 4)
    ]


def test_a_wild_channel_changes_nothing(monkeypatch):
    """The norm in front of a projection takes the scale of every channel away."""
    torch.manual_seed(1)
    model = distiller("test_resnet", (8,)).train()
    x = torch.rand(4, 3, 64, 64) * 255
    tame = model(x)
    encoder = model.encoder.forward

    def wild(pixels):
        levels = encoder(pixels)
        scale = torch.linspace(1, 1000, levels[3].shape[1]).view(-1, 1, 1)
        return [*levels[:3], levels[3] * scale, *levels[4:]]

    monkeypatch.setattr(model.encoder, "forward", wild)
    torch.testing.assert_close(model(x), tame, rtol=1e-2, atol=1e-2)


def test_a_stride_that_a_backbone_lacks_is_named():
    with pytest.raises(WeightsError, match="no features of stride 2; it has 4, 8, 16, 32"):
        distiller("lemevit_tiny", (2, 8))


def test_sides_have_to_be_whole_strides():
    with pytest.raises(ValueError, match="100"):
        tokens_of_levels(100, (8,))
