"""Commands over scenes with a runtime that is no torch, on a machine where torch cannot load."""

import json
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from functools import partial
import numpy as np
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.models.weights import open_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, ReadingOptions
from lemevit_cli.tasks import TASKS, load_network

def answer_pixels(pixels):
    bright = (pixels[:, -1:] > 128).astype(np.float32)
    return np.concatenate([1 - bright, bright, *[0 * bright] * (classes - 2)], axis=1)

def answer_boxes(pixels):
    candidates = np.zeros((len(pixels), 1, 5 + classes), np.float32)
    candidates[..., :6] = 30, 20, 12, 6, 0, 0.9
    return network.decode(candidates)

task, target, *scenes = sys.argv[1:]
weights, network = open_weights(TASKS[task].starter), load_network(task)
classes = len(weights.card.classes)
settings = InferenceSettings(reading=ReadingOptions(gsd="native"))
plain = answer_boxes if task == "det" else answer_pixels
runtime = network.over_symmetries(plain) if task == "seg" else plain
predictor = Predictor(weights.name, weights.digest, weights.card, runtime, "cpu")
if task == "seg":
    from lemevit_cli.tasks.segmentation.inference import Segmentation as Task
elif task == "det":
    from lemevit_cli.tasks.detection.inference import Detection as Task
else:
    from lemevit_cli.tasks.change.inference import Change
    Task = partial(Change, before=scenes[0], after=scenes[1], targets=(target,))
work = Task(weights.card, settings, Silent())
infer_scenes(work, scenes[:1], [target], lambda: predictor)
assert sys.modules["torch"] is None
"""


def run_without_torch(task, target, *scenes):
    command = [sys.executable, "-c", WITHOUT_TORCH, task, *map(str, (target, *scenes))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def bright():
    return np.random.default_rng(0).integers(0, 2, (60, 72)).astype(np.uint8)


def test_pixels_are_classified(write_scene, bright, tmp_path):
    scene = write_scene(np.stack([bright * 200 + 20] * 3))
    run_without_torch("seg", tmp_path / "out.tif", scene)
    with rasterio.open(tmp_path / "out.tif") as written:
        np.testing.assert_array_equal(written.read(1), bright)


def test_changes_are_found(write_scene, bright, tmp_path):
    before = write_scene(np.full((3, 60, 72), 20, np.uint8), "before.tif")
    after = write_scene(np.stack([bright * 200 + 20] * 3), "after.tif")
    run_without_torch("change", tmp_path / "out.tif", before, after)
    with rasterio.open(tmp_path / "out.tif") as written:
        np.testing.assert_array_equal(written.read(1), bright)


def test_objects_are_found(write_scene, bright, tmp_path):
    scene = write_scene(np.stack([bright * 200 + 20] * 3))
    run_without_torch("det", tmp_path / "out.gpkg", scene)
    (box,) = geopandas.read_file(tmp_path / "out.gpkg").geometry
    with rasterio.open(scene) as written:
        col, row = ~written.transform @ box.centroid.coords[0]
    assert (col, row) == pytest.approx((30, 20), abs=1e-3)


def test_weights_are_opened_and_checked_before_torch_is_loaded():
    program = (
        "import json, sys\n"
        "from importlib import import_module\n"
        "from lemevit_cli.tasks import TASKS\n"
        "from lemevit_cli.models.weights import find_weights, open_weights, read_card\n"
        "for room in TASKS.values(): import_module(f'{room.package}.inference')\n"
        "opened = open_weights('landcover')\n"
        "same = opened.card == read_card(find_weights('landcover'))\n"
        "heavy = [m for m in ('torch', 'timm', 'torchvision') if m in sys.modules]\n"
        "print(json.dumps([opened.card.task, same, heavy]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == ["seg", True, []]
