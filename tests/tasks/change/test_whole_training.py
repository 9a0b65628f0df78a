"""Change weights trained, stopped, resumed, started from others, and scored."""

import json

import numpy as np
import pytest
import torch
from making.interruption import Interrupting
from making.sources import with_one_earlier_date
from PIL import Image

from lemevit_cli.errors import DataError
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, initialise, load_weights, read_card
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder
from lemevit_cli.tasks.evaluation import evaluate, evaluate_source
from lemevit_cli.tasks.training import train
from lemevit_cli.training.options import AugmentationOptions, DataOptions, TrainingOptions

WIDTH, HEIGHT = 120, 90


def write_pair(root, split, stem, seed):
    """Write two dates of noise; a bright roof stays, another appears, which the mask shows."""
    random = np.random.default_rng(seed)
    stays, appears = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    stays[10:40, 15:50] = 1
    row, col = random.integers(20, 40), random.integers(60, 80)
    appears[row : row + 30, col : col + 30] = 1
    noise = random.integers(0, 60, (2, HEIGHT, WIDTH, 3))
    before = noise[0] + 150 * stays[..., None]
    after = noise[1] + 150 * (stays | appears)[..., None]
    for kind, values in (("A", before), ("B", after), ("label", 255 * appears)):
        place = root / split / kind
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(place / f"{stem}.png")


@pytest.fixture(scope="module")
def village(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs") / "village"
    for seed, (split, stem) in enumerate((("train", "a"), ("train", "b"), ("val", "c"))):
        write_pair(root, split, stem, seed)
    return root


def options(**changes):
    settings = {
        "backbone": "test_resnet", "steps": 30, "batch_size": 4, "crop": 64, "lr": 5e-3,
        "workers": 0, "device": "cpu", "validate_every": 100, "checkpoint_every": 15,
        "decoder_args": {"channels": 16}, "balance": 1.0, "ema_decay": 0.8,
        "augmentation": AugmentationOptions(zoom=(1.0, 1.0)), **changes,
    }  # fmt: skip
    return TrainingOptions(**settings)


@pytest.fixture(scope="module")
def report(village, tmp_path_factory):
    target = tmp_path_factory.mktemp("weights") / "w.safetensors"
    return train("change", DataOptions(paths=(str(village),)), str(target), options())


def test_change_is_learned_and_signed(report, village):
    card = read_card(report["path"])
    assert (card.task, card.class_names) == ("change", ("unchanged", "changed"))
    (metrics,) = card.metrics
    assert metrics["command"] == f"lemevit eval w.safetensors {village} --precision fp32"
    assert set(metrics) >= {"f1", "iou", "precision", "recall", "batch_f1"}
    assert report["scores"]["village"]["f1"] > 0.7
    json.dumps(report)


def test_weights_are_scored_as_the_training_scored_them(report, village):
    figures = evaluate(report["path"], str(village))
    assert figures == report["scores"]["village"]
    assert (figures["pictures"], figures["pixels"]) == (1, WIDTH * HEIGHT)
    # One batch: both ways of counting see the same pixels.
    assert figures["batch_f1"] == pytest.approx(figures["f1"])


def test_a_stopped_training_goes_on_to_the_same_weights(report, village, tmp_path):
    data, stopped = DataOptions(paths=(str(village),)), tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train("change", data, str(stopped), options(), Interrupting(after=15))
    train("change", data, str(stopped), options(resume=True))
    whole, again = (load_weights(path)[0] for path in (report["path"], stopped))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_training_starts_from_weights_of_change_and_of_land_cover(report, tiny_weights):
    card = read_card(report["path"])
    model = load_network("change").build_model(card)
    assert initialise(model, card, report["path"]).left == ()
    taken = initialise(model, card, tiny_weights)
    assert taken.copied > 20 and all("encoder" not in part for part in taken.left)


def predictor_of(answer, classes=("unchanged", "changed")):
    card = Card(
        task="change", backbone="-", classes=classes_from_names(classes), window=48, overlap=16
    )
    return Predictor("a rule", "0" * 16, card, answer, "cpu")


def what_appeared(pixels):
    values = np.asarray(pixels, np.float32)
    appeared = (values[:, 3] - values[:, 0] > 95).astype(np.float32)
    return np.stack([1 - appeared, appeared], axis=1)


def test_scoring_takes_whole_pairs_through_windows_of_both_dates(village):
    figures = evaluate_source(predictor_of(what_appeared), open_pair_folder(village, "train"))
    assert figures["precision"] > 0.99 and 0.9 < figures["recall"] <= 1.0
    assert (figures["pictures"], figures["pixels"]) == (2, 2 * WIDTH * HEIGHT)
    # One roof appears in each pair.
    counts = {"found": 2, "truths": 2, "matched": 2}
    assert figures["objects"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, **counts}
    kinds = predictor_of(
        lambda pixels: np.pad(what_appeared(pixels), ((0, 0), (0, 1), (0, 0), (0, 0))),
        ("unchanged", "built", "torn down"),
    )
    again = evaluate_source(kinds, open_pair_folder(village, "train"))
    assert again == figures  # on data with one kind all kinds are one


def test_two_later_dates_of_one_earlier_are_scored_each_by_itself(village):
    source = open_pair_folder(village, "train")
    shared = with_one_earlier_date(source)
    figures = evaluate_source(predictor_of(what_appeared), shared)
    assert (figures["pictures"], figures["pixels"]) == (2, 2 * WIDTH * HEIGHT)
    assert figures["precision"] > 0.99 and figures["recall"] > 0.9


def test_data_that_cannot_be_scored_are_told(report, tmp_path):
    with pytest.raises(DataError, match=r"val: no such folder; .*\{A,B,label\}"):
        evaluate(report["path"], str(tmp_path))
