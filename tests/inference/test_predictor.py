from dataclasses import replace

import numpy as np
import rasterio

from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.inference.runtimes.torch import SymmetricRuntime
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import InferenceSettings, OutputOptions, ReadingOptions, RuntimeOptions
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.segmentation.inference import predict_scene


def scores_of(path, predictor, target):
    settings = InferenceSettings(output=OutputOptions(output_type="scores"))
    with open_scene(path) as scene:
        source = scene_input(scene, predictor.card, ReadingOptions(), Silent())
        predict_scene(scene, source, str(target), predictor, settings, Silent())
    with rasterio.open(target) as written:
        return written.read()


def test_with_symmetries_a_turned_scene_has_the_turned_result(write_scene, predictor, tmp_path):
    # Windows of 32 with steps of 20 lie alike from either side of 72 and 52 pixels.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 52, 72), dtype=np.uint8)
    upright = write_scene(pixels, "upright.tif")
    turned = write_scene(np.ascontiguousarray(np.rot90(pixels, axes=(1, 2))), "turned.tif")
    symmetric = replace(predictor, runtime=SymmetricRuntime(predictor.runtime))
    expected = np.rot90(scores_of(upright, symmetric, tmp_path / "a.tif"), axes=(1, 2))
    found = scores_of(turned, symmetric, tmp_path / "b.tif")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = scores_of(turned, predictor, tmp_path / "c.tif")
    assert np.abs(plain - expected).max() > 0.05


def test_tta_is_chosen_by_the_options(tiny_weights):
    plain = load_predictor(tiny_weights, load_network("seg"), RuntimeOptions(device="cpu"))
    symmetric = load_predictor(
        tiny_weights, load_network("seg"), RuntimeOptions(device="cpu", tta=True)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    answer, of_mirrored = symmetric.runtime(pixels), symmetric.runtime(mirrored)
    np.testing.assert_allclose(of_mirrored.flip(3).numpy(), answer.numpy(), atol=1e-5)
    assert not np.allclose(plain.runtime(pixels), answer, atol=1e-5)
    assert symmetric.device == "cpu"
