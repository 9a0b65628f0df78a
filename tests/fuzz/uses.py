"""What the program does with a file, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lemevit_cli.analysis.importing import import_checkpoint
from lemevit_cli.analysis.information import describe
from lemevit_cli.analysis.scoring import score
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.models.weights import load_state, open_weights, read_card
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.labels import LabelsOptions, describe_labels
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.training.checkpoint import check_resumable
from lemevit_cli.training.datasets.labels import open_labels
from lemevit_cli.training.options import DataOptions, LabelledScene
from lemevit_cli.vector.scene_polygons import (
    field_names,
    field_values,
    is_vector,
    layer_name,
)

_SIDE = 32  # pixels of a window
_FIELDS = ("kind", "year")


def _scene(folder: Path, subject: str) -> None:
    """Describe a scene, and read its first and last window and an overview."""
    describe(str(folder / subject), size=224)
    with open_scene(str(folder / subject)) as scene:
        width, height = min(_SIDE, scene.width), min(_SIDE, scene.height)
        for col, row in ((0, 0), (scene.width - width, scene.height - height)):
            scene.read(Window(col_off=col, row_off=row, width=width, height=height))


def _layer(folder: Path, subject: str) -> None:
    """Read a layer's fields, and draw its polygons onto a scene as labels."""
    path = str(folder / subject)
    if is_vector(path):
        layer_name(path)
    for name in field_names(path):
        field_values(path, name)
    with open_scene(str(folder / "scene.tif")) as scene:
        for field in (*_FIELDS, None):
            given = LabelledScene(scene=scene.path, labels=path, label_field=field)
            open_labels(scene, given).read(scene.window)


def _labels(folder: Path, subject: str) -> None:
    """Say what would be read of labelled data."""
    data = DataOptions(paths=(str(folder / subject) if subject else str(folder),))
    describe_labels(None, data, LabelsOptions())


def _score(folder: Path, subject: str) -> None:
    """Compare two results; ids of a raster are given names."""
    prediction, truth = (str(folder / name) for name in subject.split())
    names = ("background", "b") if prediction.endswith(".tif") else None
    score(prediction, truth, ScoreOptions(classes=names))


def _weights(folder: Path, subject: str) -> None:
    path = folder / subject
    read_card(path)
    weights = open_weights(path)
    load_model(weights, load_network(weights.card.task))


def _checkpoint(folder: Path, subject: str) -> None:
    """Resume from a checkpoint, take its tensors, and take it for one of the authors'."""
    check_resumable(folder, {"lr": 1})
    load_state(folder / subject)
    import_checkpoint(str(folder / subject), str(folder / "imported.safetensors"))


USES: dict[str, Callable[[Path, str], None]] = {
    "scene": _scene,
    "layer": _layer,
    "labels": _labels,
    "score": _score,
    "weights": _weights,
    "checkpoint": _checkpoint,
}
