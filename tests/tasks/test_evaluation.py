import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from making.collector import Collector
from PIL import Image

from lemevit_cli.errors import DataError, WeightsError
from lemevit_cli.inference.mosaic import Rows
from lemevit_cli.inference.run import class_ids, inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.models.weights import Card, load_weights, save_weights
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import ReadingOptions, RuntimeOptions, Tiling
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.evaluation import evaluate, evaluate_source
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.options import LabelledScene


def test_evaluation_counts_every_pixel_once(trained):
    data, report = trained
    figures = evaluate(report["path"], data, runtime=RuntimeOptions(device="cpu"))
    assert figures["pixels"] == 2 * 64 * 80
    assert figures["pictures"] == 2 and 0.5 < figures["miou"] <= figures["accuracy"] <= 1.0
    assert set(figures["classes"]) == {"land", "building"}
    assert set(figures["classes"]["land"]) == {"iou", "f1", "precision", "recall"}


def test_weights_are_judged_by_the_classes_that_the_data_know(trained, write_data, tmp_path):
    data = write_data(tmp_path / "buildings", classes=("background", "building"))
    figures = evaluate(trained[1]["path"], data, split="train")
    assert set(figures["classes"]) == {"background", "building"}
    ours = evaluate(trained[1]["path"], trained[0], split="train")["classes"]["building"]
    assert figures["classes"]["building"] == pytest.approx(ours, abs=1e-3) and ours["iou"] > 0.5


def test_how_masks_are_read_is_told_once(trained, tmp_path):
    data = shutil.copytree(trained[0], tmp_path / "data")
    mask = next((data / "val" / "masks").iterdir())
    shutil.copy(mask, mask.with_stem("alone"))
    told = Collector()
    evaluate(trained[1]["path"], str(data), progress=told)
    assert [note for note in told.notes if "alone" in note] == [
        f"{mask.with_stem('alone')}: without a picture of the same stem, left out"
    ]


def test_figures_are_those_of_an_own_prediction(trained):
    data, report = trained
    state, card = load_weights(report["path"])
    model = load_network("seg").build_model(card).eval()
    model.load_state_dict(state)
    hits = either = 0
    for image in sorted((Path(data) / "val" / "images").iterdir()):
        truth = np.asarray(Image.open(image.parents[1] / "masks" / image.name)) == 1
        # One window: predict reflects it to 512 pixels.
        pixels = np.pad(np.asarray(Image.open(image)), ((0, 448), (0, 432), (0, 0)), mode="reflect")
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels.transpose(2, 0, 1))[None])
        found = logits[0, :, :64, :80].argmax(dim=0).numpy() == 1
        hits += (found & truth).sum()
        either += (found | truth).sum()
    figures = evaluate(report["path"], data)
    assert figures["classes"]["building"]["iou"] == pytest.approx(hits / either, abs=1e-3)


def test_a_missing_split_and_foreign_classes_are_told(trained, write_data, tmp_path):
    data, report = trained
    with pytest.raises(DataError, match="holdout/images: no such folder"):
        evaluate(report["path"], data, split="holdout")
    for name in ("", "../val", "a/b"):
        with pytest.raises(DataError, match="name a folder"):
            evaluate(report["path"], data, split=name)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "val").rename(copy / "holdout")
    figures = evaluate(report["path"], str(copy), split="holdout")
    assert figures == evaluate(report["path"], data)
    ships = write_data(tmp_path / "ships", classes=("background", "ship"))
    with pytest.raises(DataError, match="no class is shared"):
        evaluate(report["path"], ships)


def test_weights_of_another_task_are_refused(trained, tmp_path):
    path = tmp_path / "other.safetensors"
    save_weights(
        path, {"x": torch.zeros(1)}, Card(task="backbone", backbone="resnet10t", classes=())
    )
    with pytest.raises(
        WeightsError, match="weights for task backbone; eval scores those for seg, det, change"
    ):
        evaluate(str(path), trained[0])


def test_held_back_blocks_are_scored_as_predict_would_answer(predictor, write_scene, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 250, (3, 150, 210)).astype(np.uint8)
    pixels[:, :, 60:70] = 0
    transform = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
    path = write_scene(pixels, transform=transform, nodata=0)
    ids = np.random.default_rng(1).integers(0, 3, (1, 150, 210)).astype(np.uint8)
    labels = write_scene(ids, "ids.tif", transform=transform)
    with rasterio.open(labels, "r+") as raster:
        raster.update_tags(1, CLASS_0="land", CLASS_1="building", CLASS_2="water")
    parts = open_labelled_scene(
        LabelledScene(scene=path, labels=labels), Division(crop=32, val_fraction=0.3)
    )
    figures = evaluate_source(predictor, parts.validation)
    with open_scene(path) as scene:
        view = scene_input(scene, predictor.card, ReadingOptions(), Silent())
        with inference_over(view, predictor, Tiling(), Silent()) as inference:
            found = class_ids(_whole(inference, scene.window), 255)
    held_back = np.zeros((150, 210), dtype=bool)
    for site in parts.validation.sites:
        held_back[site.core.slices] = True
    known = held_back & (pixels != 0).any(axis=0)
    assert figures["pixels"] == known.sum() > 0.2 * known.size
    hits = (found == ids[0])[known].mean()
    assert figures["accuracy"] == pytest.approx(hits, abs=1e-4)
    assert figures["pictures"] == 1


def _whole(inference, window):
    """Return all rows of a scene in one piece."""
    parts = [(rows.scores.copy(), rows.valid.copy()) for rows in inference.rows(window)]
    scores, valid = zip(*parts, strict=True)
    return Rows(window, np.concatenate(scores, axis=1), np.concatenate(valid))
