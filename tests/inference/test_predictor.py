from dataclasses import replace
from itertools import combinations, product

import numpy as np
import rasterio

from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.inference.runtime import SymmetricRuntime
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.models.weights import open_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.segmentation.inference import Segmentation


def scores_of(path, predictor, target):
    settings = InferenceSettings(output=OutputOptions(output_type="scores", overwrite=True))
    task = Segmentation(predictor.card, settings, Silent())
    infer_scenes(task, [str(path)], [str(target)], lambda: predictor)
    with rasterio.open(target) as written:
        return written.read()


def test_with_symmetries_a_scene_has_the_mean_of_its_eight_results(
    write_scene, predictor, tmp_path
):
    # Windows of 32 with steps of 20 lie alike from either side of 72 and 52 pixels.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 52, 72), dtype=np.uint8)
    answers = []
    for axes, flips in product(((0, 1, 2), (0, 2, 1)), ((), (1,), (2,), (1, 2))):
        turned = write_scene(np.flip(pixels.transpose(axes), flips).copy(), "turned.tif")
        scores = scores_of(turned, predictor, tmp_path / "plain.tif")
        answers.append(np.flip(scores, flips).transpose(axes))
    assert min(np.abs(a - b).max() for a, b in combinations(answers, 2)) > 0.05
    symmetric = replace(predictor, runtime=SymmetricRuntime(predictor.runtime))
    found = scores_of(write_scene(pixels), symmetric, tmp_path / "mean.tif")
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-6)


def test_tta_is_chosen_by_the_options(tiny_weights):
    weights = open_weights(tiny_weights)
    plain = load_predictor(weights, load_network("seg"), RuntimeOptions(device="cpu"))
    symmetric = load_predictor(weights, load_network("seg"), RuntimeOptions(device="cpu", tta=True))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    answers = []
    for axes, flips in product(((0, 1, 2, 3), (0, 1, 3, 2)), ((), (2,), (3,), (2, 3))):
        seen = np.flip(pixels.transpose(axes), flips).copy()
        answers.append(np.flip(plain.runtime(seen), flips).transpose(axes))
    assert min(np.abs(a - b).max() for a, b in combinations(answers, 2)) > 1e-4
    expected = np.mean(answers, axis=0)
    np.testing.assert_allclose(symmetric.runtime(pixels), expected, atol=1e-6)
    assert symmetric.device == "cpu"
