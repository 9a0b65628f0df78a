import copy
from dataclasses import replace
from math import pi

import pytest
import timm
import torch
from torch import nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.geometry.rotated_iou import rotated_iou
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.cost import count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.oriented_rcnn import (
    PAPER_HEAD,
    build_detector,
    check_head_args,
    head_defaults,
)
from lemevit_cli.models.oriented_rcnn.assignment import ASSIGNERS
from lemevit_cli.models.oriented_rcnn.coders import decode_rotated
from lemevit_cli.models.oriented_rcnn.detector import halve_pictures
from lemevit_cli.models.oriented_rcnn.rpn import STRIDES
from lemevit_cli.models.segmenter import build_segmenter
from lemevit_cli.models.weights import Card, initialise, save_weights
from lemevit_cli.tasks.detection.decoding import decode

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
SMALL = {"channels": 16, "hidden": 32, "proposals": 100}
SWIN = "swin_tiny_patch4_window7_224"
CARD = Card(
    task="det",
    backbone="resnet10t",
    head="oriented_rcnn",
    head_args=SMALL,
    classes=classes_from_names(("ship", "plane", "tank")),
    mean=MEAN,
    std=STD,
)
BOXES = torch.tensor([[40.0, 30.0, 44.0, 16.0, 0.6], [95.0, 50.0, 36.0, 20.0, -1.0]])


def detector(backbone="resnet10t", **changes):
    torch.manual_seed(0)
    return build_detector(replace(CARD, backbone=backbone, **changes))


def pictures(batch=2, height=96, width=128):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def decode_tensor(candidates):
    return torch.from_numpy(decode(candidates.detach().numpy()))


def truth(batch=2, labels=(0, 2)):
    return BOXES.expand(batch, -1, -1), torch.tensor(labels).expand(batch, -1)


@pytest.mark.parametrize("backbone", ["resnet10t", "lemevit_tiny", SWIN])
def test_any_backbone_and_size_gives_rows_of_boxes_best_first(backbone):
    model = detector(backbone).eval()
    with torch.inference_mode():
        candidates = model(pictures(2, 45, 70))
    assert candidates.shape == (2, 200, 8) and candidates.dtype == torch.float32
    found = decode_tensor(candidates)
    assert found.shape == (2, 301, 7) and found.dtype == torch.float32
    scores, class_ids = found[..., 5], found[..., 6]
    assert (scores[:, :-1] >= scores[:, 1:]).all() and (scores <= 1).all()
    used = scores > 0
    assert used.any() and set(class_ids[used].tolist()) <= {0.0, 1.0, 2.0}
    assert (found[~used] == torch.tensor([0, 0, 0, 0, 0, 0, -1.0])).all()
    w, h, angle = found[used][:, 2:5].unbind(-1)
    assert (w >= h).all() and (angle >= -pi / 2).all() and (angle < pi / 2).all()


def test_a_picture_is_answered_alike_in_any_batch():
    model = detector().eval()
    with torch.inference_mode():
        both = decode_tensor(model(pictures(2)))
        alone = decode_tensor(torch.cat([model(picture[None]) for picture in pictures(2)]))
    assert ((both[..., 6] >= 0).sum(dim=1) > 20).all()
    assert farthest(both[0], both[1]) > 1  # pictures with one answer would prove nothing
    for rows, expected in zip(both, alone, strict=True):
        assert farthest(rows, expected) < 1e-3


def farthest(rows, others):
    """Return how far a row lies from its nearest at most: rounding may change their order."""
    apart = (rows[:, None] - others).abs().amax(dim=-1)
    return max(apart.amin(dim=0).max(), apart.amin(dim=1).max())


def test_no_pictures_have_no_boxes():
    candidates = detector().eval()(torch.zeros(0, 3, 64, 64))
    assert candidates.shape == (0, 200, 8) and decode_tensor(candidates).shape == (0, 301, 7)


def test_pixels_are_normalised_inside():
    model, plain = detector().eval(), detector(mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    normalised = (pictures() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        for ours, theirs in zip(model.levels(pictures()), plain.levels(normalised), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_levels_have_strides_4_to_64():
    sizes = [tuple(level.shape[2:]) for level in detector().eval().levels(pictures(1, 90, 130))]
    assert sizes == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def test_what_is_not_finite_is_not_silently_nothing():
    model = detector().eval()
    nn.init.constant_(model.roi_head.classify.weight, float("nan"))
    with torch.inference_mode():
        candidates = model(pictures())
    assert candidates[..., 5:].isnan().all() and decode_tensor(candidates).isnan().all()


def test_training_without_truth_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="needs boxes and labels"):
        detector().train()(pictures())


LABELS = {"objects": (0, 2), "none": (-1, -1), "only ignored": (-2, -2), "mixed": (-2, 1)}


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        *[(labels, torch.float32) for labels in LABELS],
        *[(labels, torch.bfloat16) for labels in LABELS],
        ("none", torch.float16),  # slow on a CPU
        ("mixed", torch.float16),
    ],
)
def test_training_and_answers_are_finite_in_every_precision(labels, dtype):
    model, few = detector().train(), pictures(2, 64, 64)
    lowered = dtype != torch.float32
    with torch.autocast("cpu", dtype=dtype if lowered else None, enabled=lowered):
        loss = model(few, *truth(labels=LABELS[labels]))
    assert loss.dtype == torch.float32 and loss.shape == () and loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    model.eval()
    with (
        torch.inference_mode(),
        torch.autocast("cpu", dtype=dtype if lowered else None, enabled=lowered),
    ):
        found = model(few)
    assert found.dtype == torch.float32 and found.isfinite().all()


def test_pictures_without_room_for_objects_have_a_loss():
    loss = detector().train()(pictures(), torch.zeros(2, 0, 5), torch.zeros(2, 0).long())
    assert loss.isfinite() and loss > 0


def test_objects_of_a_class_without_labels_are_not_punished_on_background():
    model, none = detector().train(), truth(labels=(-1, -1))
    # As if it saw objects of the last class everywhere.
    model.roi_head.classify.bias.data[2] = 10.0
    unknown = torch.tensor([[False, False, True]]).expand(2, -1)
    surprised = model.losses(pictures(), *none)["class"]
    patient = model.losses(pictures(), *none, unknown)["class"]
    assert surprised > 9 and patient < 0.01


def test_the_backbones_statistics_rest_while_its_weights_learn():
    model = detector(head_args={**SMALL, "freeze_norms": True}).train()
    model.encoder.train()  # as a loop may set it
    norm = next(m for m in model.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    before = copy.deepcopy(norm.state_dict())
    model(pictures(), *truth()).backward()
    torch.testing.assert_close(norm.state_dict(), before)
    assert norm.weight.grad is not None and model.feature_norms[1].num_batches_tracked == 1
    free = detector().train()
    free(pictures(), *truth())
    norm = next(m for m in free.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1


def numbers(model):
    return sum(p.numel() for p in model.parameters())


# Of the authors' nets with 15 classes: M parameters of the head and of the net, among these the
# parameters of four norms that nothing reads; G multiply-adds at 1024 with 1000 proposals, as their
# counter reports them, and all.
FIFTEEN = classes_from_names([f"class {i}" for i in range(15)])
PAPER = [
    ("lemevit_tiny", 17.054, 25.370, 1408, 153.89, 207.71),
    ("lemevit_small", 17.128, 33.145, 1984, 193.61, 261.05),
    ("lemevit_base", 17.177, 69.765, 2368, 335.01, 574.05),
]


class Dense(nn.Module):
    """A detector without what depends on the picture: a fixed number of proposals of no place."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        self.model.rpn(self.model.levels(image))
        return self.model.roi_head(torch.empty(1000, 49, 256, device=image.device))


@pytest.mark.parametrize(("backbone", "head", "whole", "unread", "reported", "macs"), PAPER)
def test_the_papers_net_has_its_parameters_and_cost(backbone, head, whole, unread, reported, macs):
    with torch.device("meta"):
        model = detector(backbone, head_args=PAPER_HEAD, classes=FIFTEEN)
        # The authors' dense backbone holds the classifier's parts too, which no map depends on.
        backbone_with_dead_parts = timm.create_model(backbone, num_classes=0)
    ours = numbers(model) - numbers(model.encoder)
    assert ours / 1e6 == pytest.approx(head, abs=0.00051)
    total = numbers(backbone_with_dead_parts) + ours + unread
    assert total / 1e6 == pytest.approx(whole, abs=0.00051)
    cost = count(Dense(model), size=1024)
    assert cost.macs_as_reported / 1e9 == pytest.approx(reported, rel=1e-3)
    assert cost.macs / 1e9 == pytest.approx(macs, rel=1e-3)


def test_the_light_form_over_lemevit_tiny_is_small():
    with torch.device("meta"):
        assert numbers(detector("lemevit_tiny", head_args={}, classes=FIFTEEN[:10])) < 11_000_000


def test_light_arguments_are_copies():
    head_defaults()["channels"] = 1
    assert head_defaults()["channels"] > 1


def test_unknown_names_are_one_line():
    message = "head has no argument 'depth'; it has channels, hidden"
    with pytest.raises(WeightsError, match=message):
        detector(head_args={"depth": 3})
    with pytest.raises(WeightsError, match=message):
        check_head_args({"depth": 3})
    with pytest.raises(WeightsError, match="no backbone 'lemevit_huge'"):
        detector("lemevit_huge")
    with pytest.raises(WeightsError, match="needs features of strides 4 to 32") as error:
        detector("vit_tiny_patch16_224")
    assert "\n" not in str(error.value)


def test_the_second_stage_begins_where_the_first_one_ended():
    model = detector(head_args=SMALL | {"cascade_stages": 2}).eval()
    head = model.roi_head
    nn.init.normal_(head.regress.weight, std=0.1)
    nn.init.normal_(head.classify.weight, std=0.5)
    boxes = torch.tensor([[40.0, 30.0, 20.0, 9.0, 0.3], [20.0, 50.0, 30.0, 12.0, 1.0]]).repeat(9, 1)
    boxes = boxes + torch.arange(18.0)[:, None]
    places = torch.arange(2).repeat_interleave(9)
    exists = torch.ones(2, 9, dtype=torch.bool)
    with torch.inference_mode():
        levels = model.levels(pictures())[:4]
        logits, deltas = head.predict(levels, STRIDES[:4], boxes, places)
        best = logits.softmax(dim=1)[:, :-1].amax(dim=1)
        head.stage_score = float(best.median())
        goes_on = best > head.stage_score
        assert goes_on.sum() == 9
        first = decode_rotated(boxes, deltas)[goes_on]
        logits, deltas = head.predict(levels, STRIDES[:4], first, places[goes_on])
        found, scores = head.refine(levels, STRIDES[:4], boxes.unflatten(0, (2, 9)), exists)
    found, scores = found.flatten(0, 1), scores.flatten(0, 1)
    torch.testing.assert_close(found[goes_on], decode_rotated(first, deltas))
    torch.testing.assert_close(scores[goes_on], logits.softmax(dim=1)[:, :-1])
    assert (scores[~goes_on] == 0).all()


def test_what_fills_a_row_of_proposals_is_no_candidate():
    model = detector().eval()
    boxes = torch.tensor([[40.0, 30.0, 20.0, 9.0, 0.3]]).repeat(2, 3, 1)
    exists = torch.tensor([[True, True, False], [True, False, False]])
    with torch.inference_mode():
        levels = model.levels(pictures())[:4]
        _, scores = model.roi_head.refine(levels, STRIDES[:4], boxes, exists)
    assert torch.equal((scores > 0).all(dim=-1), exists)


def test_a_second_scale_sees_the_picture_at_half_its_size():
    whole = pictures(2, 97, 130)
    alone = detector(head_args=SMALL | {"pyramid_scales": 1, "cascade_stages": 1}).eval()
    both = detector(head_args=SMALL | {"pyramid_scales": 2, "cascade_stages": 1}).eval()
    both.load_state_dict(alone.state_dict())
    with torch.inference_mode():
        found, of_whole, of_half = both(whole), alone(whole), alone(halve_pictures(whole, 1))
    factors = torch.tensor([2.0, 2, 2, 2, 1, 1, 1, 1])
    torch.testing.assert_close(found, torch.cat([of_whole, of_half * factors], dim=1))
    assert ((found[..., 5:].amax(dim=-1) > 0.2).sum(dim=1) > 20).all()


def test_halving_keeps_places():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    inner = halve_pictures(ramp, 2)[0, 0, :, 2:-2]
    torch.testing.assert_close(inner[3], (torch.arange(2.0, 14.0) + 0.5) * 4 - 0.5)
    assert halve_pictures(torch.zeros(1, 3, 5, 1, dtype=torch.uint8), 2).shape == (1, 3, 2, 1)


def test_stages_scales_and_assigners_that_there_are_not_are_one_line():
    with pytest.raises(WeightsError, match="takes cascade_stages from 1 to 9, not 0"):
        detector(head_args={"cascade_stages": 0})
    with pytest.raises(WeightsError, match="takes pyramid_scales from 1 to 3, not 4"):
        detector(head_args={"pyramid_scales": 4})
    with pytest.raises(WeightsError, match="no assigner 'mild'; choose one of paper, generous"):
        detector(head_args={"assigner": "mild"})
    with pytest.raises(WeightsError, match=r"stage_score from 0 to below 1, not 1\.5"):
        detector(head_args={"stage_score": 1.5})


def test_cards_of_older_weights_are_read_by_their_names():
    former = {"looks": 2, "octaves": 3, "rules": "paper"}
    assert check_head_args(former) == {
        "cascade_stages": 2, "pyramid_scales": 3, "assigner": "paper",
    }  # fmt: skip
    model = detector(head_args=SMALL | former)
    assert (model.roi_head.stages, model.pyramid_scales) == (2, 3)
    assert model.roi_head.assigner == model.rpn.assigner == ASSIGNERS["paper"]


EXPORTED = {
    "trace": lambda model, pixels: torch.jit.trace(model, (pixels,), check_trace=False),
    "export": lambda model, pixels: torch.export.export(model, (pixels,)).module(),
}


@pytest.mark.filterwarnings("ignore")  # of torch, that the size is fixed, which is meant
@pytest.mark.parametrize("way", EXPORTED)
def test_a_graph_of_one_size_answers_as_the_network_does(way):
    model = detector(head_args=SMALL | {"cascade_stages": 2, "stage_score": 0.25}).eval()
    nn.init.normal_(model.roi_head.classify.weight, std=0.5)
    other = pictures(2).flip(-1)[1:].float()
    with torch.no_grad():
        graph = EXPORTED[way](model, pictures(1).float())
        found, expected, first = graph(other), model(other), model(pictures(1).float())
    assert 20 < (expected[..., 5:].amax(dim=-1) == 0).sum() < 180  # some fell between the stages
    assert not torch.allclose(expected, first)
    torch.testing.assert_close(found[..., 5:], expected[..., 5:], atol=1e-5, rtol=0)
    alive = expected[..., 5:].amax(dim=-1) > 0
    torch.testing.assert_close(found[alive], expected[alive], atol=1e-3, rtol=1e-4)


def test_the_card_alone_holds_mean_and_deviation():
    assert not {"mean", "std"} & set(detector().state_dict())


def test_the_faster_backbone_answers_the_same():
    model = detector("lemevit_tiny").eval()
    fast = optimise_for_inference(model)
    with torch.inference_mode():
        for ours, theirs in zip(fast.levels(pictures()), model.levels(pictures()), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
        assert fast(pictures()).shape == (2, 200, 8)


def test_a_segmenters_backbone_and_norms_begin_a_detector(tmp_path):
    classes = classes_from_names(("land", "water"))
    card = Card(task="seg", backbone="resnet10t", head="upernet", classes=classes)
    source = build_segmenter(card)
    nn.init.constant_(source.feature_norms[2].running_mean, 3.0)
    save_weights(tmp_path / "w.safetensors", source.state_dict(), card)
    model = detector()
    found = initialise(model, CARD, str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(model.encoder.state_dict(), source.encoder.state_dict())
    torch.testing.assert_close(
        model.feature_norms[1:].state_dict(), source.feature_norms[1:].state_dict()
    )
    assert [part.split()[0] for part in found.left] == ["pyramid", "rpn", "roi_head"]


def test_a_detector_begins_one_of_other_classes_by_their_names(tmp_path):
    source = detector()
    save_weights(tmp_path / "w.safetensors", source.state_dict(), CARD)
    card = replace(CARD, classes=classes_from_names(("tank", "car")))
    model = detector(classes=card.classes)
    nn.init.zeros_(model.roi_head.classify.weight)
    found = initialise(model, card, str(tmp_path / "w.safetensors"))
    rows, old = model.roi_head.classify.weight, source.roi_head.classify.weight
    assert torch.equal(rows[0], old[2]) and (rows[1] == 0).all()
    assert torch.equal(rows[2], old[3])  # background
    assert found.left == ("class car",)


def draw(boxes, class_ids, *, height, width):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    picture = torch.full((3, height, width), 60.0)
    for (cx, cy, w, h, angle), class_id in zip(boxes, class_ids, strict=True):
        along = (x - cx) * angle.cos() + (y - cy) * angle.sin()
        across = (y - cy) * angle.cos() - (x - cx) * angle.sin()
        picture[class_id, (along.abs() < w / 2) & (across.abs() < h / 2)] = 220.0
    return picture[None]


def test_a_few_steps_find_turned_rectangles():
    picture = draw(BOXES, (0, 2), height=80, width=128)
    form = {"channels": 48, "hidden": 96, "proposals": 150, "roi_samples": 128}
    form |= {"freeze_norms": False}  # nothing was learned before
    model = detector(head_args=form, mean=(70.0,) * 3, std=(50.0,) * 3).train()
    steps, losses = 60, []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        loss = model(picture, *truth(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    model.eval()
    with torch.inference_mode():
        found = decode_tensor(model(picture))[0]
    overlaps = rotated_iou(found[:2, :5], BOXES)
    best = overlaps.argmax(dim=1)
    assert sorted(best.tolist()) == [0, 1]
    assert overlaps.amax(dim=1).min() > 0.5
    assert (found[:2, 6] == torch.tensor([0.0, 2.0])[best]).all()
    turn = found[:2, 4] - BOXES[best, 4]
    assert ((turn + pi / 2) % pi - pi / 2).abs().max() < 0.2


def test_the_same_seed_gives_the_same_gradients():
    def gradients():
        model = detector().train()
        torch.manual_seed(1)
        model(pictures(), *truth()).backward()
        return [p.grad for p in model.parameters()]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)
