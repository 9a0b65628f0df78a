from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.cost import count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.pixel_view import smooth_along_edges
from lemevit_cli.models.segmenter import (
    DECODERS,
    PAPER_DECODER,
    PIXEL_DECODER,
    build_segmenter,
    decoder_defaults,
)
from lemevit_cli.models.weights import Card

SWIN = "swin_tiny_patch4_window7_224"
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def segmenter(backbone="resnet10t", *, decoder="upernet", decoder_args=None, **changes):
    torch.manual_seed(0)
    card = Card(
        task="seg",
        backbone=backbone,
        head=decoder,
        head_args=decoder_defaults(decoder) if decoder_args is None else decoder_args,
        classes=classes_from_names("abcde"),
        mean=MEAN,
        std=STD,
    )
    return build_segmenter(replace(card, **changes)).eval()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", ["resnet10t", "lemevit_tiny", SWIN])
def test_every_decoder_answers_at_the_size_of_its_input(backbone, decoder):
    with torch.inference_mode():
        logits = segmenter(backbone, decoder=decoder)(torch.rand(1, 3, 45, 70) * 255)
    assert logits.shape == (1, 5, 45, 70)


def test_the_landcover_model_is_smaller_than_its_limit():
    model = segmenter("lemevit_tiny")
    assert sum(p.numel() for p in model.parameters()) < 9_900_000


def test_pixels_are_normalised_inside():
    model, plain = segmenter(), segmenter(mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), plain(normalised))


def test_padding_repeats_the_edge_and_is_cropped_away():
    model = segmenter()
    pixels = torch.rand(1, 3, 40, 64) * 255
    padded = torch.cat([pixels, pixels[:, :, -1:].expand(1, 3, 24, 64)], dim=2)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), model(padded)[:, :, :40])


def test_the_card_alone_holds_mean_and_deviation():
    assert not {"mean", "std"} & set(segmenter().state_dict())


def test_bands_follow_the_mean():
    model = segmenter(bands=5, mean=(1.0,) * 5, std=(2.0,) * 5)
    assert model(torch.rand(1, 5, 32, 32)).shape == (1, 5, 32, 32)


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus", "dpt", "pan", "pspnet", "none"])
def test_a_decoder_that_does_not_work_over_strides_4_to_32_lists_the_good_ones(decoder):
    message = f"no decoder '{decoder}'; choose one of fpn, .*upernet"
    with pytest.raises(WeightsError, match=message) as error:
        segmenter(decoder=decoder)
    assert "\n" not in str(error.value)


def test_an_unknown_backbone_is_one_line():
    with pytest.raises(WeightsError, match="no backbone 'lemevit_huge'") as error:
        segmenter("lemevit_huge")
    assert "\n" not in str(error.value)


def test_a_backbone_without_a_pyramid_is_refused():
    with pytest.raises(WeightsError, match="needs features of strides 4 to 32") as error:
        segmenter("vit_tiny_patch16_224")
    assert "\n" not in str(error.value)


def test_light_arguments_are_copies():
    decoder_defaults("upernet")["decoder_channels"] = 1
    assert decoder_defaults("upernet") == {"decoder_channels": 64}
    assert decoder_defaults("unet") == {}


def test_every_channel_reaches_the_decoder_at_one_size():
    model = segmenter("lemevit_tiny").train()

    def enlarge_the_first_channel(_, inputs, features):
        for level in features[2:]:
            level[:, 0] *= 1000.0
        return features

    seen = []
    model.encoder.register_forward_hook(enlarge_the_first_channel)
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 96) * 255)
    assert len(seen) == 6
    for level in seen[2:]:
        assert level.shape[1] >= 64
        torch.testing.assert_close(
            level.std(dim=(0, 2, 3), correction=0),
            torch.ones(level.shape[1]),
            atol=0.02,
            rtol=0,
        )


def test_a_backbone_with_windows_answers_as_at_the_size_that_it_was_made_for():
    model = segmenter(SWIN)
    made_for = timm.create_model(SWIN, features_only=True).eval()
    made_for.load_state_dict(model.encoder.model.state_dict(), strict=False)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        for found, expected in zip(model.encoder(pixels)[2:], made_for(pixels), strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


def test_what_frees_a_backbone_of_its_size_may_be_given_too():
    with torch.device("meta"):
        assert segmenter(SWIN, backbone_args={"strict_img_size": False}).encoder is not None


# Of the authors' nets with five classes (M parameters, G multiply-adds at 512 without the auxiliary
# head, as their counter reports them): whole net, head with the auxiliary head, multiply-adds.
PAPER = [
    ("lemevit_tiny", 37.053, 28.738, 217.81),
    ("lemevit_small", 45.589, 29.573, 228.07),
    ("lemevit_base", 83.191, 30.606, 263.60),
]


@pytest.mark.parametrize(("backbone", "whole", "head", "multiply_adds"), PAPER)
def test_the_papers_net_has_its_parameters_and_cost(backbone, whole, head, multiply_adds):
    with torch.device("meta"):
        model = segmenter(backbone, decoder=PAPER_DECODER)
        # The authors' dense backbone holds the classifier's parts too, which no map depends on.
        backbone_with_dead_parts = timm.create_model(backbone, num_classes=0)
    ours = numbers(model) - numbers(model.encoder)
    assert ours / 1e6 == pytest.approx(head, rel=1e-4)
    assert (numbers(backbone_with_dead_parts) + ours) / 1e6 == pytest.approx(whole, rel=1e-4)
    assert count(model, size=512).macs_as_reported / 1e9 == pytest.approx(multiply_adds, rel=5e-3)


def numbers(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_decoder_reads_raw_features():
    model = segmenter("lemevit_tiny", decoder=PAPER_DECODER, decoder_args={"decoder_channels": 16})
    raw, read = [], []
    model.encoder.register_forward_hook(lambda *call: raw.extend(call[-1]))
    model.decoder.fpn_lateral_blocks[0].register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[1])
    )
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64) * 255)
    assert torch.equal(read[0], raw[4])


def test_the_auxiliary_head_answers_in_training_alone():
    model = segmenter("lemevit_tiny", decoder=PAPER_DECODER, decoder_args={"decoder_channels": 16})
    pixels = torch.rand(2, 3, 45, 70) * 255
    with torch.no_grad():
        logits, auxiliary = model.train()(pixels)
        alone = model.eval()(pixels)
    assert logits.shape == auxiliary.shape == alone.shape == (2, 5, 45, 70)


def test_the_auxiliary_head_sees_the_features_of_stride_16():
    model = segmenter("lemevit_tiny", decoder=PAPER_DECODER, decoder_args={"decoder_channels": 16})
    seen = []
    model.encoder.register_forward_hook(lambda *call: seen.append(call[-1][4]))
    model.eval().training = True  # the parts keep quiet: neither dropout nor statistics move
    with torch.no_grad():
        _, auxiliary = model(torch.rand(1, 3, 64, 96) * 255)
        expected = F.interpolate(model.auxiliary_head(seen[0]), scale_factor=16, mode="bilinear")
    assert seen[0].shape == (1, 192, 4, 6)
    torch.testing.assert_close(auxiliary, expected)


@pytest.mark.parametrize("decoder", [PAPER_DECODER, PIXEL_DECODER, "upernet"])
def test_classifiers_name_the_layers_with_a_row_for_every_class(decoder):
    model = segmenter("resnet10t", decoder=decoder, decoder_args={"decoder_channels": 16})
    state = model.state_dict()
    assert {k for k, tensor in state.items() if tensor.shape[:1] == (5,)} == {
        f"{name}.{kind}" for name in model.classifiers for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("decoder", [PAPER_DECODER, PIXEL_DECODER, "upernet"])
def test_the_faster_form_answers_the_same(decoder):
    model = segmenter("lemevit_tiny", decoder=decoder, decoder_args={"decoder_channels": 16})
    pixels = torch.rand(1, 3, 45, 70) * 255
    with torch.inference_mode():
        expected = model(pixels)
        found = optimise_for_inference(model.train())(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_pixels_have_half_the_say_before_scores_are_smoothed():
    model, plain = segmenter(decoder=PIXEL_DECODER), segmenter()
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    picture = model.front.normalise(pixels)
    with torch.inference_mode():
        detail = model.encoder(picture)[2]
        of_pixels = model.pixel_view(pixels, picture, detail)
        scores = (plain(pixels).softmax(dim=1) + of_pixels.softmax(dim=1)) / 2
        expected = smooth_along_edges(scores, picture)
        torch.testing.assert_close(model(pixels).softmax(dim=1), expected)


def test_steps_train_the_network_and_not_the_view_of_pixels():
    model = segmenter(decoder=PIXEL_DECODER).train()
    logits = model(torch.rand(2, 3, 45, 70) * 255)
    assert logits.shape == (2, 5, 45, 70)
    logits.sum().backward()
    assert all(p.grad is None for p in model.pixel_view.parameters())
    assert any(p.grad is not None for p in model.encoder.parameters())


def test_what_the_view_of_pixels_is_fitted_to_is_what_it_reads():
    model = segmenter(decoder=PIXEL_DECODER)
    pixels = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        colours, detail = model.pixel_inputs(pixels)
        picture = model.front.normalise(pixels)
        expected = model.pixel_view(pixels, picture, model.encoder(picture)[2])
        torch.testing.assert_close(
            model.pixel_view.answer(colours, detail), expected, atol=1e-4, rtol=1e-4
        )
