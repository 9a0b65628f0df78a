"""Scenes and weights that tests make for themselves."""

import os
from pathlib import Path

import making.environment  # noqa: F401  what torch reads when it is loaded
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.features import shapes
from shapely.geometry import shape
from torch import nn

from lemevit_cli.geometry.oriented_boxes import box_of_polygon
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import load_network

pytest_plugins = (
    "making.rasters",
    "making.labelled",
    "making.trained",
    "making.results",
    "making.classes",
    "making.converted",
)
# About 0.5 m, rotated by 20 degrees, near Prague.
ROTATED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Print tables as into a pipe: whoever runs the tests may have a width in the environment."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def write_scene(tmp_path):
    """Return a function that writes pixels ``(bands, H, W)`` to a GeoTIFF and gives its path."""

    def write(pixels, name="scene.tif", **profile):
        path = tmp_path / name
        settings = {
            "driver": "GTiff",
            "count": pixels.shape[0],
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "dtype": pixels.dtype,
            "crs": "EPSG:32633",
            "transform": ROTATED,
        }
        with rasterio.open(path, "w", **settings | profile) as target:
            target.write(pixels)
        return str(path)

    return write


@pytest.fixture
def pixels():
    """Return random bytes of three bands, 64 x 48, with a nodata corner of zeros."""
    values = np.random.default_rng(3).integers(1, 256, (3, 48, 64), dtype=np.uint8)
    values[:, :9, :13] = 0
    return values


@pytest.fixture
def scene(write_scene, pixels):
    """Return the path of a scene of these pixels, nodata 0."""
    return write_scene(pixels, nodata=0)


@pytest.fixture
def count_handles():
    """Return a function that counts the handles of this process on a file."""
    handles = Path("/proc/self/fd")
    if not handles.exists():
        pytest.skip("only Linux tells which files a process holds")

    def count(path):
        # The folder is one of those that it lists, and gone by the time it is asked for.
        there = [handle for handle in handles.iterdir() if handle.exists()]
        return sum(os.path.realpath(handle) == os.path.realpath(path) for handle in there)

    return count


class Convolution(nn.Module):
    """A network of three classes from 5 x 5 pixels: its answer depends on the context."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, pixels):
        return self.convolution((pixels.float() - 128) / 32).softmax(1)


@pytest.fixture
def predictor():
    """Return a predictor of three classes over a single convolution; windows of 32, overlap 12."""
    card = Card(
        task="seg",
        backbone="-",
        classes=classes_from_names(["land", "building", "water"]),
        window=32,
        overlap=12,
    )
    runtime = TorchRuntime(Convolution(), lambda scores: scores, RuntimeOptions(device="cpu"))
    return Predictor("a convolution", "0" * 16, card, runtime, "cpu")


@pytest.fixture
def find_bright_boxes():
    """Return a detector without weights: of each picture a row for every bright patch, best first.

    It gives every box the same class, and smaller ones less score.
    """

    def find(pixels, class_id=0, room=50):
        answer = np.zeros((len(pixels), room, 7), np.float32)
        answer[..., 6] = -1
        for rows, window in zip(answer, np.asarray(pixels), strict=True):
            bright = (window[0] > 150).astype(np.uint8)
            patches = [shape(outline) for outline, value in shapes(bright) if value == 1]
            for row, patch in zip(rows, sorted(patches, key=lambda p: -p.area), strict=False):
                row[:5] = box_of_polygon(np.array(patch.exterior.coords))
                row[5] = 0.5 + 0.4 * patch.area / window[0].size
                row[6] = class_id
        return answer

    return find


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """Return the path of weights of task ``seg``: five classes, three bytes, never trained."""
    torch.manual_seed(1)
    card = Card(
        task="seg",
        backbone="test_resnet",
        head="upernet",
        head_args={"decoder_channels": 16},
        classes=classes_from_names(["land", "building", "road", "vegetation", "water"]),
        window=64,
        overlap=16,
        gsd_m=(0.1, 2.0),
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, load_network("seg").build_model(card).state_dict(), card)
    return str(path)
