"""A card is data from a stranger: it is read as it was written, or refused in one line."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from lemevit_cli.errors import WeightsError
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.card import Card, check_readable
from lemevit_cli.models.weights import open_weights, save_weights
from lemevit_cli.tasks import load_network

CARD = Card(
    task="seg",
    backbone="lemevit_tiny",
    head="upernet",
    head_args={"decoder_channels": 16},
    classes=classes_from_names(("land", "water")),
)


def as_text(**changes):
    return json.dumps(json.loads(CARD.to_json()) | changes)


def test_what_was_written_is_read():
    assert Card.from_json(CARD.to_json()) == CARD


def test_fields_with_defaults_may_be_left_out():
    needed = ("task", "backbone", "classes")
    text = json.dumps({k: v for k, v in json.loads(CARD.to_json()).items() if k in needed})
    found = Card.from_json(text)
    assert (found.mean, found.window, found.training) == (CARD.mean, CARD.window, {})


WRONG = {
    "task": [3, None, "a\nb", "x" * 1000, ["seg"]],
    "backbone": [3, "hf-hub:someone/model", "local-dir:/etc", "resnet18\x1b[2J", {}],
    "head": [None, 1, "\0"],
    "backbone_args": [
        *([], "x", {"checkpoint_path": "/etc/passwd"}, {"pretrained": True}),
        *({"depths": [9**9] * 5}, {"depths": [1] * 999}, {"embed_dims": [math.inf] * 5}),
        *({"num_meta_tokens": 10**12}, {"pretrained_cfg": {"url": "http://x"}}),
    ],
    "head_args": [[], 3, {"decoder_channels": 10**9}, {"decoder_channels": {"a": 1}}],
    "classes": [
        *(None, {}, "land", [["land"]], [{"name": "land"}], [{"name": "", "color": [1, 2, 3]}]),
        *([{"name": "land", "color": c}] for c in ([1, 2], [1, 2, 256], [1, 2, math.nan], "red")),
        *([{"name": n, "color": [1, 2, 3]}] for n in (7, "a\x07", "a\nb", "\u202eevil", "x" * 999)),
        [{"name": "twice", "color": [1, 2, 3]}] * 2,
        [{"name": f"c{i}", "color": [1, 2, 3]} for i in range(256)],
    ],
    "bands": [0, -1, 3.0, True, "3", 10**9, None],
    "dtype": ["complex64", "object", None, 8, "uint8,(1000000000,)"],
    "value_range": [[0], [0, math.inf], [255, 0], [0, 0], "ab", None, [0, 1, 2], [0, 1e300]],
    "mean": [[0, 0], [0, 0, math.nan], [0, 0, "0"], None, 0, [0, 0, 10**400]],
    "std": [[1, 1], [1, 1, 0], [1, 1, -1], [1, 1, math.inf]],
    "gsd_m": [[0, 1], [2, 1], [1], [-1, 1], [1, math.inf], "1", 1],
    "window": [0, -1, 10**9, 512.0, "512", None, True],
    "overlap": [-1, 512, 10**9, None, 1.5],
    "fuse_threshold": ["x", 2, math.nan],
    "class_scores": ["x", 0.5, [], [0.5] * 99, [True, 0.5], [2, 0.5], [math.nan, 0.5]],
    "training": [[], "x"],
    "metrics": [{}, "x", [1], None],
    "format_version": ["1", None, 2, 10**100, 1.5],
    "surprise": [1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_what_no_card_may_say_is_refused_in_a_line_that_names_it(name, value):
    with pytest.raises(WeightsError) as caught:
        Card.from_json(as_text(**{name: value}))
    message = str(caught.value)
    assert message.startswith("its card") and len(message.splitlines()) == 1
    assert message.isprintable() and len(message) < 700


def test_a_class_that_could_not_be_read_again_is_refused_before_the_work():
    classes = classes_from_names(("land", "a\x1b[2J"))
    with pytest.raises(WeightsError, match="could not be read again: its card's name of a class"):
        check_readable(replace(CARD, classes=classes))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{", "[" * 10**6, '{"task": ' + "9" * 10**5 + "}", "{}"]
)
def test_what_is_no_card_is_refused(text):
    with pytest.raises(WeightsError, match="its card"):
        Card.from_json(text)


def test_a_network_larger_than_its_tensors_is_refused_before_memory_is_taken(tmp_path):
    """UPerNet of 4,096 channels takes gigabytes; its file is of a few bytes."""
    fields = asdict(CARD) | {"head_args": {"decoder_channels": 4096}}
    save_weights(tmp_path / "w.safetensors", {"x": torch.ones(1)}, card_of(fields))
    program = """
import sys
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.models.weights import open_weights
from lemevit_cli.tasks import load_network
try:
    load_model(open_weights(sys.argv[1]), load_network("seg"))
except Exception as error:
    print(peak_memory_mb(), error)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, _, message = done.stdout.partition(" ")
    assert "its tensors do not fit its card (" in message
    assert float(peak) < 1500


def card_of(fields):
    return Card(**fields | {"classes": CARD.classes})


def test_tensors_of_the_card_pass_the_comparison(tmp_path):
    card = card_of(asdict(CARD) | {"head_args": {"decoder_channels": 1040}})
    network = load_network("seg")
    save_weights(tmp_path / "w.safetensors", network.build_model(card).state_dict(), card)
    model = load_model(open_weights(tmp_path / "w.safetensors"), network)
    assert sum(p.numel() for p in model.parameters()) > 10**7


def test_more_tensors_than_any_network_has_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = {f"t{i}": entry for i in range(60_000)}
    text = json.dumps(header | {"__metadata__": {"lemevit_card": CARD.to_json()}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(WeightsError, match="60,001 tensors"):
        open_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        *(b"[]", b"3", b'{"__metadata__": 3}', b'{"__metadata__": {"lemevit_card": 3}}'),
        *(b'{"x": 1}', b'{"x": {"shape": 3}}', b"[" * 100_000, b'{"x": {"shape": ["a"]}}'),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        open_weights(path)


def test_a_header_longer_than_any_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((10**15).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match="a header of 1,000,000,000,000,000 bytes"):
        open_weights(path)
