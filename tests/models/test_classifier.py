import pytest
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.backbone import make_encoder
from lemevit_cli.models.classifier import build_classifier
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.weights import Card, initialise, save_weights


def card(backbone, names=("a", "b", "c"), **changes):
    return Card(task="cls", backbone=backbone, classes=classes_from_names(names), **changes)


@pytest.mark.parametrize(
    "backbone", ["lemevit_tiny", "test_resnet", "test_vit", "test_convnext", "test_efficientnet"]
)
def test_any_classifier_of_timm_answers_pictures_of_any_size(backbone):
    model = build_classifier(card(backbone)).eval()
    for side in (64, 90):
        assert model(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape == (2, 3)
    inside = sum(p.numel() for p in model.encoder.parameters())
    assert sum(p.numel() for p in model.head.parameters()) + inside == sum(
        p.numel() for p in model.parameters()
    )


def test_the_answer_is_timms_own():
    torch.manual_seed(0)
    model = build_classifier(card("test_resnet")).eval()
    torch.manual_seed(0)
    import timm

    whole = timm.create_model("test_resnet", num_classes=3).eval()
    pixels = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        assert torch.equal(model(pixels), whole(model.front(pixels)))


def test_lemevit_answers_the_same_when_it_is_folded():
    model = build_classifier(card("lemevit_tiny")).eval()
    pixels = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        torch.testing.assert_close(optimise_for_inference(model)(pixels), model(pixels))


@pytest.mark.parametrize("backbone", ["lemevit_tiny", "test_resnet", "convnext_atto"])
def test_a_backbone_that_gives_maps_begins_a_classifier(tmp_path, backbone):
    encoder, _ = make_encoder(backbone, {}, bands=3, pretrained=False)
    path = tmp_path / "backbone.safetensors"
    own = Card(task="backbone", backbone=backbone, classes=())
    save_weights(path, encoder.state_dict(), own)
    model = build_classifier(card(backbone))
    taken = initialise(model, card(backbone), str(path))
    assert taken.copied == len(encoder.state_dict())
    given = list(encoder.state_dict().values())
    found = list(model.encoder.state_dict().values())
    assert all(any(a.shape == b.shape and torch.equal(a, b) for b in found) for a in given[:40])


def test_weights_of_other_classes_give_the_rows_that_they_share(tmp_path):
    old = build_classifier(card("test_resnet", ("x", "b", "c")))
    save_weights(tmp_path / "w.safetensors", old.state_dict(), card("test_resnet", ("x", "b", "c")))
    new = build_classifier(card("test_resnet", ("c", "y")))
    taken = initialise(new, card("test_resnet", ("c", "y")), str(tmp_path / "w.safetensors"))
    assert torch.equal(new.head.weight[0], old.head.weight[2]) and "class y" in taken.left


def test_a_backbone_that_ends_otherwise_is_refused():
    with pytest.raises(WeightsError, match="ends in tuple, not in one linear layer"):
        build_classifier(card("deit_tiny_distilled_patch16_224"))
    with pytest.raises(WeightsError, match="no backbone 'nothing'"):
        build_classifier(card("nothing"))
