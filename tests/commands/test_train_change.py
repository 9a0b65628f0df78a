"""``train --task change`` and ``eval`` as a user runs them."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import read_card

QUICK = ["--backbone", "test_resnet", "--crop", "64", "--batch-size", "2", "--workers", "0",
         "--device", "cpu", "--steps", "1"]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Return simulated pairs in the layout that ``simulate --task change`` writes."""
    folder = tmp_path_factory.mktemp("change") / "town"
    run = invoke("simulate", folder, "--task", "change", "--size", 320, "--scenes", 2, "-q")
    assert run.exit_code == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def dates(tmp_path_factory):
    """Return a simulated pair of scenes with a raster of what was built and torn down."""
    folder = tmp_path_factory.mktemp("dates")
    run = invoke("simulate", folder, "--size", 320, "-q")
    assert run.exit_code == 0, run.stderr
    return folder


def test_simulated_pairs_become_weights_and_figures(town, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = invoke("train", "--task", "change", town, "-o", "w.safetensors", "--head", "bit", *QUICK)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "w.safetensors\n"
    assert "of the labelled pixels changed" in run.stderr
    assert "mean of batches" in run.stderr
    card = read_card("w.safetensors")
    assert (card.task, card.head, card.bands) == ("change", "bit", 3)
    assert card.gsd_m == pytest.approx((0.3, 0.3), rel=1e-2)
    assert Image.open("w_training/report.png").width > 400
    run = invoke("eval", "w.safetensors", town, "--json", "-q")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)
    assert set(figures) == {"f1", "iou", "precision", "recall", "batch_f1", "batch_precision",
                            "batch_recall", "objects", "pictures", "pixels"}  # fmt: skip
    run = invoke("eval", "w.safetensors", town, "--split", "train", "-q")
    assert run.exit_code == 0 and "change" in run.stdout


def test_two_scenes_and_what_changed_are_shown_and_learned_from(dates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, labels = (dates / name for name in ("before.tif", "after.tif", "change.tif"))
    pair = ["--before", before, "--after", after, "--labels", labels]
    run = invoke("train", "--task", "change", *pair, "--show-samples", "s.png", *QUICK)
    assert run.exit_code == 0, run.stderr
    assert Image.open("s.png").width > 400
    others = [
        shutil.copy(path, tmp_path / f"other_{path.name}") for path in (before, after, labels)
    ]
    listing = tmp_path / "all.toml"
    listing.write_text(
        f'[[source]]\nbefore = "{before}"\nafter = "{after}"\nlabels = "{labels}"\n'
        f'[[source]]\nbefore = "{others[0]}"\nafter = "{others[1]}"\nlabels = "{others[2]}"\n'
        'split = "val"\n'
    )
    run = invoke("train", "--task", "change", listing, "-o", "v.safetensors", *QUICK, "--json")
    assert run.exit_code == 0, run.stderr
    assert read_card("v.safetensors").class_names == ("unchanged", "built", "torn down")
    (figures,) = json.loads(run.stdout)["scores"].values()
    assert set(figures["classes"]) == {"unchanged", "built", "torn down"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{town}", "--head", "unet"], 1, "no head 'unet' for change"),
        (["{town}", "--loss", "l1"], 1, "l1"),
        (["{before}"], 1, "no such folder"),
        (["--scene", "{before}", "--labels", "{labels}"], 1, "is one date"),
        (["--before", "{before}", "--labels", "{labels}"], 2, "name both dates"),
        (["--before", "{before}", "--after", "{after}"], 2, "each scene needs its labels"),
        (["--before", "{before}", "--after", "{after}", "--labels", "none.gpkg"], 1, "none.gpkg"),
    ],
)
def test_a_mistake_is_told_before_any_step(town, dates, tmp_path, arguments, code, said):
    places = {
        "town": town,
        "before": dates / "before.tif",
        "after": dates / "after.tif",
        "labels": dates / "change.tif",
    }
    given = [argument.format(**places) for argument in arguments]
    target = tmp_path / "w.safetensors"
    run = invoke("train", "--task", "change", *given, "-o", target, *QUICK)
    assert run.exit_code == code, run.stderr
    assert said in " ".join(run.stderr.replace("│", " ").split())
    assert not target.exists()


def test_two_dates_are_for_change_alone(dates, tmp_path):
    before, after, labels = (dates / name for name in ("before.tif", "after.tif", "change.tif"))
    listing = tmp_path / "all.toml"
    listing.write_text(f'[[source]]\nbefore = "{before}"\nafter = "{after}"\nlabels = "{labels}"\n')
    for task in ("seg", "det"):
        run = invoke("train", "--task", task, listing, "-o", tmp_path / "w.safetensors", *QUICK)
        assert run.exit_code == 1 and "are two dates; only --task change" in run.stderr
    run = invoke(
        "train", "--before", before, "--after", after, "--labels", labels, "-o", "w", *QUICK
    )
    assert run.exit_code == 2
