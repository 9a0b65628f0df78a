import numpy as np

from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.raster.scene import open_scene


def test_what_is_nodata_in_one_band_does_not_flatten_its_contrast(write_scene):
    pixels = np.random.default_rng(0).uniform(100, 200, (3, 48, 64)).astype(np.float32)
    pixels[1, :10] = -9999
    pixels[:, 40:] = -9999
    with open_scene(write_scene(pixels, nodata=-9999)) as scene:
        rgb = scale_for_display(*scene.read_overview_by_band(64))
    low, high = np.percentile(pixels[1, 10:40], (1, 99))
    expected = ((pixels[1, 10:40] - low) / (high - low)).clip(0, 1) * 255
    np.testing.assert_allclose(rgb[10:40, :, 1], expected, atol=0.51)
    assert (rgb[:10, :, 1] == 0).all() and (rgb[40:] == 235).all()
