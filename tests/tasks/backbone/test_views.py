from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lemevit_cli.tasks.backbone.pictures import open_pictures
from lemevit_cli.tasks.backbone.views import ViewDraw, Views, as_shown
from lemevit_cli.training.augmentation import symmetry
from lemevit_cli.training.options import AugmentationOptions, DataOptions, TrainingOptions

PLAIN = AugmentationOptions.none()


@pytest.fixture
def views(tmp_path):
    """Make views of one picture of noise."""

    def make(*, size=(90, 120), count=6, zoom=None, gsd=None, magnified=False, **augmentation):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / "picture.png"
        Image.fromarray(pixels).save(path)
        found = open_pictures(DataOptions(paths=(str(path),)))
        sites = tuple(replace(site, gsd_m=gsd) for site in found.training[0].sites)
        source = replace(found.training[0], sites=sites)
        windows = {"zoom": (0.5, 2.0)} if magnified else {}
        settings = AugmentationOptions(**(vars(PLAIN) | windows | augmentation))
        options = TrainingOptions(crop=32, augmentation=settings)
        draw = ViewDraw([source], [1.0], options)
        return Views(
            draw, options, count=count, zoom=zoom, value_range=(0.0, 255.0), fill=(9.0,) * 3
        )

    return make


def test_a_pass_shows_every_view_once_and_the_next_one_in_another_order(views):
    data = views(count=7)
    first, second = ([int(data[i]["view"]) for i in range(s, s + 7)] for s in (0, 7))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_a_view_is_the_same_piece_whenever_it_comes_and_in_another_process(views):
    data, other = views(count=3), views(count=3)
    by_view = {int(data[i]["view"]): data[i]["shown"] for i in range(3)}
    for index in range(3, 9):
        sample = other[index]
        assert torch.equal(sample["shown"], by_view[int(sample["view"])])


def test_the_student_sees_the_teachers_view_turned_and_varied(views):
    data = views(symmetries=True)
    for index in range(8):
        sample = data[index]
        turned = symmetry(sample["shown"], int(sample["symmetry"]))
        assert torch.equal(sample["pixels"], turned.float())
    assert len({int(data[i]["symmetry"]) for i in range(12)}) > 2
    varied = views(symmetries=True, brightness=0.5)[0]
    assert torch.equal(varied["shown"], data[0]["shown"])
    assert not torch.equal(varied["pixels"], data[0]["pixels"])


def test_without_a_number_of_views_there_is_no_last_one(views):
    data = views(count=None)
    assert int(data[10_000]["view"]) == 10_000


def test_a_small_picture_is_magnified_before_it_is_mirrored(views):
    data = views(size=(20, 24))
    drawn = data.draw(0)
    assert drawn.frame.side == 32 and (drawn.window.width, drawn.window.height) == (24, 20)
    assert data.read_view(0)["pixels"].shape == (3, 32, 32)
    sides = [views(size=(20, 24), magnified=True).draw(i).frame.side for i in range(20)]
    assert min(sides) >= 16 and max(sides) <= 20


@pytest.mark.parametrize(("gsd", "zoom"), [(None, 1.0), (0.3, 1.0), (0.5, 2.0), (10.0, 2.0)])
def test_coarse_pixels_are_doubled_for_the_teacher(views, gsd, zoom):
    assert float(views(gsd=gsd).read_view(0)["zoom"]) == zoom
    assert float(views(gsd=gsd, zoom=1.5).read_view(0)["zoom"]) == 1.5


def test_a_teacher_of_photographs_sees_three_bands_of_bytes():
    pixels = torch.tensor([0.0, 500.0, 1000.0, 2000.0]).view(4, 1, 1)
    assert as_shown(pixels, (0.0, 1000.0)).flatten().tolist() == [0, 128, 255]
    assert as_shown(pixels[:2], (0.0, 1000.0)).flatten().tolist() == [0, 0, 0]
