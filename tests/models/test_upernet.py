"""UPerNet, and LeMeViT without timm, beside the libraries whose tensors and numbers they share."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.backbone import make_encoder
from lemevit_cli.models.lemevit import DropPath, LeMeViT
from lemevit_cli.models.segmenter import build_segmenter
from lemevit_cli.models.upernet import UPerNet
from lemevit_cli.models.weights import Card


def assert_equal_states(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("backbone", ["lemevit_tiny", "test_resnet"])
@pytest.mark.parametrize("arguments", [{}, {"decoder_channels": 16}])
def test_a_fresh_segmenter_has_the_librarys_tensors_and_answers(backbone, arguments):
    card = Card(
        task="seg",
        backbone=backbone,
        head="upernet",
        head_args=arguments,
        classes=classes_from_names("abc"),
        bands=4,
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
    )
    torch.manual_seed(7)
    ours = build_segmenter(card).eval()
    torch.manual_seed(7)
    theirs = smp.create_model(
        "upernet", f"tu-{backbone}", encoder_weights=None, in_channels=4, classes=3, **arguments
    ).eval()
    # Between the two, ours has a batch norm of each level; untrained, it changes but the rounding.
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("feature_norms")}
    assert_equal_states(state, theirs.state_dict())
    for norm in ours.feature_norms:
        norm.eps = 0.0
    pixels = torch.rand(2, 4, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(pixels), theirs(pixels))


def test_an_argument_that_only_the_library_knows_reaches_it():
    card = Card(
        task="seg",
        backbone="lemevit_tiny",
        head="upernet",
        head_args={"decoder_channels": 16, "decoder_use_norm": False},
        classes=classes_from_names("ab"),
    )
    decoder = build_segmenter(card).decoder
    assert not [m for m in decoder.psp.blocks.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("is_training", [True, False])
def test_the_decoder_answers_as_the_librarys(is_training):
    widths = [8, 12, 16, 24]
    ours, theirs = UPerNet(widths, 10), UPerNetDecoder([3, 0, *widths], decoder_channels=10)
    ours.load_state_dict(theirs.state_dict())
    ours.train(is_training)
    theirs.train(is_training)
    maps = [torch.rand(2, w, 32 >> i, 24 >> i) for i, w in enumerate(widths)]
    picture, empty = torch.rand(2, 3, 128, 96), torch.rand(2, 0, 64, 48)
    given = [picture, empty, *maps]
    assert torch.equal(ours(given), theirs([*given]))
    assert all(a is b for a, b in zip(given[2:], maps, strict=True))  # ours writes into no list
    assert_equal_states(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("arguments", [{}, {"drop_path_rate": 0.3, "num_meta_tokens": 5}])
def test_lemevit_needs_no_wrapper_to_answer_as_in_one(arguments):
    torch.manual_seed(3)
    ours, widths = make_encoder("lemevit_tiny", arguments, bands=5, pretrained=False)
    torch.manual_seed(3)
    theirs = smp.encoders.get_encoder("tu-lemevit_tiny", in_channels=5, **arguments)
    assert widths == theirs.out_channels[1:]
    assert_equal_states(ours.state_dict(), theirs.state_dict())
    x = torch.rand(2, 5, 64, 96)
    torch.manual_seed(4)
    found = ours.train()(x)
    torch.manual_seed(4)
    expected = theirs.train()(x)
    assert [m.shape for m in found] == [m.shape for m in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("is_training", [True, False])
def test_paths_are_dropped_as_in_timm(rate, is_training):
    x = torch.rand(16, 3, 5)
    answers = []
    for layer in (DropPath(rate), timm.layers.DropPath(rate)):
        torch.manual_seed(1)
        answers.append(layer.train(is_training)(x))
    assert torch.equal(*answers)


@pytest.mark.parametrize("pooling", ["avg", "max", ""])
def test_maps_are_pooled_as_in_timm(pooling):
    x = torch.rand(2, 320, 3, 4)
    network = LeMeViT(num_classes=0, global_pool=pooling)
    theirs = timm.layers.SelectAdaptivePool2d(pool_type=pooling, flatten=bool(pooling))
    assert torch.equal(network.global_pool(x), theirs(x))


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="pools by avg, max, not by 'best'"):
        LeMeViT(global_pool="best")
