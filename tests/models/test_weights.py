import json
import pickle
from dataclasses import replace

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import ClassInfo, classes_from_names
from lemevit_cli.models.segmenter import build_segmenter
from lemevit_cli.models.weights import (
    Card,
    find_weights,
    initialise,
    load_checkpoint,
    load_weights,
    read_card,
    save_weights,
    starter_weights,
)
from lemevit_cli.tasks import TASKS, load_network

CARD = Card(
    task="seg",
    backbone="lemevit_tiny",
    backbone_args={"drop_path_rate": 0.1},
    head="upernet",
    classes=(ClassInfo("land", (1, 2, 3)), ClassInfo("Gebäude", (4, 5, 6))),
    bands=4,
    dtype="uint16",
    value_range=(0.0, 3000.0),
    mean=(1.0, 2.0, 3.0, 4.0),
    std=(1.5, 2.5, 3.5, 4.5),
    gsd_m=(0.1, 1.0),
    training={"steps": 3},
    metrics=({"miou": 0.5, "command": "lemevit eval"},),
)
STATE = {"a.weight": torch.randn(3, 2), "a.steps": torch.tensor(7)}


def test_tensors_and_card_come_back(tmp_path):
    save_weights(tmp_path / "w.safetensors", STATE, CARD)
    state, card = load_weights(tmp_path / "w.safetensors")
    assert card == CARD == read_card(tmp_path / "w.safetensors")
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in STATE.items()}


def test_a_threshold_of_fusing_is_kept_and_a_card_without_one_reads_as_before():
    assert "fuse_threshold" not in CARD.to_json()
    assert Card.from_json(CARD.to_json()).fuse_threshold is None
    calibrated = replace(CARD, fuse_threshold=0.85)
    assert Card.from_json(calibrated.to_json()) == calibrated


def test_half_stores_floats_in_two_bytes_and_answers_float32(tmp_path):
    save_weights(tmp_path / "w.safetensors", STATE, CARD, half=True)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.get_tensor("a.weight").dtype == torch.float16
        assert file.get_tensor("a.steps").dtype == torch.int64
    state, _ = load_weights(tmp_path / "w.safetensors")
    torch.testing.assert_close(state["a.weight"], STATE["a.weight"].half().float())


def test_half_keeps_what_is_too_large_for_two_bytes(tmp_path):
    state = {"norm.running_var": torch.tensor([1.0, 70000.0]), "weight": torch.ones(2)}
    save_weights(tmp_path / "w.safetensors", state, CARD, half=True)
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert loaded["norm.running_var"].tolist() == [1.0, 70000.0]
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.get_tensor("weight").dtype == torch.float16


def test_what_is_no_finite_number_is_not_written(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.weight holds values that are no finite numbers"):
        save_weights(tmp_path / "w.safetensors", {"a.weight": torch.ones(2) / 0}, CARD)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_beside_the_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", STATE, CARD)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_missing_file_names_the_starter_weights(tmp_path):
    with pytest.raises(
        WeightsError, match=r"no such weights file; starter weights: buildings-change, landcover"
    ):
        read_card(tmp_path / "none.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not a header")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_weights(tmp_path / "w.safetensors")


def test_a_file_without_a_card_is_refused(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="without lemevit's card"):
        load_weights(tmp_path / "w.safetensors")


def test_a_card_of_a_later_format_asks_for_an_update():
    later = json.loads(CARD.to_json()) | {"format_version": 99}
    with pytest.raises(WeightsError, match="format version 99"):
        Card.from_json(json.dumps(later))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("pickled code ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    with pytest.raises(WeightsError, match="plain tensors"):
        load_checkpoint(tmp_path / "evil.pth")


def test_a_checkpoint_that_is_no_dictionary_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pth")


def test_starter_weights_are_found_by_name_and_stay_small_together():
    starters = starter_weights()
    assert find_weights("landcover") == starters["landcover"]
    assert find_weights("some/file.safetensors").name == "file.safetensors"
    assert sum(path.stat().st_size for path in starters.values()) < 80e6
    assert read_card(starters["landcover"]).class_names == (
        "land",
        "building",
        "road",
        "vegetation",
        "water",
    )


@pytest.mark.parametrize(
    ("task", "largest"), [("seg", 20e6), ("det", 22e6), ("change", 19e6), ("cls", 20e6)]
)
def test_each_task_has_starter_weights_that_fit_its_model(task, largest):
    path = find_weights(TASKS[task].starter)
    assert path.stat().st_size < largest
    state, card = load_weights(path)
    assert card.task == task and card.metrics and card.training["data"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    load_network(task).build_model(card).load_state_dict(state)  # raises on any name or shape


SMALL = Card(
    task="seg",
    backbone="resnet10t",
    head="upernet",
    head_args={"decoder_channels": 16},
    classes=classes_from_names(("land", "building", "road")),
)


def network(card, seed=0):
    torch.manual_seed(seed)
    plain = {"mean": (0.0,) * card.bands, "std": (1.0,) * card.bands}
    model = build_segmenter(replace(card, **plain))
    torch.nn.init.uniform_(model.segmentation_head[0].bias)
    return model


@pytest.fixture
def small_weights(tmp_path):
    model = network(SMALL)
    save_weights(tmp_path / "small.safetensors", model.state_dict(), SMALL)
    return tmp_path / "small.safetensors", model.state_dict()


def test_a_model_of_the_same_card_gets_every_tensor(small_weights):
    path, state = small_weights
    model = network(SMALL, seed=1)
    found = initialise(model, SMALL, str(path))
    assert found.copied == len(state) and found.left == ()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_rows_of_the_classifier_are_found_by_the_names_of_classes(small_weights):
    path, state = small_weights
    card = replace(SMALL, classes=classes_from_names(("road", "orchard", "land")))
    model = network(card, seed=1)
    fresh = model.segmentation_head[0].weight.detach().clone()
    found = initialise(model, card, str(path))
    weight, bias = model.segmentation_head[0].weight, model.segmentation_head[0].bias
    old = state["segmentation_head.0.weight"]
    assert torch.equal(weight[0], old[2]) and torch.equal(weight[2], old[0])
    assert torch.equal(weight[1], fresh[1])
    assert torch.equal(bias[[0, 2]], state["segmentation_head.0.bias"][[2, 0]])
    assert found.left == ("class orchard",)


def test_classes_without_a_shared_name_start_afresh(small_weights):
    path, state = small_weights
    card = replace(SMALL, classes=classes_from_names(("oats", "rye", "wheat")))
    model = network(card, seed=1)
    fresh = model.segmentation_head[0].weight.detach().clone()
    found = initialise(model, card, str(path))
    assert torch.equal(model.segmentation_head[0].weight, fresh)
    assert found.left == ("segmentation_head (2 of 2 tensors)",)
    assert found.copied == len(state) - 2


def test_another_decoder_starts_afresh_and_is_listed(small_weights):
    path, state = small_weights
    card = replace(SMALL, head="fpn", head_args={})
    model = network(card, seed=1)
    found = initialise(model, card, str(path))
    assert torch.equal(
        model.state_dict()["encoder.model.conv1.0.weight"], state["encoder.model.conv1.0.weight"]
    )
    decoder = [key for key in model.state_dict() if key.startswith("decoder.")]
    assert f"decoder ({len(decoder)} of {len(decoder)} tensors)" in found.left


def test_weights_of_the_light_decoder_fit_the_one_with_colours_but_for_these(small_weights):
    path, state = small_weights
    card = replace(SMALL, head="upernet_pixels")
    model = network(card, seed=1)
    found = initialise(model, card, str(path))
    assert found.copied == len(state)
    assert [part.split()[0] for part in found.left] == ["pixel_view"]


@pytest.mark.parametrize("bands", [5, 1])
def test_the_first_convolution_keeps_its_sum_over_other_numbers_of_bands(small_weights, bands):
    path, state = small_weights
    card = replace(SMALL, bands=bands)
    model = network(card, seed=1)
    found = initialise(model, card, str(path))
    old = state["encoder.model.conv1.0.weight"]
    new = model.state_dict()["encoder.model.conv1.0.weight"]
    assert new.shape[1] == bands and found.left == ()
    torch.testing.assert_close(new.sum(dim=1), old.sum(dim=1))
    torch.testing.assert_close(new[:, -1], old.mean(dim=1) * 3 / bands)
    if bands > 3:
        torch.testing.assert_close(new[:, :3], old * 3 / bands)


def test_an_imported_backbone_is_found_inside_a_model(tmp_path):
    classifier = timm.create_model("lemevit_tiny", num_classes=7)
    card = Card(task="backbone", backbone="lemevit_tiny", classes=())
    save_weights(tmp_path / "backbone.safetensors", classifier.state_dict(), card)
    ours = replace(SMALL, backbone="lemevit_tiny")
    model = network(ours, seed=1)
    found = initialise(model, ours, str(tmp_path / "backbone.safetensors"))
    encoder = model.encoder.state_dict()
    for key, tensor in encoder.items():
        assert torch.equal(tensor, classifier.state_dict()[key.removeprefix("model.model.")]), key
    assert found.copied == len(encoder)
    assert not any(part.startswith("encoder") for part in found.left)
    assert len(found.left) == 3  # decoder, feature_norms, segmentation_head


def test_weights_of_which_nothing_fits_are_refused(tmp_path):
    card = Card(task="seg", backbone="lemevit_huge", classes=())
    save_weights(tmp_path / "w.safetensors", {"some.weight": torch.ones(2)}, card)
    with pytest.raises(WeightsError, match=r"w\.safetensors: no tensor of lemevit_huge .* fits"):
        initialise(network(SMALL), SMALL, str(tmp_path / "w.safetensors"))


def test_values_that_are_no_finite_numbers_are_left_behind(small_weights):
    path, state = small_weights
    key = "feature_norms.4.running_var"
    # As save_weights once wrote it: variances beyond what fp16 holds.
    save_file({**state, key: state[key] / 0}, path, {"lemevit_card": SMALL.to_json()})
    model = network(SMALL, seed=1)
    found = initialise(model, SMALL, str(path))
    assert found.copied == len(state) - 1
    assert model.state_dict()[key].isfinite().all()
