import pytest
import timm
import torch
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import LemevitError
from lemevit_cli.training import optimizer
from lemevit_cli.training.optimizer import make_optimizer, parameter_groups
from lemevit_cli.training.options import TrainingOptions


@pytest.fixture(scope="module")
def model():
    whole = nn.Module()
    whole.encoder = timm.create_model("lemevit_tiny", num_classes=0)
    whole.head = nn.Conv2d(8, 4, 1)
    return whole


def test_vectors_do_not_decay_and_meta_tokens_do(model):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, model.encoder, TrainingOptions(backbone_lr=0.1))
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    for name, parameter in model.named_parameters():
        vector = parameter.ndim == 1 or name.endswith(".bias")
        assert decay[name] == (0.0 if vector else 0.05), name
    assert decay["encoder.meta_tokens"] == 0.05


def test_muon_is_given_matrices_alone(model):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, model.encoder, TrainingOptions())
    others = {names[id(p)] for g in groups if g["use_fallback"] for p in g["params"]}
    assert {"encoder.meta_tokens", "encoder.stages.3.blocks.0.cpe.weight"} <= others
    assert "encoder.stages.3.blocks.0.mlp.fc1.weight" not in others
    assert "head.weight" not in others
    rates = {
        (group["use_fallback"], group["fallback_lr_scale"])
        for group in make_optimizer(model, None, TrainingOptions(optimizer="muon")).param_groups
    }
    assert rates == {(False, 0.2), (True, 0.2)}


def test_the_backbone_has_a_rate_of_its_own(model):
    groups = parameter_groups(model, model.encoder, TrainingOptions(backbone_lr=0.1))
    assert {(group["part"], group["lr_scale"]) for group in groups} == {
        ("head", 1.0),
        ("backbone", 0.1),
    }
    inside = sum(p.numel() for g in groups if g["part"] == "backbone" for p in g["params"])
    assert inside == sum(p.numel() for p in model.encoder.parameters())


def test_muon_moves_vectors_and_matrices_about_as_far_as_adamw(model):
    moved = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 32)
        before = [p.detach().clone() for p in layer.parameters()]
        optimizer = make_optimizer(layer, None, TrainingOptions(optimizer=name, lr=1e-3))
        layer(torch.randn(8, 64)).square().sum().backward()
        optimizer.step()
        moved[name] = [
            float((p.detach() - b).square().mean().sqrt())
            for p, b in zip(layer.parameters(), before, strict=True)
        ]
    for muon, adamw in zip(moved["muon"], moved["adamw"], strict=True):
        assert 0.1 * adamw < muon < 2.0 * adamw


@pytest.mark.parametrize(
    ("name", "said"),
    [("adamz", "no optimizer 'adamz'"), ("bnbadamw8bit", "cannot be used here")],
)
def test_an_optimizer_that_is_not_to_be_had_is_one_line(name, said):
    with pytest.raises(LemevitError, match=said) as raised:
        make_optimizer(nn.Linear(2, 2), None, TrainingOptions(optimizer=name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("is_native", "wanted"), [(False, torch.float32), (True, torch.bfloat16)])
def test_muon_multiplies_in_what_the_processor_multiplies(monkeypatch, is_native, wanted):
    muon, seen = timm.optim.muon, []

    def orthogonalise(gradient, *arguments, dtype=torch.bfloat16, **named):
        seen.append(dtype)
        return gradient

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", orthogonalise)
    monkeypatch.setattr(optimizer, "_ORTHOGONALISE", orthogonalise)
    monkeypatch.setattr(optimizer, "multiplies_bf16", lambda: is_native)
    model = nn.Linear(4, 4)
    made = make_optimizer(model, None, TrainingOptions(optimizer="muon", device="cpu"))
    model(torch.ones(1, 4)).sum().backward()
    made.step()
    assert seen == [wanted]
