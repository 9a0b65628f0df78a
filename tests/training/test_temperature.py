"""The temperature against truths that were drawn by known chances."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.temperature import find_temperature

NAMES = ["background", "building"]
CARD = Card(task="seg", backbone="-", classes=classes_from_names(NAMES), window=64, overlap=0)


@pytest.fixture
def source(tmp_path):
    """Return pictures whose values are the chance of a building, in percent."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    for name in "abcd":
        percent = rng.integers(2, 99, (64, 64), dtype=np.uint8)
        Image.fromarray(np.dstack([percent] * 3)).save(tmp_path / f"val/images/{name}.png")
        is_building = (rng.random((64, 64)) * 100 < percent).astype(np.uint8)
        Image.fromarray(is_building).save(tmp_path / f"val/masks/{name}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": NAMES, "ignore_index": 255}))
    return open_folder(tmp_path, "val")


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 2.0, 3.0])
def test_it_undoes_what_makes_scores_too_sure(source, too_sure):
    def answer(pixels):
        chance = pixels[:, :1] / 100
        return too_sure * torch.cat([(1 - chance).log(), chance.log()], dim=1)

    assert find_temperature(answer, CARD, [source]) == pytest.approx(too_sure, rel=0.2)


def test_a_source_that_knows_one_class_of_several_counts_by_what_it_knows(source):
    card = Card(
        task="seg",
        backbone="-",
        classes=classes_from_names(["land", "building", "water"]),
        window=64,
        overlap=0,
    )

    def answer(pixels):
        chance = pixels[:, :1] / 100
        either = (1 - chance) / 2  # land and water share what is no building
        return 2 * torch.cat([either, chance, either], dim=1).log()

    halved = find_temperature(lambda pixels: answer(pixels) / 2, card, [source])
    assert halved == pytest.approx(1.0, rel=0.2)
    assert find_temperature(answer, card, [source]) > 1.4
