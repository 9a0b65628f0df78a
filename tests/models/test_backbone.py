import pytest
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import check_backbone, make_encoder, pad_to_stride


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet10t", [64, 64, 128, 256, 512]),
        ("lemevit_tiny", [0, 64, 128, 192, 320]),
        ("swin_tiny_patch4_window7_224", [0, 96, 192, 384, 768]),
    ],
)
def test_maps_have_their_channels_in_front_and_strides_4_to_32_at_the_end(name, widths):
    encoder, found = make_encoder(name, None, bands=5, pretrained=False)
    assert found == widths
    with torch.inference_mode():
        picture, *maps = encoder.eval()(torch.rand(1, 5, 64, 96))
    assert picture.shape == (1, 5, 64, 96)
    assert [m.shape[1] for m in maps] == widths
    assert [tuple(m.shape[2:]) for m in maps[-4:]] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_arguments_reach_the_backbone():
    encoder, _ = make_encoder("lemevit_tiny", {"drop_path_rate": 0.5}, bands=3, pretrained=False)
    last = [m for m in encoder.modules() if type(m).__name__ == "DropPath"][-1]
    assert last.drop_prob == 0.5


def test_names_and_weights_that_there_are_not_are_refused():
    with pytest.raises(WeightsError, match="no backbone 'lemevit_huge' in timm"):
        check_backbone("lemevit_huge")
    with pytest.raises(
        WeightsError, match=r"no weights of backbone .lemevit_tiny.; leave .*--init"
    ):
        check_backbone("lemevit_tiny", pretrained=True)
    with pytest.raises(WeightsError, match="needs features of strides 4 to 32"):
        make_encoder("vit_tiny_patch16_224", None, bands=3, pretrained=False)


def test_pictures_grow_to_whole_strides_by_their_edge():
    picture = torch.rand(1, 2, 33, 64)
    padded = pad_to_stride(picture)
    assert padded.shape == (1, 2, 64, 64)
    assert torch.equal(padded[:, :, :33], picture)
    assert (padded[:, :, 33:] == picture[:, :, 32:33]).all()
    assert pad_to_stride(padded) is padded
