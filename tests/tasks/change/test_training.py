"""The task change: its card, its heads, data joined from several places, and its pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lemevit_cli.errors import DataError, LemevitError
from lemevit_cli.tasks import load_training
from lemevit_cli.training.options import AugmentationOptions, DataOptions, TrainingOptions

TASK = load_training("change")
OPTIONS = TrainingOptions(
    backbone="test_resnet",
    crop=32,
    decoder_args={"channels": 8},
    augmentation=AugmentationOptions.none(),
)


@pytest.fixture
def make_set(tmp_path):
    """Make a folder of pairs: roofs of red 200 appear; masks hold the values of ``ids``."""

    def make(name="pairs", *, ids=(0, 255), bands=3, classes=None):
        random = np.random.default_rng(0)
        for split in ("train", "val"):
            mask = np.zeros((48, 64), np.uint8)
            for number, value in enumerate(ids[1:]):
                mask[10:30, 8 + 24 * number : 24 + 24 * number] = value
            after = random.integers(0, 60, (48, 64, bands)) + 150 * (mask > 0)[..., None]
            before = random.integers(0, 60, (48, 64, bands))
            for kind, values in (("A", before), ("B", after), ("label", mask)):
                place = tmp_path / name / split / kind
                place.mkdir(parents=True)
                Image.fromarray(np.squeeze(values).astype(np.uint8)).save(place / "x.png")
        if classes:
            names = ", ".join(f'"{c}"' for c in classes)
            (tmp_path / name / "classes.json").write_text(f'{{"classes": [{names}]}}')
        return str(tmp_path / name)

    return make


def opened(*paths, **changes):
    return TASK.open_data(DataOptions(paths=paths), replace(OPTIONS, **changes))


def test_the_card_tells_of_one_date_and_two_classes(make_set):
    found = opened(make_set())
    card = found.card
    assert (card.task, card.head, card.bands) == ("change", "difference", 3)
    assert card.class_names == ("unchanged", "changed")
    assert (card.window, card.overlap) == (512, 64)
    assert len(card.mean) == len(card.std) == 3
    assert card.head_args == {"channels": 8, "decode_first": False}
    model = TASK.network.build_model(card).eval()
    assert model(torch.zeros(1, 6, 40, 56)).shape == (1, 2, 40, 56)
    assert found.notes[-1].endswith("of the labelled pixels changed")


def test_statistics_are_those_of_both_dates(make_set):
    found = opened(make_set(bands=1))
    dates = [found.training.samples[i]["pixels"] for i in range(64)]
    mean = torch.stack(dates).mean()
    assert found.card.mean == pytest.approx((mean.item(),), rel=0.02)
    before, after = torch.stack(dates).mean(dim=(0, 2, 3))
    assert before < mean < after
    assert found.card.bands == 1


def test_every_head_answers_and_no_other_is_known(make_set):
    for name, head in (("bit", "bit"), ("difference_decoded", "difference")):
        options = replace(OPTIONS, decoder=name, decoder_args=None)
        TASK.check(options)
        card = TASK.open_data(DataOptions(paths=(make_set(name),)), options).card
        assert card.head == head and card.head_args.get("decode_first", False) == (head != "bit")
    with pytest.raises(LemevitError, match="no head 'unet' for change; choose one of difference"):
        TASK.check(replace(OPTIONS, decoder="unet"))
    with pytest.raises(LemevitError, match="has no argument 'depth'"):
        TASK.check(replace(OPTIONS, decoder_args={"depth": 3}))


def test_sets_with_one_kind_teach_beside_those_that_name_kinds(make_set):
    kinds = make_set("kinds", ids=(0, 1, 2), classes=("same", "built", "torn down"))
    found = opened(make_set(), kinds)
    assert found.card.class_names == ("unchanged", "built", "torn down")
    groups = {tuple(found.training.samples[i]["groups"].tolist()) for i in range(20)}
    assert groups == {(0, 1, 1), (0, 1, 2)}
    batch = {k: torch.stack([found.training.samples[i][k] for i in range(4)])
             for k in ("pixels", "ids", "groups")}  # fmt: skip
    for spec in ("ce", "ce+dice"):
        loss = TASK.make_loss(found, replace(OPTIONS, loss=spec, class_weights="balanced"))
        total, targets = loss(TASK.network.build_model(found.card), batch)
        assert torch.isfinite(total) and targets == 4 * 32 * 32


def test_the_score_is_the_f1_of_change_over_all_windows(make_set):
    validate = opened(make_set()).training.validate

    def bright_is_new(pixels):
        appeared = (pixels[:, 3] - pixels[:, 0] > 70).float()
        return torch.stack([1 - appeared, appeared], dim=1)

    def left_half(pixels):
        logits = torch.zeros(len(pixels), 2, *pixels.shape[2:])
        logits[:, 1, :, :16] = 1
        return logits

    assert validate(bright_is_new).score > 0.95
    result = validate(left_half)
    # Of 320 changed pixels 160 lie in the left 16 columns of 768.
    assert result.score == pytest.approx(2 * 160 / (320 + 768))
    assert set(result.figures["pairs"]) == {"f1", "iou", "precision", "recall"}


def test_results_are_drawn_with_both_dates(make_set, tmp_path):
    found = opened(make_set())
    found.training.validate(lambda pixels: torch.zeros(len(pixels), 2, *pixels.shape[2:]))
    log = [{"step": 1, "loss": 1.0}, {"step": 1, "score": 0.2, "validation": {}}]
    found.draw_report(tmp_path / "report.png", log)
    picture = np.asarray(Image.open(tmp_path / "report.png"))
    assert picture.shape[1] > 600 and picture.std() > 5


def test_data_for_other_tasks_are_refused(make_set, tmp_path):
    (tmp_path / "masks" / "train" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="needs the folders A and B"):
        opened(str(tmp_path / "masks"))
    with pytest.raises(DataError, match="images: no such folder"):
        load_training("seg").open_data(DataOptions(paths=(make_set(),)), TrainingOptions())
