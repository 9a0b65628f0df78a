"""Pictures of a class each, by the plain rule of their strongest colour; and weights for them."""

import numpy as np
import pytest
from PIL import Image

from lemevit_cli.tasks.training import train
from lemevit_cli.training.options import DataOptions, TrainingOptions

COLOURS = ("red", "green", "blue")


def picture_of(colour, random, *, size=(40, 48)):
    pixels = random.integers(0, 120, (*size, 3))
    pixels[..., COLOURS.index(colour)] += 100
    return pixels.astype(np.uint8)


def _write_pictures(folder, *, classes=COLOURS, count=6, seed=0, size=(40, 48)):
    """Write ``folder/CLASS/N.png``."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = Image.fromarray(picture_of(name, random, size=size))
            picture.save(folder / name / f"{number}.png")
    return str(folder)


def _class_options(**changes):
    settings = {
        "backbone": "test_resnet",
        "steps": 30,
        "batch_size": 8,
        "crop": 32,
        "lr": 5e-3,
        "workers": 0,
        "device": "cpu",
        "validate_every": 15,
        "checkpoint_every": 15,
        **changes,
    }
    return TrainingOptions(**settings)


@pytest.fixture
def write_pictures():
    return _write_pictures


@pytest.fixture
def class_options():
    return _class_options


@pytest.fixture(scope="session")
def class_training(tmp_path_factory):
    """Path of a folder of colours, and the report of a training on it."""
    folder = tmp_path_factory.mktemp("classes")
    for seed, split in enumerate(("train", "val")):
        data = _write_pictures(folder / "colours" / split, seed=seed)
    data = str(folder / "colours")
    target = str(folder / "colours.safetensors")
    return data, train("cls", DataOptions(paths=(data,)), target, _class_options())
