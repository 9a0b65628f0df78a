"""Which runtime answers, and converted networks: made once, kept in the user's cache.

A file of the cache is named by the weights' digest and the fingerprint of all that decides what is
converted: versions of lemevit and OpenVINO, the network, the size of the windows. It is written
whole or not at all; a broken one is made anew. What cannot be converted is remembered, too.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemevit_cli import __version__
from lemevit_cli.atomic import written_whole
from lemevit_cli.cache import cache_folder
from lemevit_cli.errors import DeviceError, WeightsError
from lemevit_cli.inference.network import Network
from lemevit_cli.models.converted import Converted, converted_in, save_converted
from lemevit_cli.models.weights import Card, Weights
from lemevit_cli.progress import Progress
from lemevit_cli.settings import RUNTIMES, RuntimeOptions

if TYPE_CHECKING:
    from torch import nn

PREFERENCE = "LEMEVIT_RUNTIME"  # what --runtime auto stands for
INSTALL = "install it by `pip install lemevit[openvino]`"
_CONVERSION = 1  # of what is converted, and how: another number makes all anew
_FARTHEST = 1e-3  # that scores of the converted network may lie from torch's

Size = tuple[int, int]


def chosen_runtime(weights: Weights, options: RuntimeOptions) -> str:
    """Return ``torch`` or ``openvino``: what was asked for, or what suits the machine.

    Raises:
        DeviceError: for a name that there is not, or OpenVINO where it cannot be.
        WeightsError: if torch is to run what was converted.
    """
    asked: str = "openvino" if weights.is_converted else options.runtime
    if weights.is_converted and options.runtime == "torch":
        raise WeightsError(f"{weights.name}: a network of OpenVINO; leave out --runtime torch")
    if asked == "auto":
        asked = os.environ.get(PREFERENCE) or "auto"
    if asked not in RUNTIMES:
        raise DeviceError(f"unknown runtime {asked!r}; use {', '.join(RUNTIMES)}")
    if asked == "openvino":
        if openvino_version() is None:
            raise DeviceError(f"--runtime openvino: it is not there; {INSTALL}")
        if options.device not in ("auto", "cpu"):
            raise DeviceError(
                f"--runtime openvino computes on the CPU, not on {options.device}; "
                "leave out --device, or take --runtime torch"
            )
        return asked
    if asked == "torch" or openvino_version() is None or options.precision == "fp16":
        return "torch"
    on_cpu = options.device == "cpu" or (options.device == "auto" and not _has_gpu())
    return "openvino" if on_cpu else "torch"


def openvino_version() -> str | None:
    """Return the version that is installed, without loading it."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def _has_gpu() -> bool:
    """Tell whether torch has a GPU; it is loaded only where the machine seems to have one."""
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    seen = is_apple or any(
        next(Path("/dev").glob(name), None) for name in ("nvidia[0-9]*", "kfd", "dxg")
    )
    if not (seen or sys.platform == "win32"):
        return False
    device = import_module("lemevit_cli.models.device").choose_device("auto")
    return bool(device.type != "cpu")


def networks_of(
    weights: Weights,
    network: Network,
    build: Callable[[], nn.Module],
    options: RuntimeOptions,
    progress: Progress,
) -> Callable[[Size], Converted]:
    """Return what gives the converted network of weights for windows of a size.

    Args:
        build: makes the network for inference, of torch: asked for where none is kept.
        progress: told when one is converted, which takes seconds.

    Raises:
        UnfitError: if the options ask for what only torch can do; so may what is returned.
    """
    if weights.is_converted:
        return partial(_of_one_size, converted_in(weights.content, weights.name), weights.name)
    if options.fuse_tokens or options.fuse_blocks not in (None, "r=0"):
        raise UnfitError("--fuse-tokens: only torch fuses tokens; use --runtime torch")
    return cache(partial(_network, weights, network, build, progress))


def _of_one_size(network: Converted, name: str, size: Size) -> Converted:
    if size != network.size:
        height, width = network.size
        raise UnfitError(
            f"{name}: made for windows of {width} x {height} pixels, not {size[1]} x {size[0]}; "
            "leave out --window, or make it anew"
        )
    return network


def _network(
    weights: Weights,
    network: Network,
    build: Callable[[], nn.Module],
    progress: Progress,
    size: Size,
) -> Converted:
    """Return the network for windows of a size, from the cache or converted now.

    Raises:
        UnfitError: if it cannot be converted.
    """
    file = file_of(weights.digest, size)
    if (kept := _read_kept(file, weights)) is not None:
        return kept
    progress.note(f"{weights.name} is converted for OpenVINO, once; this takes some seconds")
    bands = bands_of(network, weights.card)
    conversion: Any = import_module("lemevit_cli.models.conversion")
    model = build()
    try:
        converted: Converted = conversion.convert(model, bands, size)
        distance = conversion.DISTANCES[network.answers]
        conversion.check_answers(model, converted, bands, farthest=_FARTHEST, distance=distance)
    except Exception as error:  # whatever a library finds that it cannot trace or read
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(lines[-1].split())[:300]
        keep(lambda: _write_reason(file.with_suffix(".unfit"), reason), file)
        raise UnfitError(_unfit(weights, reason)) from error
    keep(lambda: save_converted(file, converted, weights.card), file)
    return converted


def _unfit(weights: Weights, reason: str) -> str:
    return f"{weights.name} cannot be converted for OpenVINO ({reason}); use --runtime torch"


def bands_of(network: Network, card: Card) -> int:
    """Count the bands of a window: of two dates there are those of both."""
    return card.bands * network.dates


class UnfitError(WeightsError):
    """A network that OpenVINO cannot run."""


def file_of(digest: str, size: Size) -> Path:
    """Return where the converted network of weights is kept, for windows of a size."""
    decisive = (_CONVERSION, __version__, openvino_version(), digest, size)
    fingerprint = hashlib.sha256(repr(decisive).encode()).hexdigest()[:12]
    height, width = size
    return folder() / f"{digest}-{height}x{width}-{fingerprint}.safetensors"


def folder() -> Path:
    """Return the folder of all converted networks."""
    return cache_folder() / "openvino"


def kept_of(digest: str) -> list[Path]:
    """Return the files that are kept of weights, for all sizes and versions."""
    return sorted(folder().glob(f"{digest}-*.safetensors"))


def _read_kept(file: Path, weights: Weights) -> Converted | None:
    """Read what is kept; None if there is nothing, or it is broken.

    Raises:
        UnfitError: if it is known that the network cannot be converted.
    """
    try:
        return converted_in(file.read_bytes(), str(file))
    except (OSError, WeightsError):
        pass
    try:
        reason = file.with_suffix(".unfit").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    raise UnfitError(_unfit(weights, reason))


def keep(write: Callable[[], None], file: Path) -> None:
    """Write what may be lost: a home that is full or read-only is no reason to stop."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError:
        pass


def _write_reason(file: Path, reason: str) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(reason, encoding="utf-8")
