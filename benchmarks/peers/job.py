"""What a runner is asked to do, read from the file that `run.py` wrote; standard library only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One scene through one model.

    Args:
        scene: three bands of uint8, tiled GeoTIFF.
        probabilities: TorchScript, ``(N, 3, window, window)`` in the scene's values to
            probabilities ``(N, classes, window, window)``.
        logits: the same without its softmax, for those who add their own.
        result: GeoTIFF of class ids to write.
        scratch: empty folder for what a peer leaves beside it.
    """

    scene: str
    probabilities: str
    logits: str
    result: str
    scratch: str
    window: int
    overlap: int
    batch: int
    classes: int


def run_job(classify: Callable[[Job], None]) -> None:
    """Read the job named on the command line, do it, and print the seconds of that call."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    start = time.perf_counter()
    classify(job)
    print(json.dumps({"call": time.perf_counter() - start}))
