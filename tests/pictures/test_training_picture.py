import numpy as np
import pytest
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.pictures.training_picture import write_sample_sheet, write_training_report

LINES = [
    {"step": 10, "loss": 1.2, "lr": 1e-3, "elapsed_s": 3.0},
    {"step": 20, "loss": 0.7, "lr": 1e-3, "elapsed_s": 6.0},
    {
        "step": 20,
        "score": 0.4,
        "validation": {"dubai": {"miou": 0.5}, "czech": {"miou": 0.3}},
    },
    {"step": 40, "loss": None, "lr": 1e-3, "elapsed_s": 9.0},
    {"step": 40, "score": 0.5, "validation": {"dubai": {"miou": None}, "czech": None}},
]


def window(classes, seed=0, size=64):
    random = np.random.default_rng(seed)
    rgb = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
    ids = random.integers(0, classes, (size, size), dtype=np.uint8)
    ids[:8] = 255
    return rgb, ids


def colors_in(path):
    picture = np.asarray(Image.open(path).convert("RGB"))
    return picture.shape, {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_sheet_shows_every_sample_and_the_legend(tmp_path, count):
    classes = classes_from_names(["land", "building"])
    solid = np.full((64, 64, 3), 255, np.uint8)
    samples = [(solid * 0 + 10 * i, window(2, i)[1]) for i in range(count)]
    write_sample_sheet(tmp_path / "sheet.png", samples, classes)
    shape, colors = colors_in(tmp_path / "sheet.png")
    assert shape[1] > shape[0] or count == 9
    assert {(10 * i,) * 3 for i in range(count)} <= colors
    assert {info.color for info in classes} <= colors


def test_a_sheet_of_nothing_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        write_sample_sheet(tmp_path / "sheet.png", [], classes_from_names(["a"]))


@pytest.mark.parametrize("number", [2, 5, 40])
def test_a_report_shows_truth_and_result_in_the_classes_colors(tmp_path, number):
    classes = classes_from_names([f"class {i}" for i in range(number)])
    counts = np.random.default_rng(0).integers(0, 100, (number, number + 1))
    counts[1] = 0
    examples = []
    for seed in range(3):
        rgb, truth = window(1, seed)
        examples.append((rgb, truth, np.full_like(truth, number - 1)))
    write_training_report(tmp_path / "report.png", LINES, counts, classes, examples)
    shape, colors = colors_in(tmp_path / "report.png")
    assert shape[1] > 1000 and shape[0] > 500
    assert {classes[0].color, classes[-1].color} <= colors


@pytest.mark.parametrize("lines", [LINES[:2], LINES[:1], LINES[3:], []])
def test_a_report_needs_no_validation_and_no_figures(tmp_path, lines):
    write_training_report(tmp_path / "r.png", lines, None, classes_from_names(["a", "b"]), [])
    assert Image.open(tmp_path / "r.png").width > 1000
