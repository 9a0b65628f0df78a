"""The change head of LeMeViT's authors against their own numbers, and what both heads promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import ClassInfo, classes_from_names
from lemevit_cli.models.change import HEADS, build_change_detector, check_head, head_defaults
from lemevit_cli.models.cost import count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.official_checkpoint import bit_head_state, load_official_state_dict
from lemevit_cli.models.segmenter import build_segmenter, decoder_defaults
from lemevit_cli.models.variants import VARIANTS
from lemevit_cli.models.weights import Card, initialise, save_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
FORMS = [
    ("bit", {}),
    ("difference", {}),
    ("difference", {"decode_first": True}),
]


def detector(backbone="resnet10t", *, num_classes=2, **changes):
    torch.manual_seed(0)
    card = Card(
        task="change",
        backbone=backbone,
        head="bit",
        classes=classes_from_names([f"class {i}" for i in range(num_classes)]),
        mean=MEAN,
        std=STD,
    )
    return build_change_detector(replace(card, **changes)).eval()


def pair_of(height, width, *, batch=1, bands=3):
    generator = torch.Generator().manual_seed(height + width)
    return torch.rand(batch, 2 * bands, height, width, generator=generator) * 255


def swapped(pixels):
    return torch.cat(pixels.chunk(2, dim=1)[::-1], dim=1)


def numbers(module):
    return sum(p.numel() for p in module.parameters())


# --- The authors' numbers ---------------------------------------------------------------------


@pytest.fixture
def official():
    config = json.loads((FIXTURES / "bit_official_A.json").read_text())["config"]["backbone"]
    model = detector(
        "lemevit_tiny",
        backbone_args={
            "embed_dims": config["embed_dim"],
            "depths": config["depth"],
            "head_dim": config["head_dim"],
            "num_meta_tokens": config["queries_len"],
        },
        head="bit",
        head_args={"decoder_depth": 2, "raw_pixels": True},
    )
    backbone = load_file(FIXTURES / "lemevit_official_A.weights.safetensors")
    load_official_state_dict(model.encoder, backbone)
    head = load_file(FIXTURES / "bit_official_A.head_weights.safetensors")
    model.head.load_state_dict(bit_head_state(head))
    return model


def run_and_record(model, inputs):
    """Return the numbers that the fixture lists; dates as a batch, the earlier one first."""
    seen = {}

    def record(name):
        return lambda _, inputs, output: seen.update({name: output})

    head = model.head
    head.project.register_forward_hook(record("conv_pred"))
    head.encoder[-1].register_forward_hook(record("tokens_after_encoder"))
    head.decoder[-1].register_forward_hook(record("decoded"))
    head.refine.register_forward_pre_hook(
        lambda _, inputs: seen.update(mean_difference=inputs[0].mean(dim=(2, 3)))
    )
    with torch.no_grad():
        seen["logits"] = model(torch.cat(inputs, dim=1))
    return seen


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-10)])
def test_head_equals_the_authors_numbers(official, dtype, atol):
    given = load_file(FIXTURES / f"bit_official_A.{dtype}.safetensors")
    found = run_and_record(official.to(getattr(torch, dtype)), [given["input1"], given["input2"]])
    expected = {
        "conv_pred": torch.cat([given["conv_pred1"], given["conv_pred2"]]),
        "tokens_after_encoder": given["tokens_after_encoder"],
        "decoded": torch.cat([given["decoded1"], given["decoded2"]]),
        "mean_difference": given["upsampled_absdiff_sum"] / (64 * 96),
        "logits": given["logits"],
    }
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=atol, rtol=0)


# Over LeMeViT, a pair of 256 x 256: parameters in millions, multiply-adds in thousands of millions
# without attention's products and with them.
PUBLISHED = [
    ("lemevit_tiny", "9.009", "5.746", "6.344"),
    ("lemevit_small", "16.747", "10.713", "11.472"),
    ("lemevit_base", "53.335", "28.465", "30.730"),
]


@pytest.mark.parametrize(("backbone", "parameters", "reported", "true"), PUBLISHED)
def test_parameters_and_multiply_adds_are_the_authors(backbone, parameters, reported, true):
    with torch.device("meta"):
        model = detector(backbone)
        # The authors' dense backbone holds the classifier's parts too, which no map depends on.
        with_dead_parts = timm.create_model(backbone, num_classes=0)
    whole = numbers(with_dead_parts) + numbers(model) - numbers(model.encoder)
    assert f"{whole / 1e6:.3f}" == parameters
    cost = count(model, size=256)
    layers, attention = dead_in_the_authors_backbone(VARIANTS[backbone]["embed_dims"], 256)
    # Their counter sees about a million of cheap operations more.
    seen = (cost.macs_as_reported + 2 * layers) / 1e9
    assert seen == pytest.approx(float(reported), rel=2e-4)
    assert f"{(cost.macs + 2 * (layers + attention)) / 1e9:.3f}" == true


def dead_in_the_authors_backbone(dims, size, meta_tokens=16):
    """Return meta MLPs 3 and 4, and what the last dual block of stage 2 does to the meta tokens."""
    mlps = sum(meta_tokens * (4 * dims[i - 1] ** 2 + 4 * dims[i - 1] * dims[i]) for i in (3, 4))
    projection_and_mlp = meta_tokens * (1 + 8) * dims[2] ** 2
    return mlps + projection_and_mlp, 2 * (size // 8) ** 2 * meta_tokens * dims[2]


def test_sizes_of_whole_strides_are_not_padded(official):
    seen = []
    official.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.inference_mode():
        assert official(pair_of(48, 80)).shape == (1, 2, 48, 80)
    assert seen[0][-2:] == (3, 5)


# --- What both heads promise ------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet10t", "lemevit_tiny", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize(("head", "head_args"), FORMS)
def test_every_head_answers_at_the_size_of_its_input(backbone, head, head_args):
    model = detector(backbone, head=head, head_args=head_args, num_classes=3)
    for size in ((1, 1), (45, 70), (64, 33)):
        with torch.inference_mode():
            logits = model(pair_of(*size, batch=2).to(torch.uint8))
        assert logits.shape == (2, 3, *size)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("level", range(4))
def test_any_level_of_the_backbone_may_be_compared(level):
    model = detector(head_args={"level": level, "decoder_depth": 1})
    with torch.inference_mode():
        assert model(pair_of(40, 50)).shape == (1, 2, 40, 50)


@pytest.mark.parametrize("head", HEADS)
def test_the_earlier_date_stands_first_and_each_has_all_bands(head):
    model = detector(head=head, num_classes=3, bands=2, mean=MEAN[:2], std=STD[:2])
    pixels, seen = pair_of(32, 32, batch=2, bands=2), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(pixels)
    mean, std = (torch.tensor(values).view(2, 1, 1) for values in (MEAN[:2], STD[:2]))
    dates = torch.cat([pixels[:, :2], pixels[:, 2:]])
    torch.testing.assert_close(seen[0], (dates - mean) / std)


def test_raw_pixels_reach_the_backbone_as_they_are():
    model, seen = detector(head_args={"raw_pixels": True}), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = pair_of(32, 32).to(torch.uint8)
    with torch.inference_mode():
        model(pixels)
    assert torch.equal(seen[0], torch.cat([pixels[:, :3], pixels[:, 3:]]).float())


@pytest.mark.parametrize("decode_first", [False, True])
def test_one_kind_of_change_is_the_same_in_either_order_of_the_dates(decode_first):
    model = detector("lemevit_tiny", head="difference", head_args={"decode_first": decode_first})
    pixels = pair_of(64, 96)
    with torch.inference_mode():
        logits = model(pixels)
        torch.testing.assert_close(model(swapped(pixels)), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_several_kinds_of_change_depend_on_the_order_of_the_dates(head):
    model = detector(head=head, num_classes=3)
    pixels = pair_of(64, 64)
    with torch.inference_mode():
        assert not torch.allclose(model(swapped(pixels)), model(pixels), atol=1e-3)


@pytest.mark.parametrize("decode_first", [False, True])
def test_equal_dates_look_like_any_other_equal_dates(decode_first):
    model = detector("lemevit_tiny", head="difference", head_args={"decode_first": decode_first})
    with torch.inference_mode():
        answers = [model(torch.rand(1, 3, 64, 64).repeat(1, 2, 1, 1) * 255) for _ in range(2)]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=1e-5)


def test_a_faint_difference_stays_faint():
    model = detector("lemevit_tiny", head="difference")
    before = torch.rand(1, 3, 64, 64) * 255
    same = torch.cat([before, before], dim=1)
    faint = torch.cat([before, before + 0.01], dim=1)
    with torch.inference_mode():
        constant = model(same)
        moved = (model(faint) - constant).abs().max()
        assert moved < 0.01 * (model(pair_of(64, 64)) - constant).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", HEADS)
def test_mixed_precision_answers_nearly_the_same_and_trains(head, dtype):
    depths = (1, 1, 1, 1, 1)
    model = detector("lemevit_tiny", backbone_args={"depths": depths}, head=head)
    pixels = pair_of(64, 64, batch=2)
    with torch.no_grad():
        expected = model(pixels)
        with torch.autocast("cpu", dtype):
            found = model(pixels).float()
    assert (found - expected).abs().mean() < 0.05 * expected.std()
    with torch.autocast("cpu", dtype):
        loss = model.train()(pixels).float().square().mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 50 and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("head", "head_args"), FORMS)
def test_steps_reach_every_part_but_what_is_computed_and_ignored(head, head_args):
    model = detector("lemevit_tiny", head=head, head_args=head_args).train()
    model(pair_of(64, 64, batch=2)).square().mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    last_stage = {
        f"encoder.model.model.{name}"
        for name, _ in model.encoder.model.model.named_parameters()
        if name.startswith("stages.4.")
    }
    assert last_stage
    assert without == (last_stage if head == "bit" else set())


@pytest.mark.parametrize(("head", "head_args"), FORMS)
def test_the_faster_form_answers_the_same(head, head_args):
    model = detector("lemevit_tiny", head=head, head_args=head_args)
    pixels = pair_of(45, 70)
    with torch.inference_mode():
        expected = model(pixels)
        found = optimise_for_inference(model)(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decode_first", [False, True])
def test_the_starter_weights_will_be_smaller_than_their_limit(decode_first):
    with torch.device("meta"):
        model = detector(
            "lemevit_tiny", head="difference", head_args={"decode_first": decode_first}
        )
    assert numbers(model) < 9_400_000


# --- Weights and arguments --------------------------------------------------------------------


def card_of(names, task):
    return Card(
        task=task,
        backbone="lemevit_tiny",
        classes=tuple(ClassInfo(name, (0, 0, 0)) for name in names),
        mean=MEAN,
        std=STD,
    )


@pytest.mark.parametrize(("head", "head_args"), FORMS)
def test_backbone_norms_and_decoder_begin_from_a_segmenters_weights(tmp_path, head, head_args):
    torch.manual_seed(1)
    card = replace(card_of("abcd", "seg"), head="upernet", head_args=decoder_defaults("upernet"))
    landcover = build_segmenter(card)
    save_weights(tmp_path / "x.safetensors", landcover.state_dict(), card)
    model = detector("lemevit_tiny", head=head, head_args=head_args)
    done = initialise(model, card_of(["same", "changed"], "change"), tmp_path / "x.safetensors")
    assert [part.split()[0] for part in done.left] == ["head"]
    given = landcover.state_dict()
    copied = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    assert copied.keys() >= {key for key in given if key.startswith("encoder.")}
    assert all(torch.equal(tensor, given[key]) for key, tensor in copied.items())


@pytest.mark.parametrize(("head", "head_args"), FORMS)
def test_classifiers_name_the_layers_with_a_row_for_every_class(head, head_args):
    state = detector(head=head, head_args=head_args, num_classes=5).state_dict()
    of_classes = {key for key, tensor in state.items() if tensor.shape[:1] == (5,)}
    assert of_classes == {"head.classify.weight", "head.classify.bias"}
    assert detector(head=head).classifiers == ("head.classify",)


def test_the_card_alone_holds_mean_and_deviation():
    assert not {"mean", "std"} & set(detector().state_dict())


def test_defaults_are_copies():
    head_defaults("bit")["decoder_depth"] = 1
    assert head_defaults("bit")["decoder_depth"] == 8
    assert head_defaults("difference") == {"channels": 64, "decode_first": False}


@pytest.mark.parametrize(
    ("head", "head_args", "message"),
    [
        ("siamese", None, "no change head 'siamese'; choose one of bit, difference"),
        ("difference", {"depth": 1}, "'difference' has no argument 'depth'; it has channels, dec"),
        ("bit", {"level": 4}, "'bit' takes a whole number from 0 to 3 as level, not 4"),
        ("bit", {"decoder_depth": 0}, "takes a whole number from 1 to 4096 as decoder_depth"),
        ("bit", {"tokens": True}, "takes a whole number .* as tokens, not True"),
        ("bit", {"raw_pixels": 1}, "takes true or false as raw_pixels, not 1"),
    ],
)
def test_a_head_or_argument_that_there_is_not_is_one_line(head, head_args, message):
    for refuse in (check_head, lambda *args: detector(head=args[0], head_args=args[1])):
        with pytest.raises(WeightsError, match=message) as error:
            refuse(head, head_args)
        assert "\n" not in str(error.value)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(WeightsError, match="no backbone 'lemevit_huge'"):
        detector("lemevit_huge")
