"""Vision transformers of timm that fuse or merge tokens, from training to answers."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from making.interruption import train_whole_and_in_parts
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.errors import LemevitError
from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.models.token_fusion import CONSISTENCY_WEIGHT, answer_twice, token_consistency
from lemevit_cli.models.weights import load_weights, open_weights, read_card
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import training
from lemevit_cli.tasks.classification.network import NETWORK
from lemevit_cli.tasks.classification.training import TRAINING
from lemevit_cli.tasks.training import follow_recipe, train
from lemevit_cli.training.options import DataOptions

FUSED, MERGED = {"fuse_tokens": "r=2"}, {"merge_tokens": 0.5}
SMALL = ["--crop", 64, "--batch-size", 4, "--steps", 2, "--workers", 0, "--device", "cpu", "-q"]


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def vit(class_options, backbone_args, **changes):
    return class_options(backbone="test_vit", crop=64, backbone_args=backbone_args, **changes)


@pytest.fixture(scope="module")
def fused_weights(class_training, tmp_path_factory):
    target = tmp_path_factory.mktemp("fused") / "w.safetensors"
    run = invoke(
        *("train", "--task", "cls", class_training[0], "-o", target),
        *("--backbone", "test_vit", "--fuse-tokens", "r=2", *SMALL),
    )
    assert run.exit_code == 0, run.stderr
    return str(target)


@pytest.fixture(scope="module")
def merged_weights(class_training, tmp_path_factory):
    target = tmp_path_factory.mktemp("merged") / "w.safetensors"
    run = invoke(
        *("train", "--task", "cls", class_training[0], "-o", target),
        *("--backbone", "test_vit", "--merge-tokens", "0.5", *SMALL),
    )
    assert run.exit_code == 0, run.stderr
    return str(target)


def answers(path, **runtime):
    predictor = load_predictor(
        open_weights(path), NETWORK, RuntimeOptions(device="cpu", precision="fp32", **runtime)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    return torch.from_numpy(predictor.runtime(pixels)[:, :, 0, 0]), predictor.fuse_tokens


def test_the_card_says_what_is_fused_and_a_run_may_say_otherwise(fused_weights):
    assert read_card(fused_weights).backbone_args == FUSED
    trained, told = answers(fused_weights)
    again, _ = answers(fused_weights, fuse_blocks="r=2")
    plain, of_plain = answers(fused_weights, fuse_blocks="r=0")
    fewer, of_fewer = answers(fused_weights, fuse_blocks="ratio=0.3@1,2")
    assert (told, of_plain, of_fewer) == ("r=2", "0", "ratio=0.3@1,2")
    assert torch.equal(trained, again)
    assert not torch.equal(trained, plain) and not torch.equal(fewer, trained)
    state, card = load_weights(fused_weights)
    model = NETWORK.build_model(replace(card, backbone_args={}))
    model.load_state_dict(state)
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    )
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(pixels).softmax(1), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone_args", [FUSED, MERGED])
def test_a_reloaded_network_answers_as_the_trained_one(
    tmp_path, class_training, class_options, backbone_args, monkeypatch
):
    kept = {}

    def fit(model, *arguments, **named):
        run = original(model, *arguments, **named)
        kept["model"] = run.average.module.eval()
        return run

    original = training.fit
    monkeypatch.setattr(training, "fit", fit)
    options = vit(class_options, backbone_args, steps=2)
    target = str(tmp_path / "w.safetensors")
    train("cls", DataOptions(paths=(class_training[0],)), target, options)
    state, card = load_weights(target)
    model = NETWORK.build_model(card).eval()
    model.load_state_dict(state)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        found, wanted = model(pixels), kept["model"](pixels)
    # Not equal to the last bit: on some processors kernels sum in the order of the memory's lines.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_map_and_its_record_tell_what_is_fused(tmp_path, fused_weights, write_scene):
    values = np.random.default_rng(0).integers(0, 256, (3, 96, 96)).astype(np.uint8)
    scene = write_scene(values)
    run = ["predict", "--task", "cls", scene, "-w", fused_weights, "--device", "cpu", "-q"]
    told = {}
    for name, more in {"a.tif": [], "b.tif": ["--fuse-tokens", "0"]}.items():
        found = invoke(*run, "-o", tmp_path / name, *more)
        assert found.exit_code == 0, found.stderr
        with rasterio.open(tmp_path / name) as result:
            told[name] = {key.lower(): value for key, value in result.tags().items()}
    assert [tags.get("lemevit_fuse_tokens") for tags in told.values()] == ["r=2", None]


def test_merging_takes_windows_as_it_learned_from(merged_weights, write_scene, tmp_path):
    assert read_card(merged_weights).backbone_args == MERGED
    scene = write_scene(np.full((3, 96, 96), 70, dtype=np.uint8))
    run = ["predict", "--task", "cls", scene, "-w", merged_weights, "-o", tmp_path / "a.tif"]
    assert invoke(*run, "--device", "cpu", "-q").exit_code == 0
    found = invoke(*run, "--device", "cpu", "-q", "--window", "128", "--overwrite")
    assert found.exit_code == 1 and found.stderr.count("\n") == 1
    assert "the network merges 16 tokens of an image, which has 64" in found.stderr


def loss_of(class_training, options):
    torch.manual_seed(0)
    found = TRAINING.open_data(DataOptions(paths=(class_training[0],)), options)
    model = NETWORK.build_model(found.card)
    batch = {
        "pixels": torch.stack([found.training.samples[i]["pixels"] for i in range(6)]),
        "label": torch.tensor([0, 1, 2, 0, 1, 2]),
    }
    return found, model, batch, TRAINING.make_loss(found, options)


def test_a_fusing_network_learns_from_itself_with_more_tokens(class_training, class_options):
    _, model, batch, loss = loss_of(class_training, vit(class_options, FUSED))
    with torch.no_grad():  # sure of its answers
        model.head.bias.zero_().add_(torch.tensor([9.0, 0.0, 0.0]))
        batch["label"].zero_()
    torch.manual_seed(1)  # of the teacher's number of tokens
    total, windows = loss(model, batch)
    assert int(windows) == 6
    total.backward()
    torch.manual_seed(1)
    student, teacher = model(batch["pixels"], answer_twice)
    consistency = token_consistency(student, teacher).mean().detach()
    smoothing = {"label_smoothing": 0.1}
    entropies = [
        torch.nn.functional.cross_entropy(answer.logits, batch["label"], **smoothing)
        for answer in (student, teacher)
    ]
    expected = sum(entropies) + CONSISTENCY_WEIGHT * consistency
    assert float(consistency) > 0
    assert float(total.detach() / 6) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradient = model.encoder.cls_token.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_the_bound_enters_after_three_tenths(class_training, class_options):
    _, model, batch, loss = loss_of(class_training, vit(class_options, MERGED))
    before, at_first, then = (
        float(loss(model, {**batch, "done": torch.tensor(done)})[0].detach())
        for done in (0.0, 0.29, 0.31)
    )
    assert before == at_first
    # Its second part is positive, its first at least the entropy of three clusters: -log 3.
    assert then != before and abs(then - before) < 6 * 0.1 * 2
    loss(model, {**batch, "done": torch.tensor(0.5)})[0].backward()
    gradients = [mask.of_tokens.weight.grad for mask in model.encoder.blocks.masks.values()]
    assert len(gradients) > 1 and all(gradient.abs().max() > 0 for gradient in gradients)


def test_a_resume_remembers_what_the_bound_knows(tmp_path, class_training, class_options):
    data = DataOptions(paths=(class_training[0],))
    options = vit(class_options, MERGED, steps=6, checkpoint_every=3, validate_every=6)
    states = train_whole_and_in_parts("cls", data, tmp_path, options, halt=5)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_recipe_keeps_what_is_asked_of_the_tokens(class_options):
    options = vit(class_options, MERGED, recipe="paper", chosen=("merge_tokens",))
    args = follow_recipe("cls", options).backbone_args
    assert args == {"drop_path_rate": 0.15, "merge_tokens": 0.5}


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("cls", ["lemevit_tiny", "--fuse-tokens", "r=16"], "LeMeViT fuses a share, --fuse-tokens"),
        ("cls", ["test_resnet", "--fuse-tokens", "r=16"], "ResNet cannot fuse tokens: only timm's"),
        ("cls", ["test_vit", "--fuse-tokens", "r=x"], "'r=x' is no fusion of tokens; write r=16"),
        ("cls", ["test_vit", "--fuse-tokens", "ratio=.3@9"], "no block 9 to fuse tokens in"),
        ("cls", ["test_vit", "--fuse-tokens", "0.5"], "in timm's vision transformers by r=16"),
        ("cls", ["test_vit", "--fuse-tokens", "auto"], "in timm's vision transformers by r=16"),
        ("cls", ["test_resnet", "--merge-tokens", "0.5"], "ResNet cannot merge tokens: only timm"),
        ("cls", ["test_vit", "--fuse-tokens", "r=2", "--merge-tokens", "0.5"], "fused or merged:"),
        ("cls", ["test_vit", "--fuse-tokens", "r=2", "--recipe", "paper"], "mixes two windows"),
        ("seg", ["test_resnet", "--fuse-tokens", "r=16"], "vision transformers with --task cls"),
        ("seg", ["test_vit", "--merge-tokens", "0.5"], "with --task cls timm's vision trans"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(task, arguments, message, tmp_path):
    target = tmp_path / "w.safetensors"
    run = invoke("train", "--task", task, "nowhere", "-o", target, "--backbone", *arguments)
    assert run.exit_code == 1 and run.stderr.count("\n") == 1, run.stderr
    assert message in run.stderr


def test_unsuited_weights_are_refused(class_training, merged_weights):
    _, report = class_training
    for path, text in ((report["path"], "r=2"), (merged_weights, "r=2")):
        with pytest.raises(LemevitError, match="cannot fuse tokens: only timm's plain vision"):
            answers(path, fuse_blocks=text)
    answers(report["path"], fuse_blocks="r=0")
