from hashlib import sha256

import pytest
import timm
import torch
from safetensors.torch import save_file

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.dense_features import FeatureSource, open_features
from lemevit_cli.models.weights import Card, save_weights, starter_weights
from lemevit_cli.tasks import load_network

PIXELS = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(1))


def state_file(tmp_path, name, suffix="safetensors"):
    torch.manual_seed(2)
    model = timm.create_model(name)
    path = tmp_path / f"teacher.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": model.state_dict()}, path)
    return model.eval(), str(path)


def normalised(pixels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (pixels / 255 - mean) / std


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_a_timm_model_gives_the_models_maps(tmp_path, suffix):
    model, path = state_file(tmp_path, "resnet10t", suffix)
    features = open_features(FeatureSource(path, model="resnet10t"))
    with torch.no_grad():
        wanted = model.forward_intermediates(normalised(PIXELS), intermediates_only=True)[-4:]
        found = features(PIXELS)
    assert features.strides == (4, 8, 16, 32)
    assert features.try_out(64) == sum(m.shape[1] for m in wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_transformer_gives_three_layers_of_its_one_stride_at_any_size(tmp_path):
    _, path = state_file(tmp_path, "test_vit")
    features = open_features(FeatureSource(path, model="test_vit"))
    depth = len(timm.create_model("test_vit").blocks)
    assert features.strides == (16,) * len(features.strides)
    assert len(features.strides) == len({round(part * depth) for part in (0.5, 0.75, 1.0)})
    assert [tuple(m.shape[2:]) for m in features(PIXELS)] == [(4, 6)] * len(features.strides)
    assert features(PIXELS, zoom=2)[0].shape[2:] == (8, 12)
    one = open_features(FeatureSource(path, model="test_vit", layers=(depth,)))
    torch.testing.assert_close(one(PIXELS)[0], features(PIXELS)[-1])


def test_weights_of_ours_give_their_backbones_levels(tmp_path):
    card = Card(
        task="seg",
        backbone="resnet10t",
        head="fpn",
        classes=classes_from_names(["a", "b"]),
        mean=(100.0, 90.0, 80.0),
        std=(50.0, 40.0, 30.0),
    )
    torch.manual_seed(3)
    model = load_network("seg").build_model(card).eval()
    path = tmp_path / "ours.safetensors"
    save_weights(path, model.state_dict(), card)
    features = open_features(FeatureSource(str(path)))
    x = (PIXELS - torch.tensor(card.mean).view(-1, 1, 1)) / torch.tensor(card.std).view(-1, 1, 1)
    with torch.no_grad():
        wanted = model.encoder(x)[1:]
    for one, other in zip(features(PIXELS), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert features.strides == (2, 4, 8, 16, 32)


def test_a_starter_weight_is_known_by_its_name():
    features = open_features(FeatureSource("landcover"))
    assert (features.strides, features.try_out(64)) == ((4, 8, 16, 32), 64 + 128 + 192 + 320)
    whole = sha256(starter_weights()["landcover"].read_bytes()).hexdigest()
    assert features.digest == whole[:16]


def test_features_never_train(tmp_path):
    _, path = state_file(tmp_path, "resnet10t")
    features = open_features(FeatureSource(path, model="resnet10t")).train()
    assert not features.network.training
    assert not any(p.requires_grad for p in features.parameters())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"name": "{path}"}, "does not say which network"),
        ({"name": "{path}", "model": "resnet18"}, "missing or of another shape"),
        ({"name": "{path}", "model": "magic"}, "no backbone 'magic'"),
        ({"name": "{path}", "model": "resnet10t", "layers": (9,)}, "layers"),
        ({"name": "no/such.safetensors"}, "no such file"),
        ({"name": "landcover", "layers": (1,)}, "give all levels"),
        ({"name": "lemevit_tiny"}, "has no weights of lemevit_tiny; name a file"),
    ],
)
def test_a_mistake_is_told(tmp_path, source, said):
    _, path = state_file(tmp_path, "resnet10t")
    source = {k: v.format(path=path) if isinstance(v, str) else v for k, v in source.items()}
    with pytest.raises(WeightsError, match=said):
        open_features(FeatureSource(**source))


def test_a_name_with_a_tag_is_no_file(monkeypatch):
    monkeypatch.setattr(timm, "create_model", refuse_to_download)
    with pytest.raises(WeightsError, match=r"weights of vit_small_patch14_dinov2\.lvd142m cannot"):
        open_features(FeatureSource("vit_small_patch14_dinov2.lvd142m"))


def refuse_to_download(name, **arguments):
    raise OSError("no network")


def test_a_network_of_one_size_is_refused_with_its_reason(tmp_path):
    _, path = state_file(tmp_path, "cait_xxs24_224")
    features = open_features(FeatureSource(path, model="cait_xxs24_224"))
    assert features.try_out(224) > 0
    with pytest.raises(WeightsError, match="does not take windows of 64 pixels"):
        features.try_out(64)


def test_weights_of_a_file_have_no_licence_that_anybody_told(tmp_path):
    _, path = state_file(tmp_path, "resnet10t")
    assert open_features(FeatureSource(path, model="resnet10t")).licence is None


@pytest.mark.parametrize("others", [{"model": "resnet10t"}, {"state_dict_ema": None}])
def test_a_checkpoint_may_hold_more_than_its_state(tmp_path, others):
    model = timm.create_model("resnet10t")
    path = tmp_path / "teacher.pth"
    torch.save({**others, "state_dict": model.state_dict()}, path)
    features = open_features(FeatureSource(str(path), model="resnet10t"))
    torch.testing.assert_close(features.network.model.conv1[0].weight, model.conv1[0].weight)
