"""``lemevit info``: what a scene, weights, a model or this installation is."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import rasterio

from lemevit_cli import __version__
from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.inference.conversions import kept_of, openvino_version
from lemevit_cli.inference.journal import describe_unfinished
from lemevit_cli.models.weights import find_weights, open_weights, read_card, starter_weights
from lemevit_cli.raster.describe import describe as describe_scene
from lemevit_cli.raster.scene import open_scene

_LIBRARIES = ("timm", "segmentation-models-pytorch", "accelerate", "geopandas", "pyogrio")


def describe(subject: str | None, *, size: int) -> dict[str, Any]:
    """Describe whatever ``subject`` names in a record of plain values.

    Args:
        subject: weights (a starter's name or a .safetensors file), a timm model's name, a scene,
            a result that was not finished, or None for the installation.
        size: input side in pixels at which a model's multiply-adds are counted.
    """
    if subject is None:
        return installation()
    unfinished = describe_unfinished(subject)
    if unfinished and not Path(subject).exists():
        return {"target": subject, "unfinished": unfinished}
    found = _describe_file(subject, size=size)
    return {**found, "unfinished": unfinished} if unfinished else found


def _describe_file(subject: str, *, size: int) -> dict[str, Any]:
    weights = find_weights(subject)
    if weights.suffix == ".safetensors":
        converted = [str(file) for file in kept_of(open_weights(weights).digest)]
        return {"weights": str(weights), "converted": converted, **asdict(read_card(weights))}
    if _may_be_model(subject):
        import_module("lemevit_cli.models.timm_backbones")  # ours are timm's, too
        if import_module("timm").is_model(subject):
            return model(subject, size=size)
    try:
        with open_scene(subject) as scene:
            return describe_scene(scene)
    except SceneError as error:
        if subject == "-" or Path(subject).exists() or "/" in subject or ":" in subject:
            raise
        raise LemevitError(
            f"{subject}: no scene, no weights and no timm model of that name; "
            "starter weights and versions are listed by `lemevit info`"
        ) from error


def _may_be_model(subject: str) -> bool:
    """Say whether a name may be timm's: only then are timm and torch imported."""
    return subject.replace(".", "_").isidentifier() and not Path(subject).exists()


def installation() -> dict[str, Any]:
    """List versions, devices and starter weights."""
    torch = import_module("torch")
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "lemevit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openvino": openvino_version(),
        "rasterio": f"{rasterio.__version__} (GDAL {rasterio.__gdal_version__})",
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "devices": ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])],
        "cpu_threads": torch.get_num_threads(),
        "starter_weights": list(starter_weights()),
    }


def model(name: str, *, size: int) -> dict[str, Any]:
    """Count parameters and multiply-adds, as a classifier of 1000 classes and a dense backbone."""
    # With torch and timm, which no scene asks for.
    cost_of = import_module("lemevit_cli.models.cost").cost_of
    return {"model": name, "input_size": size, **cost_of(name, size=size)}
