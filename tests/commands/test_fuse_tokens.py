"""``--fuse-tokens`` of the commands that run a model."""

import json

import numpy as np
import pytest
import rasterio
import torch
from typer.main import get_command
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, read_card, save_weights
from lemevit_cli.tasks import load_network

SMALL = ["--window", "96", "--overlap", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def half_flat(write_scene):
    """Path of a scene of two windows, 176 x 96, one of noise and one of a single colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 176), dtype=np.uint8)
    pixels[:, :, 80:] = 90
    return write_scene(pixels)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def predicted(scene, target, *arguments):
    run = invoke("predict", scene, "-o", target, *SMALL, "--output-type", "scores", *arguments)
    assert run.exit_code == 0, run.stderr
    with rasterio.open(target) as result:
        return result.read(), result.tags()


def test_no_share_is_the_plain_network_and_leaves_no_tag(half_flat):
    plain, tags = predicted(half_flat, "plain.tif")
    none, of_none = predicted(half_flat, "none.tif", "--fuse-tokens", "0")
    np.testing.assert_array_equal(none, plain)
    assert tags == of_none and "LEMEVIT_FUSE_TOKENS" not in tags


@pytest.mark.parametrize(("share", "told"), [("0.5", "0.5"), ("auto", "auto, cosine 0.85")])
def test_a_share_is_told_in_tags_and_any_batch_gives_the_same(half_flat, share, told):
    plain, _ = predicted(half_flat, "plain.tif")
    fused, tags = predicted(half_flat, "two.tif", "--fuse-tokens", share, "--batch-size", 2)
    alone, _ = predicted(half_flat, "one.tif", "--fuse-tokens", share, "--batch-size", 1)
    assert tags["LEMEVIT_FUSE_TOKENS"] == told
    assert np.abs(fused - plain).max() > 1e-4
    np.testing.assert_allclose(alone, fused, atol=1e-4)


@pytest.mark.parametrize("share", ["0.5", "auto"])
def test_symmetries_fuse_too(half_flat, share):
    fused, tags = predicted(half_flat, "fused.tif", "--fuse-tokens", share, "--tta")
    assert np.isfinite(fused).all()
    assert tags["LEMEVIT_SYMMETRIES"] == "8" and tags["LEMEVIT_FUSE_TOKENS"].startswith(share)


@pytest.mark.parametrize("share", ["0.5", "auto"])
def test_sixteen_bits_fuse_too(half_flat, share):
    fused, _ = predicted(half_flat, "full.tif", "--fuse-tokens", share)
    low, _ = predicted(half_flat, "low.tif", "--fuse-tokens", share, "--precision", "bf16")
    np.testing.assert_allclose(low, fused, atol=0.15)
    assert np.abs(low - fused).mean() < 0.01


@pytest.mark.parametrize("share", ["0.9", "auto"])
def test_windows_too_small_to_fuse_anything_in_are_left_as_they_are(half_flat, share):
    tiling = ["--window", 32, "--overlap", 0]  # a map of 2 x 2
    plain, _ = predicted(half_flat, "plain.tif", *tiling)
    fused, _ = predicted(half_flat, "fused.tif", *tiling, "--fuse-tokens", share)
    np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", ["0.25", "auto"])
@pytest.mark.parametrize(
    "command", [["predict"], ["detect"], ["detect", "--tta"], ["change"], ["change", "--tta"]]
)
def test_the_record_tells_the_share(half_flat, command, share):
    scenes = [half_flat, half_flat] if command[0] == "change" else [half_flat]
    run = invoke(*command, *scenes, *SMALL, "--fuse-tokens", share, "--json", "-q", "-o", "r.gpkg")
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found if isinstance(found, dict) else found[0])["fuse_tokens"].startswith(share)


def weights_of(task, head, **backbone_args):
    """Write weights that were never trained, and return their path."""
    torch.manual_seed(0)
    card = Card(
        task=task,
        backbone="lemevit_tiny",
        backbone_args=backbone_args,
        head=head,
        classes=classes_from_names(["land", "building"]),
        window=96,
        overlap=16,
    )
    save_weights("own.safetensors", load_network(task).build_model(card).state_dict(), card)
    return "own.safetensors"


@pytest.mark.parametrize("share", ["0.5", "auto"])
def test_a_class_a_window_is_told_with_the_share(half_flat, share):
    own = ["predict", half_flat, "--task", "cls", "-w", weights_of("cls", "linear"), *SMALL]
    run = invoke(*own, "-o", "classes.tif", "--fuse-tokens", share, "--json")
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["fuse_tokens"].startswith(share)
    with rasterio.open("classes.tif") as result:
        assert result.tags()["LEMEVIT_FUSE_TOKENS"].startswith(share)
    run = invoke(*own, "-o", "classes.csv", "--fuse-tokens", share, "--json")
    assert run.exit_code == 0, run.stderr
    (picture,) = json.loads(run.stdout)["pictures"]
    assert picture["fuse_tokens"].startswith(share)


@pytest.mark.parametrize("share", ["0.5", "auto"])
def test_what_merges_by_a_learned_mask_fuses_none_beside(half_flat, share):
    own = weights_of("seg", "upernet", merge_tokens=0.5)
    predicted(half_flat, "merged.tif", "-w", own, "--tta", "--precision", "bf16")
    assert invoke("attention", half_flat, "-w", own, "--device", "cpu").exit_code == 0
    learning = ["train", "nowhere", "-o", "w.safetensors", "--merge-tokens", "0.5"]
    for command in (["predict", half_flat, "-w", own, *SMALL], learning):
        run = invoke(*command, "--fuse-tokens", share)
        assert run.exit_code == 1 and run.stderr.count("\n") == 1
        assert f"--fuse-tokens {share}: the backbone merges tokens by a mask" in run.stderr


@pytest.mark.parametrize(
    ("option", "commands"),
    [
        ("fuse_tokens", {"predict", "detect", "change", "eval", "train"}),
        ("merge_tokens", {"train", "pretrain"}),
    ],
)
def test_commands_that_reduce_no_tokens_do_not_offer_it(option, commands):
    found = get_command(app).commands.items()
    assert {name for name, c in found if option in {p.name for p in c.params}} == commands


@pytest.mark.parametrize("share", ["1", "-0.1", "half", "nan"])
def test_what_is_no_share_is_wrong_usage(half_flat, share):
    run = invoke("predict", half_flat, f"--fuse-tokens={share}")
    assert run.exit_code == 2
    assert "is not auto, or a share" in " ".join(run.stderr.replace("│", " ").split())


@pytest.mark.parametrize("share", ["0.5", "auto"])
def test_other_backbones_are_refused_in_one_line(half_flat, tiny_weights, share):
    run = invoke("predict", half_flat, "-w", tiny_weights, "--fuse-tokens", share)
    assert run.exit_code == 1
    assert run.stderr.startswith("lemevit: ") and run.stderr.count("\n") == 1
    assert f"--fuse-tokens {share}: the backbone is test_resnet" in run.stderr


def test_training_refuses_another_backbone_and_keeps_a_threshold(tmp_path):
    town = tmp_path / "town"
    run = invoke("simulate", town, "--task", "seg", "--size", 192, "--scenes", 2, "-q")
    assert run.exit_code == 0, run.stderr
    quick = ["--steps", 1, "--crop", 64, "--batch-size", 2, "--workers", 0, "--device", "cpu", "-q"]
    target = tmp_path / "w.safetensors"
    train = ["train", town, "-o", target, *quick, "--fuse-tokens"]
    run = invoke(*train, "0.5", "--backbone", "resnet10t")
    assert run.exit_code == 1 and "the backbone is resnet10t" in run.stderr
    run = invoke(*train, "auto")
    assert run.exit_code == 0, run.stderr
    card = read_card(target)
    assert 0.5 < card.fuse_threshold <= 1
    assert card.training["recipe"]["fuse_tokens"] == "auto"
    command = f"lemevit eval w.safetensors {town} --precision fp32 --fuse-tokens auto"
    assert card.metrics[0]["command"] == command
    run = invoke("eval", target, town, "--device", "cpu", "--fuse-tokens", "auto", "--json")
    assert json.loads(run.stdout)["miou"] == pytest.approx(card.metrics[0]["miou"], abs=1e-4)
