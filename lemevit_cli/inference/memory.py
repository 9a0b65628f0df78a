"""How much memory this process has needed."""

from __future__ import annotations

import sys
from pathlib import Path

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
