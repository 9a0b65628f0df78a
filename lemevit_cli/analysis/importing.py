"""``lemevit import``: the authors' checkpoint as a weights file of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemevit_cli.atomic import check_replaceable
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.card import check_readable
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.official_checkpoint import (
    identify_official,
    load_official_state_dict,
    tensors_left_out,
)
from lemevit_cli.models.variants import VARIANTS
from lemevit_cli.models.weights import Card, load_checkpoint, save_weights


def import_checkpoint(checkpoint: str, target: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Read a checkpoint of tensors, find its variant, write its tensors under our names.

    Returns:
        The record that ``--json`` prints.

    Raises:
        OutputError: if the target exists, or its folder does not.
        WeightsError: if the checkpoint is not one of the authors' classification models.
    """
    check_inputs_kept([target], [checkpoint])
    check_replaceable(target, overwrite=overwrite)
    state = load_checkpoint(checkpoint)
    variant, arguments = identify_official(state)
    model = LeMeViT(**VARIANTS[variant] | arguments)
    load_official_state_dict(model, state)
    bands = arguments["in_chans"]
    is_colour = bands == len(Card.mean)  # what of other bands the checkpoint does not say
    card = Card(
        task="backbone",
        backbone=variant,
        backbone_args=arguments,
        classes=classes_from_names([f"class_{i}" for i in range(arguments["num_classes"])]),
        bands=bands,
        mean=Card.mean if is_colour else (127.5,) * bands,
        std=Card.std if is_colour else (127.5,) * bands,
        window=224,
        overlap=0,
        training={"imported_from": Path(checkpoint).name},
    )
    check_readable(card)
    save_weights(target, model.state_dict(), card)
    left_out = tensors_left_out(state)
    return {"path": target, "backbone": variant, **arguments, "left_out": left_out}
