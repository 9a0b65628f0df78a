"""Which values a probed network sees of data of another dtype."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from making.collector import Collector

from lemevit_cli.tasks.backbone.probing import ProbeOptions, _scaling
from lemevit_cli.training.datasets.folders import PictureReader, source_of_pictures
from lemevit_cli.training.datasets.source import Site

FEATURES = SimpleNamespace(bands=3, dtype="uint8", value_range=(0.0, 255.0), label="a network")


@pytest.mark.parametrize(("most", "is_known"), [(255, True), (4000, False)])
def test_the_numbers_that_a_network_knows_are_read_as_they_are_in_any_dtype(
    tmp_path, most, is_known
):
    path = str(tmp_path / "a.tif")
    stored = np.random.default_rng(0).integers(1, most, (3, 64, 64)).astype(np.uint16)
    size = {"width": 64, "height": 64, "count": 3, "transform": Affine(1, 0, 0, 0, -1, 64)}
    with rasterio.open(path, "w", dtype="uint16", **size) as file:
        file.write(stored)
    site, remarks = Site.whole(path, 64, 64, None), Collector()
    source = source_of_pictures("town", "train", [site], (path, 3, "uint16"), PictureReader())
    scaling = _scaling(FEATURES, source, ProbeOptions(windows=2, side=64), remarks)
    assert scaling.wanted == (0.0, 255.0)
    assert (scaling.given == scaling.wanted) == is_known == bool(remarks.notes)
    assert is_known or scaling.given[1] == pytest.approx(most, rel=0.02)
