from math import pi

import pytest
import torch
from torchvision.ops import roi_align

from lemevit_cli.models.oriented_rcnn.roi_align import BINS, align_rois, levels_of

STRIDES = (4, 8, 16, 32)
ANGLES = [0.0, 0.3, pi / 4, pi / 2, 2.0, -1.1]


def bin_centres(boxes):
    """Return ``(R, BINS * BINS, 2)``, by the definition of an oriented box."""
    steps = (torch.arange(BINS, dtype=boxes.dtype) + 0.5) / BINS - 0.5
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    u, v = u.flatten() * boxes[:, 2:3], v.flatten() * boxes[:, 3:4]
    cos, sin = boxes[:, 4:].cos(), boxes[:, 4:].sin()
    x, y = boxes[:, :1] + u * cos - v * sin, boxes[:, 1:2] + u * sin + v * cos
    return torch.stack([x, y], dim=-1)


def planes(size, strides=STRIDES):
    """Return maps of ``2 x - y + 3``, in pixels, taken in the middles of the cells."""
    maps = []
    for stride in strides:
        middle = (torch.arange(size // stride, dtype=torch.float64) + 0.5) * stride
        maps.append((2 * middle[None, :] - middle[:, None] + 3)[None, None])
    return maps


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.long)


@pytest.mark.parametrize("angle", ANGLES)
def test_a_constant_map_gives_the_constant(angle):
    maps = [torch.full((1, 2, 512 // s, 512 // s), 7.5) for s in STRIDES]
    boxes = torch.tensor([[250.0, 240.0, side, side / 3, angle] for side in (9, 90, 250, 300)])
    torch.testing.assert_close(
        align_rois(maps, STRIDES, boxes, zeros(4)), torch.full((4, BINS**2, 2), 7.5)
    )


@pytest.mark.parametrize("angle", ANGLES)
def test_a_plane_gives_its_value_in_the_middle_of_each_bin_on_every_level(angle):
    sizes = [(12.0, 5.0), (90.0, 30.0), (160.0, 100.0), (280.0, 260.0), (420.0, 560.0)]
    boxes = torch.tensor([[515.0, 509.0, w, h, angle] for w, h in sizes], dtype=torch.float64)
    assert levels_of(boxes, 4).tolist() == [0, 0, 1, 2, 3]
    x, y = bin_centres(boxes).unbind(-1)
    found = align_rois(planes(1024), STRIDES, boxes, zeros(5))
    torch.testing.assert_close(found[..., 0], 2 * x - y + 3)


def test_axis_aligned_boxes_equal_torchvisions_also_beyond_the_edges():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 24, 30, generator=generator)
    boxes = torch.rand(200, 5, generator=generator) * torch.tensor([140.0, 120, 80, 80, 0])
    pictures = torch.randint(0, 2, (200,), generator=generator)
    low, high = boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2
    rois = torch.cat([pictures[:, None].float(), low, high], dim=1)
    expected = roi_align(maps, rois, BINS, 1 / 4, sampling_ratio=2, aligned=True)
    found = align_rois([maps], (4,), boxes, pictures)
    torch.testing.assert_close(found, expected.flatten(2).mT, atol=1e-5, rtol=1e-5)


def test_a_turned_map_gives_the_same_for_a_turned_box():
    maps = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    box = torch.tensor([[70.0, 50.0, 40.0, 20.0, 0.4]])
    # A quarter counter-clockwise on the screen: (x, y) goes to (y, 128 - x).
    turned_box = torch.tensor([[50.0, 128 - 70.0, 40.0, 20.0, 0.4 - pi / 2]])
    found = align_rois([maps], (4,), box, zeros(1))
    turned = align_rois([maps.rot90(1, (2, 3))], (4,), turned_box, zeros(1))
    torch.testing.assert_close(found, turned, atol=1e-5, rtol=1e-5)


def test_each_box_is_read_in_its_own_picture():
    maps = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    boxes = torch.tensor([[32.0, 32.0, 20.0, 10.0, 0.2]]).expand(4, -1)
    found = align_rois([maps, maps[..., ::2, ::2]], (4, 8), boxes, torch.tensor([2, 0, 1, 2]))
    assert found.mean(dim=(1, 2)).tolist() == pytest.approx([2, 0, 1, 2])


def test_the_gradient_is_that_of_the_function():
    generator = torch.Generator().manual_seed(2)
    maps = [
        torch.randn(2, 2, side, side + 1, generator=generator, dtype=torch.float64).requires_grad_()
        for side in (6, 3)
    ]
    boxes = torch.tensor(
        [[12.0, 10.0, 14.0, 8.0, 0.5], [20.0, 22.0, 30.0, 9.0, -1.2], [14.0, 12.0, 130.0, 110.0, 1]]
    ).double()
    assert set(levels_of(boxes, 2).tolist()) == {0, 1}
    assert torch.autograd.gradcheck(
        lambda *m: align_rois(m, (4, 8), boxes, torch.tensor([0, 1, 1])), maps
    )


def test_low_precision_maps_are_summed_in_single_precision():
    maps = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)).bfloat16()
    boxes = torch.tensor([[30.0, 30.0, 25.0, 15.0, 0.7]])
    found = align_rois([maps], (4,), boxes, zeros(1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, align_rois([maps.float()], (4,), boxes, zeros(1)))


def test_no_boxes_have_no_features():
    maps = torch.randn(1, 4, 8, 8)
    assert align_rois([maps], (4,), torch.zeros(0, 5), zeros(0)).shape == (0, BINS**2, 4)


def test_levels_change_at_twice_the_side():
    sides = torch.tensor([1.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 5000.0])
    boxes = torch.zeros(8, 5)
    boxes[:, 2], boxes[:, 3] = sides * 2, sides / 2
    assert levels_of(boxes, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
