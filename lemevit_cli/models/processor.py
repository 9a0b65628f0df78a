"""What the processor can do, and what a user has decided for it; read without torch."""

from __future__ import annotations

import os
from pathlib import Path

from lemevit_cli.errors import DeviceError

PIN = "LEMEVIT_CPU_PRECISION"  # what --precision auto stands for, by any runtime
FLAGS = ("flags", "Features")  # of instructions, as Linux calls them on x86 and on ARM
_CPUINFO = Path("/proc/cpuinfo")
# Instructions of Intel and AMD, of Intel's matrix units, of ARM.
_NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}


def pinned_precision() -> str | None:
    """Return ``fp32`` or ``bf16`` where the environment pins it, else None.

    Raises:
        DeviceError: if it pins what is neither.
    """
    pinned = os.environ.get(PIN) or None
    if pinned not in (None, "fp32", "bf16"):
        raise DeviceError(f"{PIN}={pinned}: set fp32 or bf16, or leave it out to measure")
    return pinned


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Tell whether the processor has instructions that multiply bf16; only Linux says so."""
    return bool(_NATIVE.intersection(fact_of_processor(FLAGS, cpuinfo).split()))


def fact_of_processor(fields: tuple[str, ...], cpuinfo: Path = _CPUINFO) -> str:
    """Return the first of these fields that Linux gives of the processor; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in fields:
            return value.strip()
    return ""
