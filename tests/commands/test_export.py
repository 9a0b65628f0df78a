import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.converted import core
from lemevit_cli.models.weights import Card, open_weights, save_weights
from lemevit_cli.tasks import load_network

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("openvino", reason="the extra openvino is not installed")


def invoke(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def answer_of(tiny_weights):
    """Return a function that gives torch's scores of pixels."""
    network = load_network("seg")
    model = network.for_inference(load_model(open_weights(tiny_weights), network))

    def answer(pixels):
        with torch.inference_mode():
            return model(torch.from_numpy(pixels)).numpy()

    return answer


@pytest.mark.parametrize(("batch", "windows"), [(1, 1), (0, 4)])
def test_onnx_answers_as_torch_and_holds_the_card(
    tiny_weights, tmp_path, answer_of, batch, windows
):
    target = tmp_path / "model.onnx"
    done = invoke(tiny_weights, "-o", target, "--batch", batch, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["input"] == [batch, 3, 64, 64] and record["difference"] < 1e-4
    pixels = np.random.default_rng(0).integers(0, 256, (windows, 3, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(target)
    (found,) = session.run(["scores"], {"pixels": pixels})
    np.testing.assert_allclose(found, answer_of(pixels), atol=1e-4)
    card = session.get_modelmeta().custom_metadata_map["lemevit_card"]
    assert Card.from_json(card) == open_weights(tiny_weights).card


def test_openvinos_files_answer_as_torch_and_hold_the_card(tiny_weights, tmp_path, answer_of):
    target = tmp_path / "model.xml"
    done = invoke(tiny_weights, "-o", target, "--window", 96)
    assert done.exit_code == 0 and done.stdout == f"{target}\n", done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    graph = core().read_model(target)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96)).astype(np.float32)
    compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(pixels)["scores"], answer_of(pixels), atol=1e-4)
    card = Card.from_json(graph.get_rt_info("lemevit_card").astype(str))
    assert card == open_weights(tiny_weights).card


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Return the path of weights of a small detector that is sure at random, never trained."""
    torch.manual_seed(1)
    card = Card(
        task="det",
        backbone="test_resnet",
        head="oriented_rcnn",
        head_args={"channels": 16, "hidden": 32, "proposals": 50, "pyramid_scales": 1},
        classes=classes_from_names(["ship", "plane"]),
        window=64,
        overlap=16,
    )
    model = load_network("det").build_model(card)
    torch.nn.init.normal_(model.roi_head.classify.weight, std=1.0)
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_weights(path, model.state_dict(), card)
    return str(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_detector_answers_torchs_candidates(detector, tmp_path, suffix):
    target = tmp_path / f"model{suffix}"
    done = invoke(detector, "-o", target, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["difference"] < 1e-3
    coarse = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8))
    pixels = coarse.repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)
    if suffix == ".onnx":
        (found,) = onnxruntime.InferenceSession(target).run(["candidates"], {"pixels": pixels})
    else:
        compiled = core().compile_model(target, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(pixels)["candidates"]
    network = load_network("det")
    model = network.for_inference(load_model(open_weights(detector), network))
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).numpy()
    assert found.shape == expected.shape and np.ptp(expected[..., 5:]) > 0.1
    boxes, others = (network.decode(candidates)[0] for candidates in (expected, found))
    assert (boxes[:, 6] >= 0).sum() >= 5
    np.testing.assert_allclose(others, boxes, atol=1e-2)


def test_what_stands_there_is_replaced_only_if_asked_for(tiny_weights, tmp_path):
    target = tmp_path / "model.onnx"
    target.write_text("mine")
    refused = invoke(tiny_weights, "-o", target)
    assert refused.exit_code == 1 and "exists; replace it with --overwrite" in refused.stderr
    assert target.read_text() == "mine"
    assert invoke(tiny_weights, "-o", target, "--overwrite").exit_code == 0
    onnx.checker.check_model(onnx.load(target))


def test_another_suffix_is_refused(tiny_weights, tmp_path):
    refused = invoke(tiny_weights, "-o", tmp_path / "model.pb")
    assert refused.exit_code == 1 and "ends in .onnx or .xml" in refused.stderr
    assert not list(tmp_path.iterdir())
