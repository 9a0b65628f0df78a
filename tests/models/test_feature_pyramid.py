from collections import OrderedDict

import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lemevit_cli.models.oriented_rcnn.pyramid import FeaturePyramid


def test_tensors_and_maps_are_torchvisions():
    widths = [4, 6, 8, 10]
    torch.manual_seed(2)
    ours = FeaturePyramid(widths, 5)
    torch.manual_seed(2)
    theirs = FeaturePyramidNetwork(widths, 5, LastLevelMaxPool())
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(state[k], v) for k, v in theirs.state_dict().items())
    # Odd sides: a level is not always half of the one before.
    sides = [(25, 19), (13, 10), (7, 5), (4, 3)]
    maps = [torch.rand(2, w, *hw) for w, hw in zip(widths, sides, strict=True)]
    expected = theirs(OrderedDict((str(i), m) for i, m in enumerate(maps))).values()
    found = ours(maps)
    assert len(found) == len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
