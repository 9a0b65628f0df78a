import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.errors import DeviceError, WeightsError
from lemevit_cli.inference.conversions import file_of, folder, kept_of
from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.converted import converted_in
from lemevit_cli.models.processor import PIN
from lemevit_cli.models.weights import Card, open_weights, save_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import load_network

Core = pytest.importorskip("openvino", reason="the extra openvino is not installed").Core
pytestmark = pytest.mark.usefixtures("openvino")
SMALL = {"embed_dims": [32, 32, 32, 64, 64], "depths": [1, 1, 1, 2, 1]}
HEADS = {
    "seg": ("upernet", {"decoder_channels": 16}, ["land", "building", "water"]),
    "change": ("difference", {"channels": 16}, ["unchanged", "changed"]),
    "det": (
        "oriented_rcnn",
        {"channels": 16, "hidden": 32, "proposals": 50, "pyramid_scales": 1, "cascade_stages": 2},
        ["ship", "plane"],
    ),
}
MAPS = ("seg", "change")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return paths of weights over a small LeMeViT by task, never trained."""
    folder, paths = tmp_path_factory.mktemp("small"), {}
    for task, (head, arguments, classes) in HEADS.items():
        torch.manual_seed(1)
        card = Card(
            task=task,
            backbone="lemevit_tiny",
            backbone_args=SMALL,
            head=head,
            head_args=arguments,
            classes=classes_from_names(classes),
            window=96,
            overlap=16,
        )
        paths[task] = str(folder / f"{task}.safetensors")
        state = load_network(task).build_model(card).state_dict()
        save_weights(paths[task], state, card)
    return paths


@pytest.fixture
def compiled(tmp_path, cache_home, monkeypatch):
    """Return a list that grows when a network is compiled, in a cache without compiled ones."""
    calls = []
    compile_model = Core.compile_model
    monkeypatch.setattr(
        Core, "compile_model", lambda *given: calls.append("compiled") or compile_model(*given)
    )
    kept = tmp_path / "lemevit" / "openvino"
    kept.mkdir(parents=True)
    for file in (cache_home / "lemevit" / "openvino").glob("*.safetensors"):
        (kept / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return calls


def kept_blobs():
    return sorted(folder().glob("*.blob"))


def predictor_of(path, **options):
    weights = open_weights(path)
    options = {"runtime": "openvino", "precision": "fp32", "threads": 2, **options}
    return load_predictor(weights, load_network(weights.card.task), RuntimeOptions(**options))


def pixels_of(task, *, windows=3, dtype=np.uint8):
    bands = 6 if task == "change" else 3
    values = np.random.default_rng(2).integers(0, 256, (windows, bands, 96, 96))
    return values.astype(dtype)


@pytest.mark.parametrize("task", MAPS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_scores_are_those_of_torch(small, task, dtype):
    pixels = pixels_of(task, dtype=dtype)
    expected = predictor_of(small[task], runtime="torch").runtime(pixels)
    found = predictor_of(small[task]).runtime(pixels)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found.argmax(1) != expected.argmax(1)).mean() < 1e-3


def test_boxes_are_those_of_torch_on_each_of_two_streams(small):
    """Every window of two at once: streams must not write into what they share."""
    pixels = pixels_of("det", windows=4)
    expected = predictor_of(small["det"], runtime="torch").runtime(pixels)
    found = predictor_of(small["det"]).runtime(pixels)
    assert found.shape == expected.shape and found.dtype == np.float32
    for window, other in zip(expected, found, strict=True):
        there = window[:, 5] > 0
        assert there.sum() >= 10 and (other[:, 5] > 0).sum() == there.sum()
        for box in window[there]:
            alike = other[other[:, 6] == box[6]]
            away = np.abs(alike[:, :4] - box[:4]).max(axis=1)
            assert np.abs(alike[away < 0.5, 5] - box[5]).min(initial=1) < 1e-3


def test_a_window_has_the_same_answer_in_any_batch(small):
    pixels, predictor = pixels_of("seg"), predictor_of(small["seg"])
    together = predictor.runtime(pixels)
    alone = [predictor.runtime(window[None])[0] for window in pixels]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_a_predictor_tells_runtime_arithmetic_and_threads(small):
    exact, lowered = (predictor_of(small["seg"], precision=p) for p in ("fp32", "bf16"))
    assert exact.version.startswith("openvino 20") and exact.device == "cpu"
    assert (exact.arithmetic, lowered.arithmetic) == ("float32", "bfloat16")
    assert exact.threads == 2


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_auto_lowers_the_arithmetic_of_scores_alone(small, monkeypatch, runtime):
    """Boxes have to fit: bf16 is for who asks for it by name."""
    monkeypatch.setenv(PIN, "bf16")
    arithmetic = {
        (task, precision): predictor_of(
            small[task], runtime=runtime, precision=precision
        ).arithmetic
        for task in ("seg", "det")
        for precision in ("auto", "bf16")
    }
    assert arithmetic.pop(("det", "auto")) == "float32"
    assert set(arithmetic.values()) == {"bfloat16"}


def test_symmetries_are_asked_of_openvino_as_well(small):
    pixels = pixels_of("seg", windows=1)
    expected = predictor_of(small["seg"], runtime="torch", tta=True).runtime(pixels)
    np.testing.assert_allclose(
        predictor_of(small["seg"], tta=True).runtime(pixels), expected, atol=1e-4
    )


def test_a_broken_file_of_the_cache_is_made_anew(small):
    expected = predictor_of(small["seg"]).runtime(pixels_of("seg"))
    digest = open_weights(small["seg"]).digest
    file = file_of(digest, (96, 96))
    whole = file.read_bytes()
    assert kept_of(digest) == [file]
    told = CliRunner().invoke(app, ["info", small["seg"], "--json"])
    assert json.loads(told.stdout)["converted"] == [str(file)]
    for broken in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(broken)
        found = predictor_of(small["seg"]).runtime(pixels_of("seg"))
        np.testing.assert_array_equal(found, expected)
        assert converted_in(file.read_bytes(), "kept").size == (96, 96)


class Listener(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_conversion_is_told_of_in_one_line_before_it_begins(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights, listener = open_weights(small["seg"]), Listener()
    options = RuntimeOptions(runtime="openvino", precision="fp32")
    for _ in range(2):
        load_predictor(weights, load_network("seg"), options, progress=listener)
    (line,) = listener.notes
    assert line.startswith(f"{weights.name} is converted for OpenVINO, once")


def test_what_was_compiled_is_taken_from_the_cache(small, compiled):
    pixels = pixels_of("seg")
    expected = predictor_of(small["seg"]).runtime(pixels)
    (file,) = kept_blobs()
    assert compiled.pop() == "compiled"
    np.testing.assert_array_equal(predictor_of(small["seg"]).runtime(pixels), expected)
    assert not compiled and kept_blobs() == [file]
    # Other settings, other files; of these a few are kept.
    for threads in range(3, 7):
        predictor_of(small["seg"], threads=threads).runtime(pixels)
    assert len(kept_blobs()) == 4 and file not in kept_blobs()


def test_a_compiled_network_that_is_broken_is_made_anew(small, compiled):
    pixels = pixels_of("seg")
    expected = predictor_of(small["seg"]).runtime(pixels)
    (file,) = kept_blobs()
    whole = file.read_bytes()
    of_another_version = whole[32:].replace(b"<", b"[", 40)
    for broken in (
        whole[: len(whole) // 2],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        b"",
        sha256(of_another_version).digest() + of_another_version,
    ):
        file.write_bytes(broken)
        compiled.clear()
        np.testing.assert_array_equal(predictor_of(small["seg"]).runtime(pixels), expected)
        assert compiled == ["compiled"] and file.read_bytes()[32:] != broken[32:]


def test_openvino_refuses_to_fuse_tokens(small):
    with pytest.raises(WeightsError, match=r"--fuse-tokens.*--runtime torch"):
        predictor_of(small["seg"], fuse_tokens=0.5)


def test_auto_takes_openvino_on_a_cpu(small, monkeypatch):
    monkeypatch.setenv("LEMEVIT_RUNTIME", "auto")
    chosen = predictor_of(small["seg"], runtime="auto", device="cpu")
    assert chosen.version.startswith("openvino") and chosen.fallback is None
    fallen = predictor_of(small["seg"], runtime="auto", device="cpu", fuse_tokens=0.5)
    assert fallen.version.startswith("torch") and "--fuse-tokens" in fallen.fallback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "--runtime openvino computes on the CPU, not on cuda"),
        ({"precision": "fp16"}, "precision fp16: OpenVINO computes in fp32 or bf16"),
        ({"runtime": "jax"}, "unknown runtime 'jax'"),
    ],
)
def test_what_cannot_be_is_refused(small, options, message):
    with pytest.raises(DeviceError, match=message):
        predictor_of(small["seg"], **options)


def test_a_pin_that_is_no_precision_is_refused(small, monkeypatch):
    monkeypatch.setenv(PIN, "int8")
    with pytest.raises(DeviceError, match="LEMEVIT_CPU_PRECISION=int8: set fp32 or bf16"):
        predictor_of(small["seg"], precision="auto")


class Histogram(torch.nn.Module):
    def forward(self, pixels):
        return torch.histc(pixels.float(), bins=4)


class ForeignNetwork:
    """A task's network with an operation that OpenVINO does not know."""

    def __init__(self):
        self.own, self.built = load_network("seg"), 0

    def __getattr__(self, name):
        return getattr(self.own, name)

    def for_inference(self, model):
        self.built += 1
        return Histogram()


def test_what_cannot_be_converted_is_remembered(small):
    weights, network = replace(open_weights(small["seg"]), digest="f" * 16), ForeignNetwork()
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"cannot be converted for OpenVINO \(.*histc"):
            load_predictor(weights, network, RuntimeOptions(runtime="openvino", device="cpu"))
    assert network.built == 1


def test_commands_import_no_torch_once_converted(
    small, scene, write_scene, pixels, tmp_path, run_without_torch
):
    after = write_scene(pixels[:, ::-1].copy(), "after.tif", nodata=0)
    commands = {
        "seg": ["predict", scene, "-w", small["seg"]],
        "change": ["change", scene, after, "-w", small["change"]],
    }
    for task, command in commands.items():
        predictor_of(small[task])
        target, by_torch = tmp_path / f"{task}.tif", tmp_path / "torch.tif"
        command = [*command, "--precision", "fp32"]
        done = run_without_torch(*command, "-o", target, "--json", "-q")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["runtime"].startswith("openvino")
        again = CliRunner().invoke(
            app, [*command, "-o", str(by_torch), "--overwrite", "--runtime", "torch"]
        )
        assert again.exit_code == 0, again.stderr
        with rasterio.open(target) as found, rasterio.open(by_torch) as expected:
            np.testing.assert_array_equal(found.read(), expected.read())
            assert found.tags()["LEMEVIT_RUNTIME"].startswith("openvino")
            assert expected.tags()["LEMEVIT_RUNTIME"].startswith("torch")


def test_detect_imports_no_torch_once_converted(small, scene, tmp_path, run_without_torch):
    predictor_of(small["det"])
    found, by_torch = tmp_path / "found.gpkg", tmp_path / "torch.gpkg"
    command = ["detect", scene, "-w", small["det"], "--precision", "fp32", "--score", "0.3"]
    done = run_without_torch(*command, "-o", found, "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runtime"].startswith("openvino")
    again = CliRunner().invoke(app, [*command, "-o", str(by_torch), "--runtime", "torch"])
    assert again.exit_code == 0, again.stderr
    boxes, expected = (geopandas.read_file(file) for file in (found, by_torch))
    assert len(boxes) == len(expected) > 2
    away = expected.centroid.apply(lambda place: boxes.centroid.distance(place).min())
    with rasterio.open(scene) as opened:
        assert away.max() < 0.5 * opened.res[0]


def test_a_signal_after_several_networks_does_not_end_the_process():
    program = (
        "import gc, signal, subprocess, sys\n"
        "from lemevit_cli.models.converted import core\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "cores = [core(), core()]\n"
        "for one in cores:\n"
        "    one.get_property('CPU', 'FULL_DEVICE_NAME')\n"
        "while cores:\n"
        "    one = cores.pop(0)\n"
        "    del one\n"
        "    gc.collect()\n"
        "subprocess.run([sys.executable, '-c', ''])\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
