import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lemevit_cli.cli import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path, write_scene):
    """Return two parts, left half dark and right half bright: to train on, to validate on."""
    folder = tmp_path / "halves"

    def make(bands=3, dtype=np.uint8, scale=1):
        random = np.random.default_rng(5)
        for split in ("train", "val"):
            for kind in ("images", "masks"):
                (folder / split / kind).mkdir(parents=True)
            ids = np.zeros((1, 64, 96), dtype=np.uint8)
            ids[:, :, 48:] = 1
            pixels = (ids * 150 + random.integers(0, 60, (bands, 64, 96))) * scale
            write_scene(pixels.astype(dtype), f"halves/{split}/images/a.tif")
            write_scene(ids, f"halves/{split}/masks/a.tif")
        return folder

    return make


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(6)
    path = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return [path, "--model", "test_resnet"]


PROBED = ["--windows", "6", "--window", "64", "-q"]


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 40)])
def test_what_a_layer_can_tell_apart_is_told(data, network, dtype, scale):
    path, *model = network
    run = invoke("probe", path, data(dtype=dtype, scale=scale), *model, *PROBED, "--json")
    assert run.exit_code == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["backbone"] == "test_resnet (resnet.safetensors)"
    figures = record["figures"]["halves"]
    assert figures["miou"] > 0.8 and figures["pixels"] == 64 * 96


def test_a_probe_gives_the_same_again_and_a_table(data, network):
    path, *model = network
    folder = data()
    first, second = (invoke("probe", path, folder, *model, *PROBED) for _ in range(2))
    assert first.exit_code == 0, first.stderr
    assert first.stdout == second.stdout
    assert "class_1" in first.stdout and "mean IoU" in first.stdout


def test_data_with_fewer_bands_than_the_network_reads_are_refused(data, network):
    path, *model = network
    run = invoke("probe", path, data(bands=1), *model, *PROBED)
    assert run.exit_code == 1
    assert run.stderr.startswith("lemevit: halves has 1 bands, test_resnet (resnet.safetensors)")


def test_data_without_a_validation_part_are_refused(tmp_path, network, write_scene):
    scene = write_scene(np.zeros((3, 64, 96), dtype=np.uint8) + 7)
    labels = np.zeros((1, 64, 96), dtype=np.uint8)
    labels[:, :32] = 1
    write_scene(labels, "labels.tif")
    listing = tmp_path / "one.toml"
    listing.write_text('[[source]]\nscene = "scene.tif"\nlabels = "labels.tif"\nsplit = "train"\n')
    path, *model = network
    run = invoke("probe", path, listing, *model, *PROBED)
    assert run.exit_code == 1 and "no validation part" in run.stderr, (run.stderr, scene)


def test_a_list_of_scenes_is_scored_on_those_that_it_holds_back(data, network, tmp_path):
    folder = data()
    listing = tmp_path / "two.toml"
    listing.write_text(
        "".join(
            f'[[source]]\nscene = "{folder}/{split}/images/a.tif"\n'
            f'labels = "{folder}/{split}/masks/a.tif"\nsplit = "{split}"\n'
            for split in ("train", "val")
        ).replace("train/images/a.tif", "train/images/first.tif")
    )
    (folder / "train/images/a.tif").rename(folder / "train/images/first.tif")
    path, *model = network
    run = invoke("probe", path, listing, *model, *PROBED, "--json")
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["figures"]["first"]["pixels"] == 64 * 96


def test_bands_that_are_not_read_are_told(data, network):
    path, *model = network
    run = invoke("probe", path, data(bands=5), *model, *PROBED[:-1])
    assert run.exit_code == 0, run.stderr
    assert "the first 3 of 5 bands are read" in run.stderr
