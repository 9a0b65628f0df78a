import json
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from making.clusters import start_cluster
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.commands.groups import Spreading
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.settings import InferenceSettings, RuntimeOptions
from lemevit_cli.tasks import load_network

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
HEADS = {
    "seg": ("upernet", {"decoder_channels": 16}, ["land", "water"]),
    "det": (
        "oriented_rcnn",
        {"channels": 16, "hidden": 32, "proposals": 50},
        ["ship", "plane", "storage tank"],
    ),
    "change": ("difference", {"channels": 16}, ["unchanged", "changed"]),
}


@pytest.fixture(scope="module")
def cluster():
    """Return a cluster of two workers."""
    with start_cluster(2) as started:
        yield started


@pytest.fixture
def dates(write_scene):
    """Return paths of two dates, 150 x 110."""
    values = np.random.default_rng(0).integers(1, 256, (2, 3, 110, 150), dtype=np.uint8)
    return [
        write_scene(pixels, f"{name}.tif", transform=NORTH_UP)
        for pixels, name in zip(values, ("before", "after"), strict=True)
    ]


def weights_of(task, folder):
    """Return the path of weights that were never trained."""
    torch.manual_seed(1)
    head, arguments, names = HEADS[task]
    card = Card(
        task=task,
        backbone="test_resnet",
        head=head,
        head_args=arguments,
        classes=classes_from_names(names),
        window=64,
        overlap=24,
        gsd_m=(0.1, 2.0),
    )
    path = folder / f"{task}.safetensors"
    save_weights(path, load_network(task).build_model(card).state_dict(), card)
    return str(path)


@pytest.mark.parametrize(
    ("command", "task", "ending", "more"),
    [
        ("predict", "seg", "tif", []),
        ("detect", "det", "geojson", ["--score", "0.2"]),
        ("change", "change", "geojson", []),
    ],
)
def test_a_cluster_answers_with_the_bytes_of_one_process(
    command, task, ending, more, dates, cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # workers find what has a relative path
    scenes = [Path(path).name for path in dates[: 2 if command == "change" else 1]]
    common = [command, *scenes, "-w", weights_of(task, tmp_path), *more, "--json"]
    common += ["--block-size", "32", "--device", "cpu", "--threads", "1"]
    records = {}
    for name, how in (("alone", []), ("spread", ["--scheduler", cluster.scheduler_address])):
        run = CliRunner().invoke(app, [*common, "-o", f"{name}.{ending}", *how])
        assert run.exit_code == 0, run.stderr
        records[name] = json.loads(run.stdout)
        assert ("workers" in records[name]["seconds"]) == (name == "spread")
        for changing in ("path", "paths", "seconds", "peak_memory_mb"):
            records[name].pop(changing, None)
    contents = [(tmp_path / f"{name}.{ending}").read_bytes() for name in records]
    assert contents[0].replace(b'"alone"', b'"spread"') == contents[1]
    assert records["spread"] == records["alone"] and records["alone"]["windows"] > 10
    assert not list(tmp_path.glob(".*"))


def test_processes_of_this_machine_share_out_its_cores(monkeypatch):
    settings = InferenceSettings()
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    threads = [Spreading(workers=n).spread(settings).runtime.threads for n in (1, 3, 100)]
    assert threads == [8, 2, 1]
    asked = InferenceSettings(runtime=RuntimeOptions(threads=5))
    assert Spreading(workers=3).spread(asked).runtime.threads == 5
    assert Spreading(scheduler="tcp://there:1").spread(settings).runtime.threads is None


def test_own_processes_or_those_of_others(scene, tiny_weights):
    run = CliRunner().invoke(
        app, ["predict", scene, "-w", tiny_weights, "--workers", "2", "--scheduler", "tcp://a:1"]
    )
    assert run.exit_code == 2
    assert "give one of them" in run.stderr


def test_a_scene_on_stdin_is_for_one_process(scene, tiny_weights, tmp_path):
    command = ["predict", "-", "-w", tiny_weights, "--block-size", "16", "--workers", "2", "-o"]
    run = CliRunner().invoke(
        app, [*command, str(tmp_path / "out.tif")], input=Path(scene).read_bytes()
    )
    assert run.exit_code == 1
    assert "a scene on stdin is this process's alone" in run.stderr
