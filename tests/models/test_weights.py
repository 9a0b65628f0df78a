import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import ClassInfo
from lemevit_cli.models.weights import (
    Card,
    find_weights,
    load_checkpoint,
    load_weights,
    read_card,
    save_weights,
    starter_weights,
)

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


def test_half_stores_floats_in_two_bytes_and_answers_float32(tmp_path):
    save_weights(tmp_path / "w.safetensors", STATE, CARD, half=True)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.get_tensor("a.weight").dtype == torch.float16
        assert file.get_tensor("a.steps").dtype == torch.int64
    state, _ = load_weights(tmp_path / "w.safetensors")
    torch.testing.assert_close(state["a.weight"], STATE["a.weight"].half().float())


def test_nothing_is_left_beside_the_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", STATE, CARD)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_missing_file_names_the_starter_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"no such weights file; starter weights: landcover"):
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


def test_starter_weights_are_found_by_name_and_fit_the_size_limits():
    starters = starter_weights()
    assert find_weights("landcover") == starters["landcover"]
    assert find_weights("some/file.safetensors").name == "file.safetensors"
    assert starters["landcover"].stat().st_size < 20e6
    assert sum(path.stat().st_size for path in starters.values()) < 80e6
    card = read_card(starters["landcover"])
    assert card.class_names == ("land", "building", "road", "vegetation", "water")
    state, _ = load_weights(starters["landcover"])
    assert sum(tensor.numel() for tensor in state.values()) < 9.9e6
