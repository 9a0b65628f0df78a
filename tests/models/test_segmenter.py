import pytest
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.segmenter import DECODERS, Segmenter, decoder_defaults

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def segmenter(backbone="resnet10t", **changes):
    torch.manual_seed(0)
    settings = {"num_classes": 5, "mean": MEAN, "std": STD, **changes}
    return Segmenter(backbone=backbone, **settings).eval()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", ["resnet10t", "lemevit_tiny"])
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
    model = segmenter(mean=(1.0,) * 5, std=(2.0,) * 5)
    assert model(torch.rand(1, 5, 32, 32)).shape == (1, 5, 32, 32)


def test_an_unknown_decoder_lists_the_good_ones():
    with pytest.raises(WeightsError, match=r"no decoder 'deeplabv3'; choose one of fpn, .*upernet"):
        segmenter(decoder="deeplabv3")


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
    for level in seen[2:]:
        assert level.shape[1] >= 64
        torch.testing.assert_close(
            level.std(dim=(0, 2, 3), correction=0),
            torch.ones(level.shape[1]),
            atol=0.02,
            rtol=0,
        )
