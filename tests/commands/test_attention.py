import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.commands.console import Console
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.tasks import load_network


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def invoke(*arguments):
    return CliRunner().invoke(app, ["attention", *map(str, arguments), "--device", "cpu"])


def weights_of(task, path, head, head_args, *, even=False):
    torch.manual_seed(0)
    card = Card(
        task=task,
        backbone="lemevit_tiny",
        backbone_args={"num_meta_tokens": 4},
        head=head,
        head_args=head_args,
        classes=classes_from_names(["land", "building"]),
        window=64,
        overlap=16,
    )
    state = load_network(task).build_model(card).state_dict()
    if even:
        state = {k: v * 0 if "qkv_meta" in k or ".attn.q." in k else v for k, v in state.items()}
    save_weights(path, state, card)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "seg.safetensors"
    return weights_of("seg", path, "upernet", {"decoder_channels": 16})


@pytest.fixture
def large_scene(write_scene):
    values = np.random.default_rng(3).integers(1, 256, (3, 150, 170), dtype=np.uint8)
    values[:, :20, :30] = 0
    return write_scene(values, nodata=0)


def test_the_raster_lies_on_the_scenes_grid_with_a_named_band_a_token(large_scene, weights):
    run = invoke(large_scene, "-w", weights, "--png", "sheet.png")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "scene_attention.tif\nsheet.png\n"
    with rasterio.open("scene_attention.tif") as result, rasterio.open(large_scene) as source:
        assert (result.shape, result.transform, result.crs) == (
            source.shape,
            source.transform,
            source.crs,
        )
        assert result.descriptions == tuple(f"meta token {i}" for i in range(4))
        assert result.dtypes == ("float32",) * 4 and np.isnan(result.nodata)
        assert result.tags()["LEMEVIT_TASK"] == "attention"
        assert result.tags()["LEMEVIT_STAGE"] == "1" and result.tags()["LEMEVIT_BLOCK"] == "1"
        maps, pixels = result.read(), source.read()
    np.testing.assert_array_equal(np.isnan(maps[0]), (pixels == 0).all(0))
    assert maps[np.isfinite(maps)].min() >= 0
    assert Image.open("sheet.png").size[0] > 300


def test_windows_of_a_constant_blend_to_the_constant_at_any_block_size(large_scene, tmp_path):
    even = tmp_path / "even.safetensors"
    weights_of("seg", even, "upernet", {"decoder_channels": 16}, even=True)
    for stage in (0, 1, 2):
        run = invoke(large_scene, "-w", even, "--stage", stage, "--overwrite", "-o", "even.tif")
        assert run.exit_code == 0, run.stderr
        with rasterio.open("even.tif") as result:
            maps = result.read()
        np.testing.assert_allclose(maps[np.isfinite(maps)], 1, rtol=1e-5)


def test_blocks_and_the_choice_of_tokens_change_no_pixel(large_scene, weights):
    invoke(large_scene, "-w", weights, "-o", "all.tif")
    report = invoke(
        large_scene,
        "-w",
        weights,
        "-o",
        "some.tif",
        "--tokens",
        "3,0",
        "--block-size",
        64,
        "--json",
    )
    assert json.loads(report.stdout)["bands"] == ["meta token 3", "meta token 0"]
    with rasterio.open("all.tif") as all_tokens, rasterio.open("some.tif") as some:
        np.testing.assert_array_equal(all_tokens.read([4, 1]), some.read())


@pytest.mark.parametrize(
    ("further", "told"),
    [
        (["--stage", 2], "head was attention of stage 1, block 1, is attention of stage 2, block"),
        (["--tokens", "0"], "answers was meta token 0, meta token 1,"),
        (["--precision", "bf16"], "arithmetic was float32, is bfloat16"),
    ],
)
def test_what_shows_something_else_does_not_go_on_behind_finished_blocks(
    large_scene, weights, monkeypatch, further, told
):
    left = [9]

    def advance(self, count=1, **figures):
        left[0] -= count
        if left[0] < 0:
            raise KeyboardInterrupt

    asked = [large_scene, "-w", weights, "-o", "a.tif", "--block-size", 64]
    with monkeypatch.context() as patched:
        patched.setattr(Console, "advance", advance)
        assert invoke(*asked, "--precision", "fp32").exit_code == 130
    run = invoke(*asked, "--precision", "fp32", *further)  # of an option given twice the last wins
    assert run.exit_code == 1 and told in run.stderr


def test_nothing_is_told_outside_a_mask(large_scene, weights, tmp_path):
    with rasterio.open(large_scene) as source:
        transform, crs = source.transform, source.crs
    corners = [transform @ corner for corner in ((40, 40), (90, 40), (90, 120), (40, 120))]
    mask = geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=crs)
    mask.to_file(tmp_path / "mask.gpkg")
    run = invoke(large_scene, "-w", weights, "--mask", tmp_path / "mask.gpkg")
    assert run.exit_code == 0, run.stderr
    with rasterio.open("scene_attention.tif") as result:
        known = np.isfinite(result.read(1))
    expected = np.zeros_like(known)
    expected[40:120, 40:90] = True
    np.testing.assert_array_equal(known, expected)


@pytest.mark.parametrize(
    ("task", "head", "head_args"),
    [("change", "difference", {"channels": 16}), ("change", "bit", {"raw_pixels": True})],
)
def test_weights_of_another_task_show_theirs(large_scene, tmp_path, task, head, head_args):
    path = tmp_path / "other.safetensors"
    run = invoke(large_scene, "-w", weights_of(task, path, head, head_args), "--stage", 2)
    assert run.exit_code == 0, run.stderr


def test_a_backbone_alone_shows_what_a_network_around_it_does(large_scene, weights, tmp_path):
    from lemevit_cli.models.weights import load_weights

    state, card = load_weights(weights)
    alone = tmp_path / "alone.safetensors"
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    named = Card(**{**vars(card), "task": "backbone", "head": "", "head_args": {}})
    save_weights(alone, encoder, named)
    assert invoke(large_scene, "-w", weights, "-o", "whole.tif").exit_code == 0
    run = invoke(large_scene, "-w", alone, "-o", "alone.tif")
    assert run.exit_code == 0, run.stderr
    with rasterio.open("whole.tif") as whole, rasterio.open("alone.tif") as part:
        np.testing.assert_array_equal(whole.read(), part.read())


@pytest.mark.parametrize(
    ("further", "code", "message"),
    [
        (["--stage", "3"], 1, "--stage 3: meta tokens read the image in stages 0, 1 and 2"),
        (["--tokens", "4"], 1, "--tokens 4: there are meta tokens 0 to 3"),
        (["--tokens", "few"], 2, "'few' is not a list of meta tokens"),
        (["--png", "sheet.jpg"], 1, "sheet.jpg: a quicklook is a PNG; name it so"),
        (["--png", "s.png", "-o", "-"], 1, "--png is drawn from the files of scene and raster"),
        (["--runtime", "openvino"], 1, "attention is read within the network by torch"),
        (["-o", "maps.gpkg"], 1, "no format goes by the suffix '.gpkg'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(large_scene, weights, further, code, message):
    run = invoke(large_scene, "-w", weights, *further)
    assert run.exit_code == code
    assert message in " ".join(run.stderr.replace("│", " ").split())


def test_weights_without_meta_tokens_are_refused(large_scene, tiny_weights):
    run = invoke(large_scene, "-w", tiny_weights)
    assert run.exit_code == 1
    assert "its backbone test_resnet has no meta tokens; give weights of a lemevit_*" in run.stderr
