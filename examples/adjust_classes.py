"""Shift the logits of classes, and put the figures of sets into the card of weights.

    python examples/adjust_classes.py WEIGHTS -o landcover.safetensors --add vegetation=1 \
        --data DATA/czech_orthophoto --data DATA/dubai_landcover ...

Windows drawn evenly over classes show much less of what covers most of the ground; the shift gives
it back (Menon et al., Long-tail learning via logit adjustment, arXiv 2007.07314). Every DATA is a
folder with a validation part, which scores of land cover are calibrated on anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lemevit_cli.models.weights import open_weights, save_weights
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import load_network, load_training
from lemevit_cli.tasks.evaluation import evaluate
from lemevit_cli.tasks.segmentation.training import calibrate
from lemevit_cli.training.datasets.folders import open_folder


def main() -> None:
    """Write the adjusted weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--add", action="append", default=[], metavar="CLASS=NUMBER")
    parser.add_argument("--data", action="append", default=[], required=True)
    args = parser.parse_args()
    weights = open_weights(args.weights)
    card = weights.card
    model: Any = load_network(card.task).build_model(card)
    model.load_state_dict(weights.state())
    model.eval()
    shifts = {name: float(by) for name, by in (text.split("=") for text in args.add)}
    bias = model.get_submodule(model.classifiers[0]).bias
    with torch.no_grad():
        for name, by in shifts.items():
            bias[card.class_names.index(name)] += by
    if card.task == "seg":
        card = calibrate(model, card, sources=[open_folder(data, "val") for data in args.data])
    card = replace(card, training=card.training | {"shifted": shifts}, metrics=())
    save_weights(args.output, model.state_dict(), card, half=True)
    headline = load_training(card.task).headline
    metrics = tuple(scored(args.output, data, headline) for data in args.data)
    save_weights(args.output, model.state_dict(), replace(card, metrics=metrics), half=True)


def scored(output: str, data: str, headline: Sequence[str]) -> dict[str, object]:
    """Return what the card keeps of a validation part, and print it."""
    figures = evaluate(output, data, runtime=RuntimeOptions(precision="fp32", runtime="torch"))
    set_name = Path(data).name
    command = f"lemevit eval {Path(output).stem} DATA/{set_name} --split val --precision fp32"
    kept = {key: figures[key] for key in headline}
    print(set_name, kept, flush=True)
    return kept | {"data": set_name, "command": command}


if __name__ == "__main__":
    main()
