import numpy as np
import torch
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.metrics.confusion import Confusion
from lemevit_cli.models.weights import Card
from lemevit_cli.training.pictures import as_rgb, draw_report, draw_samples, model_ids
from lemevit_cli.training.window_validation import Example, WindowValidation

CARD = Card(task="seg", backbone="-", classes=classes_from_names(["land", "building", "road"]))


def test_labels_of_a_source_are_shown_as_the_models():
    ids = torch.tensor([[0, 1, 255]])
    # The source knows background and building: its background may be land or road.
    assert model_ids(ids, torch.tensor([0, 1, 0])).tolist() == [[3, 1, 255]]
    assert model_ids(ids, torch.tensor([1, 0, -1])).tolist() == [[1, 0, 255]]


def test_values_are_shown_between_black_and_white():
    pixels = np.array([100.0, 300.0, 500.0, 900.0], dtype=np.float32).reshape(1, 1, 4)
    assert as_rgb(pixels, (100.0, 500.0))[0].tolist() == [[v, v, v] for v in (0, 128, 255, 255)]
    four = np.random.default_rng(0).uniform(0, 255, (4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        as_rgb(four, (0.0, 255.0)), four[:3].transpose(1, 2, 0).round().astype(np.uint8)
    )


def test_a_sheet_shows_sixteen_windows(tmp_path):
    asked = []

    class Windows:
        def __getitem__(self, index):
            asked.append(index)
            ids = torch.full((32, 32), 1)
            groups = torch.tensor([0, 1, 0])
            return {"pixels": torch.rand(3, 32, 32) * 255, "ids": ids, "groups": groups}

    draw_samples(tmp_path / "sheet.png", Windows(), CARD)
    assert asked == list(range(16))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 300 and sheet.std() > 5


def test_a_report_is_drawn_with_and_without_a_validation(tmp_path):
    metrics = [{"step": 10, "loss": 1.0, "lr": 0.1}, {"step": 20, "loss": 0.5, "lr": 0.1}]
    draw_report(tmp_path / "plain.png", metrics, validation=None, card=CARD)
    validation = WindowValidation([], CARD)
    confusion = Confusion(("background", "building"))
    confusion.counts[:, :2] = [[5, 2], [1, 7]]
    validation.confusions = {"roofs": confusion}
    ids = np.zeros((20, 30), dtype=np.uint8)
    pixels = np.full((3, 20, 30), 99, dtype=np.float32)
    validation.examples = (Example("roofs", confusion.classes, pixels, ids, ids),)
    draw_report(tmp_path / "full.png", metrics, validation=validation, card=CARD)
    sizes = [Image.open(tmp_path / name).size for name in ("plain.png", "full.png")]
    assert sizes[0] != sizes[1] and min(map(min, sizes)) > 100
