"""Devices and precisions by the names that users give."""

from __future__ import annotations

import torch

from lemevit_cli.errors import DeviceError
from lemevit_cli.models.cpu_arithmetic import pays_in_bf16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        DeviceError: if the name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device(_best())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"device {name}: torch sees {count} CUDA devices; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps: torch does not see one; use --device cpu")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(
    precision: str, device: torch.device, *, for_inference: bool = False
) -> torch.dtype:
    """Choose the model's arithmetic; ``auto`` is bf16 on CUDA where it is native, else fp16 there.

    On a CPU it is fp32, but ``for_inference`` bf16 where that pays (``cpu_arithmetic.py``).

    Raises:
        DeviceError: for fp16 on a CPU, which is slower there than fp32 and overflows.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        measured = for_inference and device.type == "cpu" and pays_in_bf16()
        return torch.bfloat16 if measured else torch.float32
    if precision not in _DTYPES:
        raise DeviceError(f"unknown precision {precision!r}; use auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16 needs a GPU; on the CPU use fp32 or bf16")
    return _DTYPES[precision]


def is_recording() -> bool:
    """Say whether operations are recorded as a graph: of fixed shapes, and of plain operations."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def use_threads(threads: int | None) -> None:
    """Let torch use as many CPU threads as asked for; None leaves all of them."""
    if threads is not None:
        torch.set_num_threads(threads)
