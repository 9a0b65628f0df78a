"""What `lemevit info SCENE` tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lemevit_cli.raster.describe import describe
from lemevit_cli.raster.scene import open_scene


def test_facts_of_a_scene_fit_json(write_scene, rgb):
    rgb[:, :24] = 0
    path = write_scene(rgb, nodata=0, compress="deflate")
    with open_scene(path) as scene:
        facts = json.loads(json.dumps(describe(scene), allow_nan=False))
    assert facts["crs"] == "EPSG:32633" and facts["nodata"] == [0, 0, 0]
    assert facts["valid_share"] == pytest.approx(0.5) and facts["mask"] == "nodata"
    assert facts["compression"] == "DEFLATE" and facts["overviews"] == []
    assert facts["bytes_on_disk"] == Path(path).stat().st_size
    assert facts["gsd_m"] == pytest.approx(2, rel=1e-3)


def test_facts_of_a_scene_of_nan_without_georeference_fit_json(write_scene):
    pixels = np.full((1, 8, 8), np.nan, np.float32)
    with open_scene(write_scene(pixels, nodata=np.nan, crs=None, transform=None)) as scene:
        facts = json.loads(json.dumps(describe(scene), allow_nan=False))
    assert facts["nodata"] == ["nan"] and facts["valid_share"] == 0
    assert facts["crs"] is None and facts["transform"] is None and len(facts["warnings"]) == 1
