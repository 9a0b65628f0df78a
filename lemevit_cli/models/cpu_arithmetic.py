"""Does bf16 pay on this CPU? A few processors multiply it natively, and there it is measured, once.

What was measured is kept in the user's cache (``$XDG_CACHE_HOME/lemevit``, ``~/.cache/lemevit``) by
processor, version of torch and number of threads. A user may pin it (``processor.py``).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.atomic import written_whole
from lemevit_cli.cache import cache_folder
from lemevit_cli.models.processor import fact_of_processor, multiplies_bf16, pinned_precision

WORTHWHILE = 1.2  # times as fast: below that, full precision is the better bargain
_ROUNDS = 8
_LONGEST_S = 1.0  # that measuring goes on; a round that has begun is finished


def pays_in_bf16() -> bool:
    """Tell whether inference in bf16 is worthwhile on this CPU, with the threads that torch has.

    Raises:
        DeviceError: if the environment pins what is no precision.
    """
    if pinned := pinned_precision():
        return pinned == "bf16"
    return multiplies_bf16() and _known_speedup(_cache_file()) >= WORTHWHILE


def _known_speedup(file: Path) -> float:
    """Return what was measured here before, or measure and keep it."""
    key, kept = _machine(), _read(file)
    if isinstance(kept.get(key), float):
        return float(kept[key])
    speedup = measure_speedup()
    _write(file, kept | {key: speedup})
    return speedup


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(file: Path, kept: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as temporary:
            temporary.write_text(json.dumps(kept, indent=2), encoding="utf-8")
    except OSError:
        pass  # a home that may not be written to: it is measured again


def _cache_file() -> Path:
    return cache_folder() / "cpu-bf16.json"


def _machine() -> str:
    model = fact_of_processor(("model name",)) or platform.processor()
    return f"{model}, torch {torch.__version__}, {torch.get_num_threads()} threads"


@torch.inference_mode()
def measure_speedup() -> float:
    """Return how many times as fast layers like ours are in bf16 as in fp32; a second at most.

    Seconds of the processor, by turns, and the fewest of each: what neighbours take does not count.
    """
    block, pixels = _Sample().eval(), torch.randn(1, 64, 64, 64)
    pixels = pixels.to(memory_format=torch.channels_last)

    def run(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            block(pixels)

    began, seconds = time.perf_counter(), {torch.float32: [0.0], torch.bfloat16: [0.0]}
    for dtype in seconds:
        run(dtype)  # kernels are chosen and made on the first call
        seconds[dtype].clear()
    for _ in range(_ROUNDS):
        for dtype, times in seconds.items():
            times.append(_seconds_of(run, dtype))
        if time.perf_counter() - began > _LONGEST_S:
            break
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def _seconds_of(run: Callable[[torch.dtype], None], dtype: torch.dtype) -> float:
    start = time.process_time()
    run(dtype)
    return time.process_time() - start


class _Sample(nn.Module):
    """What our networks are made of: a convolution, attention over its pixels, an MLP."""

    def __init__(self, channels: int = 64, dim: int = 192, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.halve = nn.Conv2d(channels, dim, 3, stride=2, padding=1)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.halve(F.relu(self.conv(pixels))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed: Tensor = self.mlp(tokens + self.proj(read))
        return mixed
