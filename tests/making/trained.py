"""A small training set, and weights trained on it once for all tests of this folder."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from lemevit_cli.tasks.training import train
from lemevit_cli.training.options import DataOptions, TrainingOptions


def _write_data(folder, *, classes=("land", "building"), dtype=np.uint8, splits=("train", "val")):
    """Write pictures whose bright square is class 1; GeoTIFFs of 0.5 m unless they are 8-bit."""
    random = np.random.default_rng(0)
    for split in splits:
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(2):
            ids = np.zeros((64, 80), dtype=np.uint8)
            row, col = random.integers(0, 30, 2)
            ids[row : row + 30, col : col + 40] = 1
            pixels = random.integers(0, 60, (64, 80, 3)) + 150 * ids[..., None]
            if dtype == np.uint8:
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / "images" / f"{number}.png")
            else:
                _write_tif(folder / split / "images" / f"{number}.tif", pixels.astype(dtype))
            Image.fromarray(ids).save(folder / split / "masks" / f"{number}.png")
    card = {"classes": list(classes), "ignore_index": None}
    (folder / "classes.json").write_text(json.dumps(card))
    return str(folder)


def _write_tif(path, pixels):
    height, width, bands = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=bands,
        dtype=pixels.dtype,
        crs="EPSG:32633",
        transform=Affine(0.5, 0, 500000, 0, -0.5, 5000000),
    ) as file:
        file.write(np.moveaxis(pixels, 2, 0))


def _options_of(**changes):
    settings = {
        "backbone": "resnet10t",
        "steps": 24,
        "batch_size": 4,
        "crop": 64,
        "lr": 5e-3,
        "workers": 0,
        "device": "cpu",
        "validate_every": 12,
        "checkpoint_every": 12,
        "decoder": "fpn",
        **changes,
    }
    return TrainingOptions(**settings)


@pytest.fixture
def write_data():
    return _write_data


def _data_of(*paths, **changes):
    return DataOptions(paths=paths, **changes)


@pytest.fixture
def data_of():
    return _data_of


@pytest.fixture
def options_of():
    return _options_of


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return the path of the data, and the report of a training on it."""
    folder = tmp_path_factory.mktemp("trained")
    data = _write_data(folder / "squares")
    return data, train("seg", _data_of(data), str(folder / "w.safetensors"), _options_of())
