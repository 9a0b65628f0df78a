import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.cli import app
from lemevit_cli.models.weights import load_weights

KEYS = Path(__file__).parents[1] / "fixtures" / "state_dict_keys_lemevit_tiny.json"


def official_checkpoint(path):
    """Return a file as the authors' training script writes it, with random tensors."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"module.{key}": torch.rand(shape, generator=generator).to(getattr(torch, dtype))
        for key, shape, dtype in json.loads(KEYS.read_text())["state_dict"]
    }
    torch.save({"state_dict": state, "epoch": 3, "arch": "lemevit_tiny"}, path)
    return state


def test_a_checkpoint_of_the_authors_becomes_a_weights_file(tmp_path):
    state = official_checkpoint(tmp_path / "official.pth.tar")
    target = tmp_path / "weights.safetensors"
    run = CliRunner().invoke(app, ["import", str(tmp_path / "official.pth.tar"), "-o", str(target)])
    assert run.exit_code == 0, run.stderr
    assert run.stdout == f"{target}\n"
    tensors, card = load_weights(target)
    assert (card.task, card.backbone, len(card.classes)) == ("backbone", "lemevit_tiny", 1000)
    model = timm.create_model("lemevit_tiny", num_classes=1000)
    model.load_state_dict(tensors)
    total = sum(value.double().sum() for value in state.values())
    ours = sum(value.double().sum() for value in load_file(target).values())
    torch.testing.assert_close(ours, total)


def test_bands_beside_red_green_blue_and_tensors_of_a_head_are_minded(tmp_path):
    state = official_checkpoint(tmp_path / "official.pth.tar")
    key = "module.patch_embed.0.weight"
    key = next(k for k, v in state.items() if v.ndim == 4 and v.shape[1] == 3)
    state[key] = torch.rand(state[key].shape[0], 4, *state[key].shape[2:])
    dense = {f"backbone.{k.removeprefix('module.')}": v for k, v in state.items()}
    dense["decode_head.conv.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": dense}, tmp_path / "dense.pth")
    target = tmp_path / "weights.safetensors"
    run = CliRunner().invoke(app, ["import", str(tmp_path / "dense.pth"), "-o", str(target)])
    assert run.exit_code == 0, run.stderr
    assert "1 tensors are no part of the backbone, and left out" in run.stderr
    card = load_weights(target)[1]
    assert (card.bands, len(card.mean), len(card.std)) == (4, 4, 4)


def test_another_checkpoint_is_one_line(tmp_path):
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    target = tmp_path / "weights.safetensors"
    run = CliRunner().invoke(app, ["import", str(tmp_path / "other.pth"), "-o", str(target)])
    assert run.exit_code == 1 and run.stderr.count("\n") == 1
    assert not target.exists()


@pytest.mark.parametrize(
    "broken",
    [
        {"stages.0.blocks.0.norm1.weight": torch.tensor(3.0)},
        {"meta_tokens": torch.tensor(3.0)},
        {"head.bias": torch.tensor(3.0)},
        {"stages.0.downsample.0.weight": torch.zeros(96)},
        {7: torch.zeros(2)},
    ],
)
def test_tensors_without_sides_are_one_line(tmp_path, broken):
    official_checkpoint(tmp_path / "official.pth")
    state = torch.load(tmp_path / "official.pth", weights_only=True)["state_dict"]
    whole = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    torch.save({"state_dict": whole | broken}, tmp_path / "broken.pth")
    target = tmp_path / "weights.safetensors"
    run = CliRunner().invoke(app, ["import", str(tmp_path / "broken.pth"), "-o", str(target)])
    assert run.exit_code == 1 and run.stderr.count("\n") == 1, run.exception
    assert not target.exists()


@pytest.mark.parametrize("content", [{"state_dict": 3}, {"model": torch.zeros(2, 2)}, {3: 4}])
def test_a_checkpoint_of_other_things_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    target = tmp_path / "weights.safetensors"
    run = CliRunner().invoke(app, ["import", str(tmp_path / "other.pth"), "-o", str(target)])
    assert run.exit_code == 1 and run.stderr.count("\n") == 1, run.exception
