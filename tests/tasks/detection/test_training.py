"""The task det: its data, its card, its validation and its pictures."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from PIL import Image
from rasterio.features import rasterize

from lemevit_cli.errors import DataError, LemevitError, WeightsError
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.models.oriented_rcnn import OrientedRCNN
from lemevit_cli.tasks import load_training
from lemevit_cli.tasks.detection.pictures import draw_report
from lemevit_cli.tasks.detection.validation import BoxValidation, objects_in
from lemevit_cli.tasks.detection.windows import MOST_ROWS
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.options import DataOptions, TrainingOptions

SIZE = (96, 140)  # rows and columns
OPTIONS = TrainingOptions(backbone="resnet10t", crop=64, batch_size=2, workers=0, device="cpu")


def write_set(root, name="boats", boats=("ship", "ship"), pictures=2, seed=0):
    """Write dark pictures with two bright boxes each, as large as can be, in DOTA's layout."""
    random = np.random.default_rng(seed)
    for split in ("train", "val"):
        for number in range(pictures):
            boxes = np.array(
                [[30 + 75 * i, random.uniform(35, 60), 40, 18, random.uniform(-1, 1)]
                 for i in range(2)]
            )  # fmt: skip
            corners = corners_of(boxes)
            outlines = [(shapely.Polygon(c), 1) for c in corners]
            bright = rasterize(outlines, out_shape=SIZE)
            pixels = (random.integers(20, 60, SIZE) + 150 * bright).astype(np.uint8)
            for kind in ("images", "labelTxt"):
                (root / name / split / kind).mkdir(parents=True, exist_ok=True)
            rgb = Image.fromarray(pixels[..., None].repeat(3, axis=2))
            rgb.save(root / name / split / "images" / f"{number}.png")
            lines = [
                " ".join(f"{v:.2f}" for v in c.ravel()) + f" {boat} 0\n"
                for c, boat in zip(corners, boats, strict=True)
            ]
            (root / name / split / "labelTxt" / f"{number}.txt").write_text("".join(lines))
    return str(root / name)


@pytest.fixture
def task():
    return load_training("det")


def test_the_card_says_what_was_learned_and_how_scenes_are_cut(task, tmp_path):
    data = DataOptions(paths=(write_set(tmp_path), write_set(tmp_path, "lake", ("ship", "pier"))))
    found = task.open_data(data, OPTIONS)
    card = found.card
    assert (card.task, card.head, card.class_names) == ("det", "oriented_rcnn", ("ship", "pier"))
    assert (card.window, card.overlap, card.bands, card.gsd_m) == (128, 25, 3, None)
    assert [entry["objects"] for entry in found.record["data"]] == [4, 4]
    assert [source.name for source in found.validation] == ["boats", "lake"]
    assert found.notes[0] == "boats: DOTA layout, 2 + 2 pictures, 1 class"
    wide = task.open_data(data, replace(OPTIONS, crop=800)).card
    assert (wide.window, wide.overlap) == (768, 150)


def test_bad_labels_are_an_error_or_are_counted(task, tmp_path):
    folder = write_set(tmp_path)
    with (tmp_path / "boats/train/labelTxt/0.txt").open("a") as file:
        file.write("10 20 40 20 40 30 10 ship 0\n")
    data = DataOptions(paths=(folder,))
    with pytest.raises(DataError, match=r"0\.txt, line 3: has 7 coordinates"):
        task.open_data(data, OPTIONS)
    notes = task.open_data(replace(data, skip_bad_labels=True), OPTIONS).notes
    assert any("1 bad labels left out, the first: " in note for note in notes)


def test_norms_of_a_backbone_rest_only_if_it_has_learned(task, tmp_path):
    data = DataOptions(paths=(write_set(tmp_path),))
    assert task.open_data(data, OPTIONS).card.head_args["freeze_norms"] is False
    paper = replace(OPTIONS, decoder="oriented_rcnn_paper")
    assert task.open_data(data, paper).card.head_args["freeze_norms"] is False
    begun = replace(paper, init="landcover")
    args = task.open_data(data, begun).card.head_args
    assert (args["freeze_norms"], args["channels"]) == (True, 256)


def test_the_loss_is_the_sum_over_windows_and_their_number(task, tmp_path):
    found = task.open_data(DataOptions(paths=(write_set(tmp_path),)), OPTIONS)
    heard = {}

    def model(pixels, boxes, labels, unknown):
        heard.update(pixels=pixels, boxes=boxes, labels=labels, unknown=unknown)
        return torch.tensor(0.5)

    samples = [found.training.samples[i] for i in range(3)]
    batch = {key: torch.stack([s[key] for s in samples]) for key in samples[0]}
    total, windows = task.make_loss(found, OPTIONS)(model, batch)
    assert (float(total), int(windows)) == (1.5, 3)
    assert heard["pixels"].shape == (3, 3, 64, 64)
    assert heard["boxes"].shape == (3, MOST_ROWS, 5)
    assert heard["unknown"].tolist() == [[False]] * 3


@pytest.fixture
def see_bright_boxes(find_bright_boxes):
    """Answer as a network of two classes does: candidates, all of them of the first."""

    def see(pixels):
        rows = torch.from_numpy(find_bright_boxes(pixels.numpy()))
        return torch.cat([rows[..., :6], torch.zeros_like(rows[..., :1])], dim=-1)

    return see


def test_the_network_answers_what_validation_reads(task, tmp_path):
    found = task.open_data(DataOptions(paths=(write_set(tmp_path),)), OPTIONS)
    model = task.network.build_model(found.card).eval()
    assert isinstance(model, OrientedRCNN)
    with torch.inference_mode():
        validation = found.training.validate(model)
    assert 0 <= validation.score <= 1
    assert validation.figures["boats"]["classes"]["ship"]["truths"] == 4


def test_answers_that_are_no_numbers_are_not_taken_for_nothing(task, tmp_path, see_bright_boxes):
    found = task.open_data(DataOptions(paths=(write_set(tmp_path),)), OPTIONS)
    with pytest.raises(LemevitError, match=r"boats.*no number"):
        found.training.validate(lambda pixels: see_bright_boxes(pixels) * float("nan"))


def test_a_detector_that_sees_what_is_bright_validates_well(task, tmp_path, see_bright_boxes):
    sets = (write_set(tmp_path), write_set(tmp_path, "lake", ("ship", "pier"), seed=1))
    found = task.open_data(DataOptions(paths=sets), OPTIONS)
    validation = found.training.validate
    assert isinstance(validation, BoxValidation)
    judged = validation(see_bright_boxes)
    assert judged.figures["boats"]["ap50"] == 1.0
    # It takes piers for ships: half of what it finds in the lake is wrong, and no pier is right.
    assert judged.figures["lake"]["classes"]["pier"]["ap50"] == 0.0
    # Over both sets: the piers of the lake are wrong ships, and no pier is found.
    ships = validation.tally.figures()["classes"]["ship"]
    assert ships["truths"] == 6 and judged.score == pytest.approx(ships["ap50"] / 2)
    assert len(validation.examples) == 4
    nothing = validation(lambda pixels: see_bright_boxes(0 * pixels))
    assert nothing.score == 0.0


def test_wide_pictures_are_judged_in_windows_side_by_side(task, tmp_path, see_bright_boxes):
    data = DataOptions(paths=(write_set(tmp_path, pictures=3),))
    shapes = []

    def answer(pixels):
        shapes.append(tuple(pixels.shape))
        return see_bright_boxes(pixels)

    task.open_data(data, replace(OPTIONS, crop=32)).training.validate(answer)
    assert shapes == [(1, 3, 48, 46), (1, 3, 48, 47), (1, 3, 48, 47)] * 6
    limited = replace(OPTIONS, crop=32, validation_windows=5)
    validate = task.open_data(data, limited).training.validate
    shapes.clear()
    validate(answer)
    assert len(shapes) == 5
    assert validate.cost_of_all == pytest.approx(18 / 5 * (64 / 52) ** 2, rel=0.02)


def test_objects_that_a_window_cuts_are_difficult_there():
    boxes = np.array([[50.0, 50, 20, 10, 0], [8, 50, 20, 10, 0], [200, 50, 20, 10, 0]])
    objects = Objects(boxes, np.zeros(3, np.int64), np.zeros(3, bool))
    seen = objects_in(objects, Window(col_off=10, row_off=20, width=100, height=80))
    np.testing.assert_array_equal(seen.boxes[:, :2], [[40, 30], [-2, 30]])
    assert seen.difficult.tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"decoder": "upernet"}, LemevitError, "no decoder 'upernet' for detection"),
        ({"loss": "dice"}, LemevitError, "--loss dice: is for segmentation"),
        ({"class_weights": "balanced"}, LemevitError, "--class-weights balanced: is for"),
        ({"backbone": "magic"}, WeightsError, "no backbone 'magic'"),
        ({"decoder_args": {"width": 3}}, WeightsError, "no argument 'width'"),
    ],
)
def test_options_that_a_detector_does_not_have_are_refused(task, changes, error, said):
    with pytest.raises(error, match=said):
        task.check(replace(OPTIONS, **changes))


def test_sets_are_told_apart_and_what_is_left_of_them_counts(task, tmp_path):
    sets = write_set(tmp_path), write_set(tmp_path, "lake", ("boat", "pier"))
    listing = tmp_path / "all.toml"
    listing.write_text(
        f'[[source]]\nfolder = "{sets[0]}"\nweight = 2\n'
        f'[[source]]\nfolder = "{sets[1]}"\nrename = {{ boat = "ship" }}\ndrop = ["pier"]\n'
    )
    found = task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)
    assert found.card.class_names == ("ship",)
    assert [entry["objects"] for entry in found.record["data"]] == [4, 2]
    assert [entry["weight"] for entry in found.record["data"]] == pytest.approx(
        [2 / (2 + 2**0.5), 2**0.5 / (2 + 2**0.5)], abs=1e-3
    )
    listing.write_text(f'[[source]]\nfolder = "{sets[1]}"\ndrop = ["boat", "pier"]\n')
    with pytest.raises(DataError, match="its labels hold no object of a class"):
        task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)


def test_scores_are_chosen_on_what_is_held_back(task, tmp_path, see_bright_boxes):
    class Seeing(torch.nn.Linear):
        def forward(self, pixels):
            return see_bright_boxes(pixels)

    found = task.open_data(DataOptions(paths=(write_set(tmp_path, pictures=6),)), OPTIONS)
    (chosen,) = found.finish(Seeing(1, 1), found.card).class_scores
    # All is right that it sees, and the least sure of it as well.
    scores = np.concatenate([t.scores for t in found.training.validate.tally._found])
    assert 0.5 < chosen <= scores.min() < chosen + 0.01


def test_what_no_data_show_is_neither_learned_nor_judged(task, tmp_path):
    boats, roofs = Path(write_set(tmp_path)), Path(write_set(tmp_path, "roofs", seed=1))
    for label in roofs.glob("*/labelTxt/*.txt"):
        label.write_text("")
    listing = tmp_path / "all.toml"
    empty = f'[[source]]\nfolder = "{roofs}"\nclasses = ["ship"]\n'
    listing.write_text(empty)
    with pytest.raises(DataError, match="no object to train on in any of the data"):
        task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)
    shutil.rmtree(boats / "val")
    listing.write_text(f'[[source]]\nfolder = "{boats}"\n{empty}')
    found = task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)
    assert found.training.validate is None and found.finish is None
    assert "roofs: no object is held back; it is not validated on" in found.notes
    (roofs / "train" / "labelTxt" / "0.txt").write_text("9 9 9 9 9 9 9 9 ship 0\n")
    with pytest.raises(DataError, match="roofs/train: no object is left to find"):
        task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)


def test_pictures_without_any_object_teach_what_is_none(task, tmp_path, see_bright_boxes):
    boats, roofs = write_set(tmp_path), write_set(tmp_path, "roofs", seed=1)
    for label in Path(roofs).glob("*/labelTxt/*.txt"):
        label.write_text("")
    with pytest.raises(DataError, match=r"by classes = \[\.\.\.\] in a TOML list"):
        task.open_data(DataOptions(paths=(boats, roofs)), OPTIONS)
    listing = tmp_path / "all.toml"
    listing.write_text(
        f'[[source]]\nfolder = "{boats}"\n[[source]]\nfolder = "{roofs}"\nclasses = ["ship"]\n'
    )
    found = task.open_data(DataOptions(paths=(str(listing),)), OPTIONS)
    assert "roofs: nothing is labelled; learned as ground without ship" in found.notes
    # Four objects weigh as much as four pictures would: two do, by their roots.
    weights = [entry["weight"] for entry in found.record["data"]]
    assert weights == pytest.approx([2 / (2 + 2**0.5), 2**0.5 / (2 + 2**0.5)], abs=1e-3)
    judged = found.training.validate(see_bright_boxes)
    assert judged.figures["roofs"]["false_finds"] == 4
    assert judged.figures["boats"]["false_finds"] == 0 and judged.score < 1.0


def test_classes_that_are_longer_than_a_window_are_told(task, tmp_path):
    boats = write_set(tmp_path)
    long = write_set(tmp_path, "lake", ("ferry", "ferry"))
    for path in (tmp_path / "lake").glob("*/labelTxt/*.txt"):
        path.write_text("10 20 80 20 80 35 10 35 ferry 0\n10 50 60 50 60 60 10 60 ferry 0\n")
    data = DataOptions(paths=(boats, long))
    assert task.open_data(data, OPTIONS).notes[-1] == (
        "ferry: more than 25% of the objects are longer than a window of 64 pixels; "
        "a larger --crop shows them whole"
    )
    wide = task.open_data(data, replace(OPTIONS, crop=96))
    assert not any("longer than" in note for note in wide.notes)


def test_objects_that_are_too_narrow_to_learn_are_told(task, tmp_path):
    boats = write_set(tmp_path)
    narrow = write_set(tmp_path, "wires", ("wire", "wire"))
    for path in (tmp_path / "wires").glob("*/labelTxt/*.txt"):
        path.write_text("10 20 30 20 30 21 10 21 wire 0\n10 50 60 50 60 60 10 60 wire 0\n")
    pictures = len(list((tmp_path / "wires" / "train" / "labelTxt").iterdir()))
    assert task.open_data(DataOptions(paths=(boats, narrow)), OPTIONS).notes[-1] == (
        "objects narrower than 2 pixels are learned only where a window shows them larger: "
        f"wire {pictures} of {2 * pictures}"
    )


def test_samples_and_report_are_drawn(task, tmp_path, see_bright_boxes):
    found = task.open_data(DataOptions(paths=(write_set(tmp_path),)), OPTIONS)
    found.draw_samples(tmp_path / "samples.png")
    metrics = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0},
        {"step": 2, "score": 0.4, "validation": {"boats": {"ap50": 0.4}}},
    ]
    found.draw_report(tmp_path / "early.png", metrics)  # nothing is validated yet
    found.training.validate(see_bright_boxes)
    found.draw_report(tmp_path / "report.png", metrics)
    for name in ("samples", "early", "report"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert picture.shape[1] > 800 and picture.std() > 10
    draw_report(tmp_path / "none.png", metrics[:2], validation=None, card=found.card)
    assert (tmp_path / "none.png").stat().st_size > 1000
