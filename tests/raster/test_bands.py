"""The number of bands against what weights want."""

from __future__ import annotations

import pytest

from lemevit_cli.errors import SceneError
from lemevit_cli.raster.bands import check_bands
from lemevit_cli.raster.scene import open_scene


def test_grey_scene_for_rgb_weights_is_told_to_repeat_its_band(write_scene, rgb):
    with (
        open_scene(write_scene(rgb[:1])) as scene,
        pytest.raises(SceneError, match=r"has 1 band, the weights want 3; -b 1,1,1"),
    ):
        check_bands(scene, 3)


def test_two_counts_that_differ_are_both_named(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene:
        with pytest.raises(SceneError, match=r"has 3 bands, the weights want 9; .*-b"):
            check_bands(scene, 9)
        assert check_bands(scene, 3) is None
