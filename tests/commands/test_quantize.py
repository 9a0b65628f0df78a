import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.converted import converted_in, core
from lemevit_cli.models.weights import Card, open_weights, save_weights
from lemevit_cli.tasks import load_network

pytest.importorskip("nncf", reason="the extra openvino is not installed")
pytestmark = pytest.mark.usefixtures("openvino")


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def smooth_pixels(seed, side=192):
    """Return bytes ``(3, side, side)`` of a few large shapes, as scenes have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, side // 16, side // 16))
    return coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)


SMALL = {"embed_dims": [32, 32, 32, 64, 64], "depths": [1, 1, 1, 2, 1]}


def save_untrained(path, task, backbone, head, arguments, classes):
    torch.manual_seed(1)
    card = Card(
        task=task,
        backbone=backbone,
        backbone_args=SMALL if backbone == "lemevit_tiny" else {},
        head=head,
        head_args=arguments,
        classes=classes_from_names(classes),
        window=96,
        overlap=16,
        training={"data": "none"},
    )
    save_weights(path, load_network(task).build_model(card).state_dict(), card)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the path of weights of three classes over a small LeMeViT, never trained."""
    path = tmp_path_factory.mktemp("small") / "seg.safetensors"
    head = ("lemevit_tiny", "upernet", {"decoder_channels": 16})
    return save_untrained(path, "seg", *head, ["land", "building", "water"])


@pytest.fixture
def scenes(write_scene):
    """Return paths of two scenes."""
    return [write_scene(smooth_pixels(seed), f"{seed}.tif") for seed in (1, 2)]


def consumers_of_integers(path):
    """Return the names of what takes quantized numbers in a file's graph."""
    import openvino

    network = converted_in(open_weights(path).content, "quantized")
    graph = core().read_model(network.graph, openvino.Tensor(network.constants))
    return {
        taken.get_node().get_friendly_name()
        for operation in graph.get_ops()
        if operation.get_type_name() == "FakeQuantize"
        for taken in operation.output(0).get_target_inputs()
    }


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def test_a_quantized_file_answers_nearly_as_torch(weights, scenes, write_scene, tmp_path, capfd):
    target = tmp_path / "int8.safetensors"
    done = invoke(
        *("quantize", weights, "--calibrate", scenes[0], "--calibrate", scenes[1]),
        *("--windows", 5, "-o", target, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    assert capfd.readouterr() == ("", "")  # nncf draws bars
    record = json.loads(done.stdout)
    assert (record["path"], record["scenes"]) == (str(target), 2)
    assert record["windows"] == record["compared"] == 5
    assert record["equal_answers"] > 0.9
    plain, made = open_weights(weights), open_weights(target)
    assert made.is_converted and len(made.content) < len(plain.content)
    told = made.card.training["quantized"]
    assert (told["digest"], told["windows"]) == (plain.digest, 5)
    assert replace(made.card, training=plain.card.training) == plain.card

    scene = write_scene(smooth_pixels(3), "another.tif")
    for name, file in (("torch", weights), ("int8", target)):
        out = ["-o", tmp_path / f"{name}.tif", "--output-type", "scores", "--json"]
        done = invoke("predict", scene, "-w", file, *out)
        assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["arithmetic"] == "int8 and float32"
    expected, found = read(tmp_path / "torch.tif"), read(tmp_path / "int8.tif")
    assert np.ptp(expected, axis=(1, 2)).min() > 0.05
    off = np.abs(found - expected)
    assert off.max() > 1e-5  # integers,
    # but the same network. The largest difference is the processor's: without instructions for
    # bytes, sums of two products saturate (0.08 with them, 0.16 by AVX2 alone).
    assert off.mean() < 0.02 and np.quantile(off, 0.99) < 0.1
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.9

    again = invoke("quantize", target, "--calibrate", scene, "-o", tmp_path / "twice.safetensors")
    assert again.exit_code == 1 and "quantized already" in again.stderr
    assert not (tmp_path / "twice.safetensors").exists()


def test_change_is_calibrated_on_pairs_of_two_folders(write_scene, tmp_path):
    head = ("test_resnet", "difference", {"channels": 16})
    path = tmp_path / "change.safetensors"
    save_untrained(path, "change", *head, ["unchanged", "changed"])
    for date in ("A", "B"):
        (tmp_path / date).mkdir()
        for seed in (1, 2):
            write_scene(smooth_pixels(seed + 10 * (date == "B"), side=96), f"{date}/{seed}.tif")
    target = tmp_path / "int8.safetensors"
    folders = ("--calibrate", tmp_path / "A", "--calibrate", tmp_path / "B")
    done = invoke("quantize", path, *folders, "-o", target)
    assert done.exit_code == 0 and done.stdout == f"{target}\n", done.stderr
    assert "of the pixels of 2 windows have the class that torch gives them" in done.stderr
    before, after = (tmp_path / date / "1.tif" for date in ("A", "B"))
    for name, file in (("torch", path), ("int8", target)):
        out = ("-o", tmp_path / f"{name}.tif", "--output-type", "scores")
        ran = invoke("change", before, after, "-w", file, *out)
        assert ran.exit_code == 0, ran.stderr
    expected, found = read(tmp_path / "torch.tif"), read(tmp_path / "int8.tif")
    assert 1e-5 < np.abs(found - expected).max() < 0.1

    (tmp_path / "B" / "2.tif").unlink()
    refused = invoke("quantize", path, *folders, "-o", target, "--overwrite")
    assert refused.exit_code == 1 and "2.tif has no partner" in refused.stderr
    odd = invoke("quantize", path, "--calibrate", before, "-o", target, "--overwrite")
    assert odd.exit_code == 1 and "BEFORE and AFTER by turns" in odd.stderr


def test_of_a_detector_the_coordinates_stay_in_floats(scenes, tmp_path):
    arguments = {"channels": 16, "hidden": 32, "proposals": 50, "pyramid_scales": 1}
    head = ("lemevit_tiny", "oriented_rcnn", arguments)
    path = save_untrained(tmp_path / "det.safetensors", "det", *head, ["ship", "plane"])
    target = tmp_path / "int8.safetensors"
    places = ("--calibrate", scenes[0], "--windows", 2)
    done = invoke("quantize", path, *places, "-o", target)
    assert done.exit_code == 0 and done.stdout == f"{target}\n", done.stderr
    assert "of the boxes in 2 windows are those that torch finds" in done.stderr
    quantized = consumers_of_integers(target)
    assert any(name.startswith("__module.encoder.") for name in quantized)
    assert any(name.startswith("__module.rpn.conv") for name in quantized)
    in_floats = ("aten::", "__module.roi_head", "__module.rpn.deltas", "__module.rpn.objectness")
    assert not [name for name in quantized if name.startswith(in_floats)]

    ran = invoke("detect", scenes[1], "-w", target, "-o", tmp_path / "boxes.gpkg", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["arithmetic"] == "int8 and float32"


def test_what_cannot_be_quantized_is_told_in_one_line(weights, scenes, write_scene, tmp_path):
    target, empty = tmp_path / "int8.safetensors", tmp_path / "empty"
    empty.mkdir()
    two_bands = write_scene(smooth_pixels(1)[:2], "two.tif")
    nothing = write_scene(np.zeros((3, 96, 96), np.uint8), "nothing.tif", nodata=0)
    refusals = {
        (weights, two_bands): "has 2 bands, the weights want 3",
        (weights, nothing): "no window has a valid pixel",
        (weights, empty): "no raster is there",
        (weights, tmp_path / "none.tif"): "none.tif",
        (tmp_path / "none.safetensors", scenes[0]): "no such weights file",
    }
    for (given, place), message in refusals.items():
        refused = invoke("quantize", given, "--calibrate", place, "-o", target)
        assert refused.exit_code == 1 and message in refused.stderr
        assert refused.stderr.count("\n") == 1 and not refused.stdout
        assert not target.exists()
    target.write_text("mine")
    refused = invoke("quantize", weights, "--calibrate", scenes[0], "-o", target)
    assert refused.exit_code == 1 and "exists; replace it with --overwrite" in refused.stderr
    assert target.read_text() == "mine"


def test_weights_that_answer_no_number_leave_no_file(tiny_weights, scenes, tmp_path):
    opened = open_weights(tiny_weights)
    broken, target = tmp_path / "broken.safetensors", tmp_path / "int8.safetensors"
    state = opened.state()
    name = next(key for key in state if key.endswith("running_var"))
    state[name] = -torch.ones_like(state[name])  # finite itself, its root is not
    save_weights(broken, state, opened.card)
    done = invoke("quantize", broken, "--calibrate", scenes[0], "--windows", 2, "-o", target)
    assert done.exit_code == 1 and "nothing is written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in Path(tmp_path).glob("*int8*")) == []


@pytest.mark.parametrize("package", ["nncf", "openvino"])
def test_a_package_that_is_missing_is_named(weights, scenes, tmp_path, monkeypatch, package):
    import sys

    for module in ("conversion", "quantization"):
        monkeypatch.delitem(sys.modules, f"lemevit_cli.models.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    refused = invoke("quantize", weights, "--calibrate", scenes[0], "-o", tmp_path / "int8")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
    assert package in refused.stderr and "pip install lemevit[openvino]" in refused.stderr
