from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.official_checkpoint import load_official_state_dict

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=["A", "B"])
def official(request):
    """Return one of the two small networks that the authors' class was run on, with its numbers.

    B has several heads in the first block and odd sizes, which A cannot see.
    """
    name = f"lemevit_official_{request.param}"
    record = json.loads((FIXTURES / f"{name}.json").read_text())
    config = record["config"]
    model = LeMeViT(
        embed_dims=config["embed_dim"],
        depths=config["depth"],
        head_dim=config["head_dim"],
        num_meta_tokens=config["queries_len"],
        num_classes=config["num_classes"],
    )
    weights = load_file(FIXTURES / f"{name}.weights.safetensors")
    load_official_state_dict(model, weights)
    numbers = {
        "float32": load_file(FIXTURES / f"{name}.float32.safetensors"),
        "float64": load_file(FIXTURES / f"{name}.float64.safetensors"),
        "intermediates": load_file(FIXTURES / f"{name}.intermediates.float64.safetensors"),
    }
    return SimpleNamespace(model=model.eval(), weights=weights, record=record, **numbers)


@pytest.fixture
def tiny_images():
    return torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(0))
