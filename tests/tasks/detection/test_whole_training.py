"""Detectors trained, stopped, resumed and scored through the pipelines."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from making.collector import Collector
from making.interruption import Interrupting
from rasterio.features import rasterize

from lemevit_cli.errors import DataError, WeightsError
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, load_weights, read_card
from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.tasks.detection.evaluation import EVALUATION, objects_of_area
from lemevit_cli.tasks.evaluation import evaluate, evaluate_source
from lemevit_cli.tasks.training import train
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.source import Site
from lemevit_cli.training.options import DataOptions, TrainingOptions

WIDTH, HEIGHT = 120, 90
NOTHING = Objects(np.empty((0, 5)), np.empty(0, np.int64), np.empty(0, bool))
PLACE = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


def boats(seed):
    random = np.random.default_rng(seed)
    return np.array([[30 + 55 * i, random.uniform(35, 55), 40, 14, random.uniform(-1, 1)]
                     for i in range(2)])  # fmt: skip


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    """Return a folder of dark scenes with two bright boats: two to train on, one to validate on."""
    root = tmp_path_factory.mktemp("boxes") / "harbour"
    for seed, (split, name) in enumerate((("train", "a"), ("train", "b"), ("val", "c"))):
        corners = corners_of(boats(seed))
        outlines = [(shapely.Polygon(c), 1) for c in corners]
        bright = rasterize(outlines, out_shape=(HEIGHT, WIDTH))
        noise = np.random.default_rng(seed).integers(20, 60, (HEIGHT, WIDTH))
        pixels = (noise + 150 * bright).astype(np.uint8)
        for kind in ("images", "labelTxt"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        profile = {"driver": "GTiff", "count": 3, "width": WIDTH, "height": HEIGHT,
                   "dtype": "uint8", "crs": "EPSG:32633", "transform": PLACE}  # fmt: skip
        with rasterio.open(root / split / "images" / f"{name}.tif", "w", **profile) as file:
            file.write(pixels[None].repeat(3, axis=0))
        lines = [" ".join(f"{v:.2f}" for v in c.ravel()) + " boat 0" for c in corners]
        (root / split / "labelTxt" / f"{name}.txt").write_text("\n".join(lines))
    return root


def options(**changes):
    settings = {
        "backbone": "resnet10t", "steps": 4, "batch_size": 2, "crop": 64, "workers": 0,
        "device": "cpu", "validate_every": 100, "checkpoint_every": 2,
        "decoder_args": {"channels": 16, "hidden": 16, "proposals": 40}, **changes,
    }  # fmt: skip
    return TrainingOptions(**settings)


@pytest.fixture(scope="module")
def report(harbour, tmp_path_factory):
    target = tmp_path_factory.mktemp("weights") / "w.safetensors"
    return train("det", DataOptions(paths=(str(harbour),)), str(target), options())


def test_a_detector_is_trained_and_signs_what_it_learned(report, harbour):
    card = read_card(report["path"])
    assert (card.task, card.class_names, card.window) == ("det", ("boat",), 128)
    assert card.gsd_m == pytest.approx((0.5, 0.5), rel=1e-2)
    assert card.training["data"][0]["objects"] == 4
    assert card.class_scores == (0.3,)  # two boats are too few for a score of their own
    (metrics,) = card.metrics
    assert metrics["data"] == "harbour"
    assert metrics["command"] == f"lemevit eval w.safetensors {harbour} --precision fp32"
    assert metrics["ap50"] == report["scores"]["harbour"]["ap50"]
    assert set(metrics) >= {"ap75", "ap50_95", "ap50_voc07", "length_error", "classes"}
    json.dumps(report)


def test_weights_are_scored_as_the_training_scored_them(report, harbour):
    figures = evaluate(report["path"], str(harbour))
    assert figures == report["scores"]["harbour"]
    assert figures["pictures"] == 1 and figures["classes"]["boat"]["truths"] == 2
    assert evaluate(report["path"], str(harbour), split="train")["pictures"] == 2


def test_weights_are_scored_on_a_split_of_any_name(report, harbour, tmp_path):
    shutil.copytree(harbour / "val", tmp_path / "harbour" / "test")
    figures = evaluate(report["path"], str(tmp_path / "harbour"), split="test")
    assert figures == report["scores"]["harbour"]
    with pytest.raises(DataError, match="no labels of boxes in holdout"):
        evaluate(report["path"], str(tmp_path / "harbour"), split="holdout")
    with pytest.raises(DataError, match="no labels of boxes"):
        evaluate(report["path"], str(tmp_path / "harbour"))


def test_false_finds_are_told_per_area_where_pixels_have_a_size(harbour, find_bright_boxes):
    folder = open_box_folder(str(harbour))
    assert folder.validation is not None
    source = replace(folder.validation, objects={s.scene: NOTHING for s in folder.validation.sites})
    figures = evaluate_source(bright_predictor(find_bright_boxes), source)
    area_km2 = WIDTH * HEIGHT * 0.5**2 / 1e6
    assert figures["false_finds"] == 2 and figures["ap50"] is None
    assert figures["false_finds_per_km2"] == pytest.approx(2 / area_km2, rel=1e-2)
    unknown = replace(source, sites=tuple(replace(s, gsd_m=None) for s in source.sites))
    assert (
        evaluate_source(bright_predictor(find_bright_boxes), unknown)["false_finds_per_km2"] is None
    )


def test_what_counts_is_judged_from_the_score_of_the_weights(harbour, find_bright_boxes):
    predictor = bright_predictor(find_bright_boxes)
    source = open_box_folder(str(harbour)).validation
    found = evaluate_source(predictor, source)
    sure = replace(predictor, card=replace(predictor.card, class_scores=(0.99,)))
    none = evaluate_source(sure, source)
    assert (found["recall"], none["recall"]) == (1.0, 0.0)
    assert none["classes"]["boat"]["score"] == 0.99 and none["ap50"] == found["ap50"]


def test_a_stopped_training_goes_on_to_the_same_weights(report, harbour, tmp_path):
    data, stopped = DataOptions(paths=(str(harbour),)), tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train("det", data, str(stopped), options(), Interrupting(after=2))
    train("det", data, str(stopped), options(resume=True))
    whole, again = (load_weights(path)[0] for path in (report["path"], stopped))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def bright_predictor(find, classes=("boat",)):
    card = Card(
        task="det", backbone="-", classes=classes_from_names(classes), window=64, overlap=44
    )
    return Predictor("bright", "0" * 16, card, find, "cpu")


def test_scoring_takes_the_road_of_detect(harbour, find_bright_boxes):
    source = open_box_folder(harbour).validation
    figures = evaluate_source(bright_predictor(find_bright_boxes), source)
    # Each boat is whole in one window of several, and cut in others.
    assert figures["ap50"] == 1.0 and figures["classes"]["boat"]["found"] == 2
    assert figures["length_error"] < 0.1 and figures["bearing_error_deg"] < 4


def test_only_what_lies_in_an_area_is_judged(harbour, find_bright_boxes):
    source = open_box_folder(harbour).validation
    site = source.sites[0]
    left = Window(col_off=0, row_off=0, width=WIDTH // 2, height=HEIGHT)
    half = replace(
        source, sites=(Site(scene=site.scene, extent=site.extent, core=left, gsd_m=None),)
    )
    figures = evaluate_source(bright_predictor(find_bright_boxes), half)
    assert figures["classes"]["boat"]["truths"] == 1
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)
    near = objects_of_area(
        source.objects[site.scene], Window(col_off=0, row_off=0, width=75, height=90)
    )
    assert near.difficult.tolist() == [False, True]


def test_boxes_that_had_no_room_are_told_of_when_weights_are_scored(harbour, find_bright_boxes):
    def find_many(pixels, score):
        answer = find_bright_boxes(pixels, room=301)  # a box more than `detect` takes by default
        answer[:, 2:] = [60, 5, 4, 2, 0, score, 0]
        return answer

    source = open_box_folder(harbour).validation
    for score, capped in ((0.06, 12), (0.04, 0)):  # 4 x 3 windows
        remarks = Collector()
        figures = evaluate_source(
            bright_predictor(partial(find_many, score=score)), source, progress=remarks
        )
        assert figures["windows_capped"] == capped
        assert len(remarks.warnings) == (capped > 0)
        assert figures["classes"]["boat"]["truths"] == 2


@pytest.mark.parametrize(("rank", "full"), [(19, 12), (0, 0)])
def test_windows_with_as_many_objects_as_proposals_are_told_of_when_weights_are_scored(
    harbour, rank, full
):
    card = replace(bright_predictor(None).card, head_args={"proposals": 20})
    network = EVALUATION.network(card)

    def find(pixels):
        rows = np.zeros((len(pixels), 20, 6), np.float32)
        rows[:, rank] = [10, 10, 8, 4, 0, 0.9]  # proposals come best first
        return network.decode(rows)

    remarks = Collector()
    predictor = Predictor("bright", "0" * 16, card, find, "cpu")
    source = open_box_folder(harbour).validation
    figures = evaluate_source(predictor, source, progress=remarks)
    assert figures["windows_full"] == full  # of 4 x 3
    assert len(remarks.warnings) == (full > 0)


def test_scoring_many_areas_of_a_scene_holds_few_handles_on_it(
    harbour, find_bright_boxes, count_handles
):
    def find(pixels):
        held.append(count_handles(site.scene))
        return find_bright_boxes(pixels)

    held = []
    source = open_box_folder(harbour).validation
    site = source.sites[0]
    areas = [
        Window(col_off=col, row_off=row, width=7, height=7)
        for col in range(0, WIDTH - 8, 8) for row in range(0, HEIGHT - 8, 8)
    ]  # fmt: skip
    apart = tuple(replace(site, core=area) for area in areas)
    evaluate_source(bright_predictor(find), replace(source, sites=apart))
    assert len(held) >= len(areas) > 100 and max(held) <= 3


def test_classes_that_the_weights_do_not_know_are_left_out_and_told(harbour, find_bright_boxes):
    source = open_box_folder(harbour).validation
    both = replace(source, classes=("boat", "pier"), first_of={"pier": "c.txt, line 3"})
    listener = Interrupting(after=100)
    figures = evaluate_source(bright_predictor(find_bright_boxes), both, progress=listener)
    assert list(figures["classes"]) == ["boat"]
    assert listener.notes == ["harbour: left out, as the weights know none: pier (c.txt, line 3)"]


def test_eval_tells_of_bad_labels_or_refuses_them(harbour, tmp_path, report):
    folder = shutil.copytree(harbour, tmp_path / "bad")
    with next(folder.glob("val/labelTxt/*.txt")).open("a") as file:
        file.write("\n10 20 40 20 40 30 10 boat 0\n")
    with pytest.raises(DataError, match="has 7 coordinates"):
        evaluate(report["path"], str(folder))
    listener = Interrupting(after=100)
    evaluate(report["path"], str(folder), skip_bad_labels=True, progress=listener)
    assert any("1 bad labels left out, the first: " in note for note in listener.notes)


def write_names(tmp_path, harbour, name):
    """Write a copy of the harbour whose boats are called something else."""
    folder = shutil.copytree(harbour, tmp_path / name)
    for path in folder.glob("*/labelTxt/*.txt"):
        path.write_text(path.read_text().replace("boat", name))
    return str(folder)


def test_classes_of_weights_and_data_have_to_meet(harbour, tmp_path, report, find_bright_boxes):
    predictor = bright_predictor(find_bright_boxes, ("plane",))
    with pytest.raises(DataError, match="no class is shared"):
        evaluate_source(predictor, open_box_folder(harbour).validation)
    others = write_names(tmp_path, harbour, "plane")
    with pytest.raises(DataError, match=r"val.labelTxt.c\.txt, line 1: no class is shared"):
        evaluate(report["path"], others)
    with pytest.raises(DataError, match="no such folder"):
        evaluate(report["path"], str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="no such weights file"):
        evaluate(str(tmp_path / "none.safetensors"), str(harbour))
