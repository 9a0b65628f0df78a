"""How much memory this process has needed, and will need."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lemevit_cli.errors import LemevitError

# Of the starter weights, roughly: interpreter, libraries and weights; what the network makes of a
# pixel; copies of the pixels that are read, padded and waiting.
_PROCESS_BYTES = 400 * 10**6
_NETWORK_BYTES_PER_PIXEL = 600
_COPIES_OF_PIXELS = 4
_HARDLY_TOO_MUCH = 10**9  # bytes that any machine has
_LINUX_STATUS = Path("/proc/self/status")


def peak_memory_mb() -> float:
    """Return the largest resident size of this process so far, in MB (10^6 bytes)."""
    if _LINUX_STATUS.exists():
        # Not getrusage: its figure survives exec, so a child would report its parent's peak.
        lines = _LINUX_STATUS.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415 - where it is needed

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource  # noqa: PLC0415 - Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def batch_bytes(batch_size: int, *, size: int, bands: int) -> int:
    """Estimate what the windows of one pass need on the processor, with those read ahead."""
    pixels = batch_size * size * size
    return pixels * (_NETWORK_BYTES_PER_PIXEL + _COPIES_OF_PIXELS * 4 * bands)


def check_batch(batch_size: int, *, size: int, bands: int) -> None:
    """Refuse windows that the memory of the machine cannot hold in one pass.

    Raises:
        LemevitError: with both sizes.
    """
    needed = batch_bytes(batch_size, size=size, bands=bands)
    if needed < _HARDLY_TOO_MUCH:
        return
    import psutil  # noqa: PLC0415 - few runs need it

    if needed > (there := psutil.virtual_memory().total):
        raise LemevitError(
            f"--batch-size {batch_size:,}: so many windows of {size} pixels need about "
            f"{needed / 1e9:,.0f} GB at once, this machine has {there / 1e9:,.0f} GB; take fewer"
        )


def estimate_mb(batch_size: int, *, size: int, bands: int, block_bytes: int) -> int:
    """Estimate the peak of a run on the processor in MB, roughly.

    Args:
        block_bytes: what its blocks hold beside the windows, bounded by the settings.
    """
    stated = os.environ.get("GDAL_CACHEMAX", "")  # in MB, or else as GDAL's users write it
    cache = (int(stated) if stated.isdigit() and len(stated) < 6 else 64) * 2**20
    windows = batch_bytes(batch_size, size=size, bands=bands)
    return round((_PROCESS_BYTES + windows + block_bytes + cache) / 1e6)
