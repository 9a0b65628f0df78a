"""Against numbers of the published code (fixture ``mctf_tiny``), and promises of fused tokens."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn
from torch.testing import assert_close

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.cost import count
from lemevit_cli.models.token_fusion import (
    Answer,
    FusionOptions,
    Tokens,
    answer_twice,
    apply_mctf,
    attractiveness,
    consistent_loss,
    fuse,
    match,
    parse_fusion,
    plan_groups,
    token_consistency,
    tokens_to_fuse,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECORD = json.loads((FIXTURES / "mctf_tiny.json").read_text())
CASES = [name for name, case in RECORD.items() if "mctf_type" in case]
# The published code's numbers of our names.
POOLINGS = ("size", "attention", "max", "mean")
ATTENTIONS = ("after", "ahead", "precise")
SMALL = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 4}


@pytest.fixture(scope="module")
def numbers():
    return load_file(FIXTURES / "mctf_tiny.safetensors")


@pytest.fixture
def published(numbers):
    norm = partial(nn.LayerNorm, eps=RECORD["model"]["ln_eps"])
    model = VisionTransformer(**SMALL, num_classes=10, norm_layer=norm)
    weights = {key[2:]: value for key, value in numbers.items() if key.startswith("w.")}
    model.load_state_dict(weights)
    return model.eval()


def options_of(case):
    given = RECORD[case]["mctf_type"]
    return FusionOptions(
        r=given["r_student"],
        blocks=tuple(RECORD[case]["activate_layer"]),
        tau_similarity=given["tau_sim"],
        tau_information=given["tau_info"],
        tau_size=given["tau_size"],
        bidirectional=bool(given["bidirection"]),
        pooling=POOLINGS[given["pooling_type"]],
        attention=ATTENTIONS[given["one_step_ahead"]],
    )


def small(**arguments):
    """A small network with weights that are not all alike."""
    torch.manual_seed(0)
    kind = arguments.pop("kind", VisionTransformer)
    model = kind(**SMALL, num_classes=10, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model.eval()


def images(number=2):
    return torch.randn(number, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# --- The published code's numbers ------------------------------------------------------------


def test_ten_option_sets_were_published():
    assert len(CASES) == 10


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_published_code(case, published, numbers):
    apply_mctf(published, options_of(case))
    with torch.no_grad():
        assert_close(published(numbers["input"]), numbers[f"{case}.logits"], rtol=0, atol=1e-5)
        tokens = published.patch_embed(numbers["input"])
        tokens = published.blocks(published._pos_embed(tokens))
    assert tokens.shape[1] == RECORD[case]["tokens_per_block"][-1]
    assert_close(tokens, numbers[f"{case}.block3.out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", range(3))
def test_each_fusion_is_that_of_the_published_code(step, numbers):
    name = f"default.fuse{step}"
    size = numbers[f"default.fuse{step - 1}.size_out"][..., 0] if step else None
    before = Tokens(numbers[f"{name}.x_in"], size)
    options = options_of("default")
    after, attention = fuse(before, numbers[f"{name}.attn_in"], 8, options, prefix=1)
    assert_close(after.x, numbers[f"{name}.x_out"], rtol=1e-5, atol=1e-5)
    assert_close(attention, numbers[f"{name}.attn_out"], rtol=1e-5, atol=1e-6)
    assert torch.equal(after.size, numbers[f"{name}.size_out"][..., 0])


def test_matching_is_that_of_the_published_code(numbers):
    size = numbers["unit.size"][..., 0]
    before = Tokens(numbers["unit.x"], size)
    after, attention = fuse(before, numbers["unit.attn"], 9, FusionOptions(), prefix=1)
    is_source = torch.zeros_like(numbers["unit.source"]).scatter(1, after.origin[:, None], 1.0)
    assert torch.equal(is_source, numbers["unit.source"])
    assert torch.equal(after.size, numbers["unit.size_out"][..., 0])
    assert_close(after.x, numbers["unit.y"], rtol=1e-5, atol=1e-6)
    assert_close(attention, numbers["unit.attn_out"], rtol=1e-5, atol=1e-6)


def test_training_pass_and_its_gradients_are_those_of_the_published_code(published, numbers):
    model = apply_mctf(published, options_of("default")).train()
    student, teacher = answer_twice(model, numbers["input"], teacher_r=RECORD["train"]["r_teacher"])
    consistency = token_consistency(student, teacher)
    loss = student.logits.square().mean() + teacher.logits.square().mean() + 3 * consistency.mean()
    loss.backward()
    assert_close(student.logits, numbers["train.x_student"], rtol=0, atol=1e-5)
    assert_close(teacher.logits, numbers["train.x_teacher"], rtol=0, atol=1e-5)
    assert_close(consistency, numbers["train.loss_consistency"], rtol=1e-5, atol=1e-6)
    assert_close(loss, numbers["train.loss"][0], rtol=1e-5, atol=1e-6)
    gradients = [name for name in numbers if name.startswith("train.grad.")]
    assert len(gradients) == 3
    for name in gradients:
        gradient = model.get_parameter(name.removeprefix("train.grad.")).grad
        scale = float(numbers[name].abs().max())
        assert_close(gradient, numbers[name], rtol=0, atol=1e-5 * max(scale, 1))


def layer_norms(model, size):
    """What fvcore counts of layer norms, and torch does not: five operations a number."""
    total = 0

    def add(module, given, answer):
        nonlocal total
        total += 5 * given[0].numel()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(add)
    model(torch.empty(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize(
    ("name", "fusion", "published"),
    [
        ("deit_tiny_patch16_224", None, 1.2584),
        ("deit_tiny_patch16_224", "r=16", 0.7092),
        ("deit_tiny_patch16_224", "ratio=0.35@3,6,9", 0.7481),
        ("deit_small_patch16_224", None, 4.6083),
        ("deit_small_patch16_224", "r=16", 2.6016),
        ("deit_small_patch16_224", "ratio=0.35@3,6,9", 2.7564),
    ],
)
def test_multiply_adds_are_those_that_fvcore_counts_of_the_published_code(name, fusion, published):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    if fusion is not None:
        apply_mctf(model, parse_fusion(fusion))
    macs = count(model, size=224).macs + layer_norms(model, 224)
    assert macs / 1e9 == pytest.approx(published, abs=3e-4)


# --- Any vision transformer of timm ----------------------------------------------------------

KINDS = {
    "class token": {},
    "class token with mean": {"global_pool": "avg"},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "no class token, attention pooling": {"class_token": False, "global_pool": "map"},
    "four registers": {"reg_tokens": 4},
    "registers alone": {"class_token": False, "reg_tokens": 2, "global_pool": "max"},
    "distilled": {"kind": VisionTransformerDistilled},
    "no bias": {"qkv_bias": False},
    "norms inside attention": {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
    "layer scale": {"init_values": 0.1},
    "drop path": {"drop_path_rate": 0.3, "attn_drop_rate": 0.1},
    "any size": {"dynamic_img_size": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_vision_transformer_fuses(kind, attention):
    model = small(**KINDS[kind])
    keys = list(model.state_dict())
    apply_mctf(model, FusionOptions(r=8, attention=attention))
    assert list(model.state_dict()) == keys
    prefix = model.num_prefix_tokens
    tokens = model.forward_features(images())
    puts_back = model.global_pool != "token"
    assert tokens.shape[1] == prefix + 64 - (0 if puts_back else 24)
    model.train()(images()).sum().backward()
    unused = {"cls_token"} if kind == "class token with mean" else set()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for name, parameter in model.named_parameters()
        if name not in unused
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_fused_is_exactly_the_plain_network(kind):
    plain = small(**KINDS[kind])(images())
    model = apply_mctf(small(**KINDS[kind]), FusionOptions(r=0))
    assert torch.equal(model(images()), plain)
    nowhere = apply_mctf(small(**KINDS[kind]), FusionOptions(r=16, blocks=()))
    assert torch.equal(nowhere(images()), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_equal_tokens_fuse_without_loss(kind, attention):
    """Where all patches are alike, a fused token counts for as many keys, and says the same."""
    model = small(**KINDS[kind])
    nn.init.zeros_(model.pos_embed)
    pixels = images().mean(dim=(2, 3), keepdim=True).expand(-1, -1, 64, 64)
    with torch.no_grad():
        plain = model(pixels)
        assert_close(apply_mctf(model, FusionOptions(r=16, attention=attention))(pixels), plain)


def test_prefix_tokens_never_fuse():
    attention = torch.rand(2, 3, 69, 69).softmax(-1)
    x, size = torch.randn(2, 69, 48), torch.ones(2, 69)
    index = plan_groups(x, attention, size, 30, FusionOptions(), prefix=5).index
    assert torch.equal(index[:, :5], torch.arange(5).expand(2, -1))
    assert index[:, 5:].min() == 5


def test_a_mean_over_tokens_is_weighted_by_size():
    """Fused by size after the last block, the mean of the means is the mean of all."""
    model = small(class_token=False, global_pool="avg")
    with torch.no_grad():
        plain = model(images())
        apply_mctf(model, FusionOptions(r=16, blocks=(3,), attention="after", pooling="size"))
        assert_close(model(images()), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_fuses_too(precision):
    model = apply_mctf(small(), FusionOptions(r=8))
    with torch.autocast("cpu", dtype=precision):
        assert model(images()).isfinite().all()
    assert model.to(precision)(images().to(precision)).isfinite().all()


def test_options_are_replaced_when_applied_again():
    model = apply_mctf(apply_mctf(small(), FusionOptions(r=16)), FusionOptions(r=4))
    assert model.forward_features(images()).shape[1] == 65 - 12


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet18"),
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        lambda: timm.create_model("eva02_tiny_patch14_224"),
        lambda: timm.create_model("lemevit_tiny"),
        lambda: VisionTransformer(**SMALL, block_fn=ResPostBlock),
        lambda: VisionTransformer(**SMALL, block_fn=ParallelScalingBlock),
        lambda: VisionTransformer(**SMALL, attn_layer="diff"),
        lambda: timm.create_model("vit_tiny_patch16_224", features_only=True),
    ],
)
def test_other_networks_are_refused_in_one_line(make):
    with torch.device("meta"):
        model = make()
    with pytest.raises(WeightsError, match="cannot fuse tokens: only timm's plain") as refusal:
        apply_mctf(model, FusionOptions())
    assert "\n" not in str(refusal.value)


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(WeightsError, match="no block 4 to fuse tokens in: they are 0 to 3"):
        apply_mctf(small(), FusionOptions(blocks=(1, 4)))


def test_what_needs_the_grid_is_refused_in_one_line():
    model = apply_mctf(small(), FusionOptions(r=8))
    with pytest.raises(WeightsError, match="gives no maps"):
        model.forward_intermediates(images())
    with pytest.raises(WeightsError, match="takes no mask"):
        model(images(), attn_mask=torch.ones(65, 65))
    model.set_grad_checkpointing()
    with pytest.raises(WeightsError, match="cannot recompute"):
        model(images())


# --- Corners ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "r", "prefix", "fused"),
    [
        (197, 16, 1, 16),
        (197, 0.35, 1, 68),
        (197, 500, 1, 98),
        (17, 16, 1, 7),
        (11, 16, 1, 1),
        (10, 16, 1, 0),
        (9, 16, 1, 0),
        (9, 0.5, 1, 0),
        (1, 16, 1, 0),
        (9, 16, 0, 0),
        (20, 16, 5, 6),
    ],
)
def test_ten_tokens_stay(tokens, r, prefix, fused):
    assert tokens_to_fuse(tokens, r, prefix) == fused


@pytest.mark.parametrize("side", [16, 24, 32])
def test_few_tokens_pass_unfused(side):
    """Five, ten and seventeen tokens; the published code fails at nine."""
    model = small(dynamic_img_size=True)
    pixels = images()[..., :side, :side]
    apply_mctf(model, FusionOptions(r=16))
    assert model.forward_features(pixels).shape[1] == min(1 + (side // 8) ** 2, 10)


@pytest.mark.parametrize("prefix", range(4))
@pytest.mark.parametrize("patches", range(10, 24))
def test_every_number_of_tokens_fuses_into_whole_groups(patches, prefix):
    tokens = prefix + patches
    r = tokens_to_fuse(tokens, 999, prefix)
    x = torch.randn(2, tokens, 4)
    for bidirectional in (True, False):
        score = attractiveness(
            x, torch.rand(2, tokens), torch.ones(2, tokens), FusionOptions(), prefix
        )
        group = match(score, r, prefix=prefix, bidirectional=bidirectional)
        for index in group:
            assert index.unique().tolist() == list(range(tokens - r))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7])
@pytest.mark.parametrize("tau", [1, 7])
@pytest.mark.parametrize("noise", [0, 1e-7])
def test_equal_tokens_fuse_in_order_of_their_index(value, tau, noise):
    """Also where an earlier layer left them a last digit apart, which depends on the batch."""
    x = value * (1 + noise * torch.randn(3, 33, 16))
    attention = torch.full((3, 2, 33, 33), 1 / 33) * (1 + noise * torch.randn(3, 2, 33, 33))
    options = FusionOptions(tau_similarity=tau)
    groups = plan_groups(x, attention, torch.ones(3, 33), 8, options, prefix=1)
    assert groups.share.isfinite().all()
    index = groups.index[0]
    assert torch.equal(groups.index, index.expand(3, -1))
    # Of A the first four fuse into the first of B, which takes three more into the first A left.
    assert (index == index[1]).sum() == 9
    assert index[[2, 4, 6, 8, 1, 3, 5, 7]].unique().tolist() == [1] and index[10] == 1


def test_opposite_tokens_give_no_nan():
    x = torch.randn(1, 40, 7)
    x[:, 1::2] = -x[:, ::2]
    options = FusionOptions(tau_similarity=3)
    score = attractiveness(x, torch.zeros(1, 40), torch.ones(1, 40), options, 0)
    assert score.isfinite().all()


def test_the_batch_and_its_order_do_not_matter():
    model = apply_mctf(small(), FusionOptions(r=16))
    pixels = images(4)
    pixels[1] = 0  # nodata
    pixels[2, :, :, 32:] = 0
    order = [2, 0, 3, 1]
    with torch.no_grad():
        logits = model(pixels)
        assert logits.isfinite().all()
        assert_close(model(pixels[order]), logits[order], rtol=1e-5, atol=1e-5)
        alone = torch.cat([model(image[None]) for image in pixels])
    assert_close(alone, logits, rtol=1e-4, atol=1e-4)


def test_no_position_and_flat_water_do_not_depend_on_the_batch():
    """Half of the tokens are equal: their order is that of their index, not of rounding."""
    model = small(pos_embed="none")
    apply_mctf(model, FusionOptions(r=16))
    pixels = images(3)
    pixels[:, :, :, 24:] = 0.25
    with torch.no_grad():
        together = model(pixels)
        alone = torch.cat([model(image[None]) for image in pixels])
    assert_close(alone, together, rtol=1e-4, atol=1e-4)


# --- Options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "r", "blocks"),
    [
        ("r=16", 16, None),
        ("r=0", 0, None),
        ("r=8@1,2", 8, (1, 2)),
        ("ratio=0.35@3,6,9", 0.35, (3, 6, 9)),
        ("ratio = 0.5 @ 3", 0.5, (3,)),
    ],
)
def test_options_are_read_from_text(text, r, blocks):
    assert parse_fusion(text) == FusionOptions(r=r, blocks=blocks)


@pytest.mark.parametrize("text", ["", "16", "r=", "r=-1", "r=0.5", "ratio=1.5", "s=3", "r=4@a"])
def test_other_text_is_refused_in_one_line(text):
    with pytest.raises(WeightsError, match="is no fusion of tokens; write r=16, or ratio"):
        parse_fusion(text)


def test_wrong_options_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match=r"r=1\.5"):
        FusionOptions(r=1.5)
    with pytest.raises(ValueError, match="pooling 'middle'"):
        FusionOptions(pooling="middle")


# --- Training --------------------------------------------------------------------------------


def test_the_teacher_draws_how_much_it_fuses_and_the_student_keeps_its_own():
    model = apply_mctf(small(), FusionOptions(r=16))
    torch.manual_seed(3)
    first = [answer_twice(model, images()) for _ in range(6)]
    torch.manual_seed(3)
    again = [answer_twice(model, images()) for _ in range(6)]
    for (student, teacher), (same, as_well) in zip(first, again, strict=True):
        assert torch.equal(student.logits, first[0][0].logits)
        assert torch.equal(same.logits, student.logits)
        assert torch.equal(as_well.logits, teacher.logits)
    assert len({float(teacher.logits.detach().sum()) for _, teacher in first}) > 1
    assert model.blocks.options.r == 16


def test_consistency_is_of_images_whose_student_is_sure():
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    student = Answer(torch.tensor([[1.0, 1.0], [5.0, 5.0], [2.0, 4.0]]), logits)
    teacher = Answer(torch.zeros(3, 2), logits)

    def nothing(logits, class_ids):
        return logits.sum() * 0

    loss = consistent_loss(student, teacher, torch.tensor([0, 0, 1]), nothing)
    assert float(loss) == pytest.approx(3 * (1 + 10) / 2)
    unsure = consistent_loss(student, teacher, torch.tensor([1, 0, 0]), nothing)
    assert float(unsure) == 0


def test_both_learn_from_the_classes_and_only_the_student_from_the_teacher():
    student = Answer(torch.randn(2, 4, requires_grad=True), torch.randn(2, 3, requires_grad=True))
    teacher = Answer(torch.randn(2, 4, requires_grad=True), torch.randn(2, 3, requires_grad=True))
    class_ids = student.logits.argmax(1)
    consistent_loss(student, teacher, class_ids).backward()
    assert student.embedding.grad.abs().sum() > 0 and teacher.embedding.grad is None
    assert student.logits.grad.abs().sum() > 0 and teacher.logits.grad.abs().sum() > 0


def test_a_few_steps_lower_the_loss():
    model = apply_mctf(VisionTransformer(**SMALL, num_classes=2), FusionOptions(r=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    class_ids = torch.arange(8) % 2
    pixels = images(8) + 2 * class_ids[:, None, None, None]
    losses = []
    for _ in range(8):
        loss = consistent_loss(*answer_twice(model, pixels), class_ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
