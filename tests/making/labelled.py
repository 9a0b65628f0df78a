"""Small folders of pictures for the training's tests."""

import json

import geopandas
import numpy as np
import pytest
import shapely.affinity
from PIL import Image


def write_picture(folder, split, stem, pixels, ids):
    """Save pixels (H, W, 3) and ids (H, W) as PNG in the layout of a training folder."""
    for kind, values in (("images", pixels), ("masks", ids)):
        place = folder / split / kind
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(place / f"{stem}.png")


@pytest.fixture
def make_folder(tmp_path):
    """Make a folder whose bright pixels are class 1, one corner of each mask ignored."""

    def make(name="data", *, classes=("land", "building"), ignore_index=255, size=(48, 64), seed=0):
        folder = tmp_path / name
        random = np.random.default_rng(seed)
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                ids = np.zeros(size, dtype=np.uint8)
                ids[8:24, 16:40] = 1
                pixels = random.integers(0, 80, (*size, 3)) + 150 * ids[..., None]
                ids[:4, :4] = 255 if ignore_index == 255 else 0
                write_picture(folder, split, f"scene{number}", pixels.astype(np.uint8), ids)
        card = {"classes": list(classes), "ignore_index": ignore_index}
        (folder / "classes.json").write_text(json.dumps(card))
        return folder

    return make


@pytest.fixture
def write_polygons(tmp_path):
    """Return a function that writes polygons with fields to a file and gives its path."""

    def write(geometries, name="labels.gpkg", *, crs="EPSG:32633", layer=None, **fields):
        path = tmp_path / name
        table = geopandas.GeoDataFrame(fields, geometry=list(geometries), crs=crs)
        table.to_file(path, **({"layer": layer} if layer else {}))
        return str(path)

    return write


@pytest.fixture
def on_map():
    """Return a function that brings polygons in pixels to the map of a transform."""

    def move(polygons, transform):
        a, b, c, d, e, f, *_ = transform
        return [shapely.affinity.affine_transform(p, (a, b, d, e, c, f)) for p in polygons]

    return move
