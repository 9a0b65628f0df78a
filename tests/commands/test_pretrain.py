import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import read_card

QUICK = ["--backbone", "test_resnet", "--crop", "64", "--batch-size", "4", "--workers", "0"]
QUICK += ["--cache-gb", "0.0002", "--width", "8", "--device", "cpu", "--no-progress"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return twenty-four pictures of stripes, some wide and some narrow."""
    folder = tmp_path_factory.mktemp("pictures") / "stripes"
    folder.mkdir()
    rows, cols = np.indices((96, 80))
    for number in range(24):
        wave = np.sin((rows + number * cols / 12) / (2 + number % 5))
        pixels = np.stack([128 + 100 * wave, 90 + 50 * wave, rows + cols], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return ["--teacher", path, "--teacher-model", "test_vit"]


def pretrain(pictures, teacher, target, *arguments):
    return invoke("pretrain", pictures, *teacher, "-o", target, *QUICK, *arguments)


def test_a_distilled_backbone_begins_a_training(pictures, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pretrain(pictures, teacher, "b.safetensors", "--steps", 12, "--validate-every", 4)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "b.safetensors\n"
    assert "23 pictures to learn from, 1 held back" in run.stderr
    assert "cosine of stride 8" in run.stderr
    card = read_card("b.safetensors")
    assert (card.task, card.backbone, card.classes) == ("backbone", "test_resnet", ())
    assert card.training["teacher"]["name"] == "test_vit (teacher.safetensors)"
    assert card.training["teacher"]["licence"] == "not stated"
    assert card.training["data"][0]["name"] == "stripes"
    assert Path("b_training/report.png").is_file() and not Path("b_training/teacher").exists()
    Path("b.safetensors").rename("kept.safetensors")
    run = pretrain(pictures, teacher, "b.safetensors", "--steps", 12)
    assert run.exit_code == 1 and run.stderr.count("\n") == 1
    assert "checkpoint.pt is of an earlier run" in run.stderr and "--resume" in run.stderr
    Path("kept.safetensors").rename("b.safetensors")
    lines = map(json.loads, Path("b_training/metrics.jsonl").read_text().splitlines())
    scores = [line["score"] for line in lines if "score" in line]
    assert len(scores) == 3 and scores[-1] > scores[0]

    for kind in ("images", "masks"):
        for split in ("train", "val"):
            place = Path("data", split, kind)
            place.mkdir(parents=True)
            cells = np.random.default_rng(0).integers(0, 2, (4, 4), dtype=np.uint8)
            values = np.kron(cells, np.ones((16, 16), dtype=np.uint8))
            shown = values if kind == "masks" else np.repeat(values[..., None] * 200, 3, axis=2)
            Image.fromarray(shown).save(place / "a.png")
    run = invoke(
        *("train", "data", "-o", "w.safetensors", "--init", "b.safetensors", "--steps", 1),
        *("--backbone", "test_resnet", "--crop", 64, "--batch-size", 2, "--workers", 0),
    )
    assert run.exit_code == 0, run.stderr
    taken = len(load_file("b.safetensors"))
    assert f"{taken} tensors taken over from b.safetensors" in run.stderr
    run = invoke("predict", "data/val/images/a.png", "-w", "b.safetensors", "-o", "out.tif")
    assert run.exit_code == 1 and "task backbone" in run.stderr

    run = invoke("probe", "b.safetensors", "data", "--windows", 4, "--window", 64, "--json", "-q")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)["figures"]["data"]
    assert set(figures["classes"]) == {"class_0", "class_1"}
    # Bright and dark cells: what any features of the finest level tell apart.
    assert figures["accuracy"] > 0.8


def test_a_backbone_that_merges_tokens_begins_trainings_with_and_without(
    pictures, teacher, tmp_path, monkeypatch, write_data
):
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "squares")
    tiny, merging = ["--backbone", "lemevit_tiny"], ["--merge-tokens", "0.5"]
    run = pretrain(pictures, teacher, "b.safetensors", "--steps", 1, *tiny, *merging)
    assert run.exit_code == 0, run.stderr
    assert read_card("b.safetensors").backbone_args == {"merge_tokens": 0.5}
    masks = [key for key in load_file("b.safetensors") if ".reduction." in key]
    for further, left in ((merging, 0), ([], len(masks))):
        run = invoke(
            *("train", data, "-o", "w.safetensors", "--init", "b.safetensors", "--steps", 1),
            *("--crop", 64, "--batch-size", 2, "--workers", 0, "--overwrite", *tiny, *further),
        )
        assert run.exit_code == 0, run.stderr
        taken = len(load_file("b.safetensors")) - left
        assert f"{taken} tensors taken over from b.safetensors" in run.stderr
    for command in (
        ["probe", "b.safetensors", data, "--windows", 2, "--window", 64],
        ["attention", f"{data}/val/images/0.png", "-w", "b.safetensors"],
    ):
        run = invoke(*command, "--device", "cpu", "-q")
        assert run.exit_code == 0, run.stderr
    run = pretrain(pictures, teacher, "c.safetensors", *merging)
    assert run.exit_code == 1 and "--merge-tokens: the backbone is test_resnet" in run.stderr


def interrupted(pictures, teacher, target, monkeypatch, *arguments):
    """Run, and end it as Ctrl-C does, once five steps are done."""
    from lemevit_cli.commands import console

    real = console.Console.advance

    def advance(self, count=1, **figures):
        if figures.get("step") == 5:
            raise KeyboardInterrupt
        real(self, count, **figures)

    with monkeypatch.context() as patched:
        patched.setattr(console.Console, "advance", advance)
        return pretrain(pictures, teacher, target, *arguments)


@pytest.mark.parametrize("cache", [[], ["--cache-gb", "0"], ["--cache", "kept"]], ids=str)
def test_a_resumed_run_gives_the_same_tensors(pictures, teacher, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    steps = ["--steps", 8, "--validate-every", 4, "--checkpoint-every", 4, *cache]
    assert pretrain(pictures, teacher, "whole.safetensors", *steps).exit_code == 0
    run = interrupted(pictures, teacher, "parts.safetensors", monkeypatch, *steps)
    assert run.exit_code == 130, run.stderr
    run = pretrain(pictures, teacher, "parts.safetensors", *steps, "--resume")
    assert run.exit_code == 0, run.stderr
    whole, parts = load_file("whole.safetensors"), load_file("parts.safetensors")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert Path("kept").is_dir() == ("--cache" in cache)


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--teacher-model", "resnet18"], "missing or of another shape", 1),
        (["--teacher", "no/such.pth"], "no such file", 1),
        (["--crop", "100"], "--crop 100", 1),
        (["--cache-gb", "1e-9"], "--cache-gb", 1),
        (["--backbone", "magic"], "no backbone 'magic'", 1),
        (["--levels", "64=1"], "--levels", 2),
        (["--levels", "8"], "--levels", 2),
        (["--levels", "8=nan"], "--levels", 2),
        (["--levels", "8=1,8=2"], "--levels", 2),
        (["--levels", "2=1", "--backbone", "lemevit_tiny"], "no features of stride 2", 1),
        (["--cache", "{file}"], "is a file", 1),
        (["--teacher-zoom", "0"], "--teacher-zoom", 2),
        (["--checkpoint-every", "often"], "--checkpoint-every", 2),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    pictures, teacher, tmp_path, arguments, said, status
):
    target, file = tmp_path / "b.safetensors", tmp_path / "file"
    file.write_text("x")
    arguments = [argument.format(file=file) for argument in arguments]
    run = pretrain(pictures, teacher, target, "--steps", 1, *arguments)
    assert run.exit_code == status and said in run.stderr, run.stderr
    if status == 1:
        assert run.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_answers_about_other_pictures_are_not_taken_for_ours(pictures, teacher, tmp_path):
    cache = ["--cache", tmp_path / "kept", "--steps", 1]
    assert pretrain(pictures, teacher, tmp_path / "a.safetensors", *cache).exit_code == 0
    other = tmp_path / "stripes"
    shutil.copytree(pictures, other)
    run = pretrain(other, teacher, tmp_path / "b.safetensors", *cache)
    assert run.exit_code == 1 and "other data or options" in run.stderr


def test_what_an_abandoned_run_left_does_not_stop_the_next(pictures, teacher, tmp_path):
    target = tmp_path / "b.safetensors"
    left = tmp_path / "b_training" / "teacher"
    left.mkdir(parents=True)
    (left / "made_for.json").write_text("something else")
    assert pretrain(pictures, teacher, target, "--steps", 1).exit_code == 0


def test_a_resume_refuses_another_teacher(pictures, teacher, tmp_path):
    target = tmp_path / "b.safetensors"
    assert pretrain(pictures, teacher, target, "--steps", 2, "--cache-gb", 0).exit_code == 0
    run = pretrain(
        *(pictures, teacher, target, "--steps", 4, "--cache-gb", 0),
        *("--teacher-layers", "1", "--resume"),
    )
    assert run.exit_code == 1 and "layers" in run.stderr
