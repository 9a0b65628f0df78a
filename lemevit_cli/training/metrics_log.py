"""What a training leaves of its course: JSON lines, and TensorBoard's events where installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
_LOG_EVERY = 10  # steps


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a training's metrics, in order, without half a line of a killed run."""
    path = folder / METRICS_NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    entries = []
    for line in text.splitlines():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return [line for line in entries if isinstance(line, dict) and "step" in line]


class MetricsLog:
    """A file of JSON lines in a folder; lines of steps that will be done again are dropped.

    Lines of steps have ``step, loss, lr, elapsed_s``, those of validations
    ``step, score, validation``.

    Args:
        first_step: the step that the run goes on from; 0 begins an empty file.
        warn: hears when nothing can be written, as on a full disk; the training goes on.
    """

    def __init__(self, folder: Path, *, first_step: int, warn: Callable[[str], None]) -> None:
        self._path = folder / METRICS_NAME
        self._warn = warn
        self._losses: list[float] = []
        entries = [line for line in read_metrics(folder) if 0 < line["step"] <= first_step]
        text = "".join(json.dumps(line) + "\n" for line in entries)
        self._try(lambda: self._path.write_text(text, encoding="utf-8"))
        self._events = _tensorboard(folder, first_step)

    def step(self, step: int, elapsed_s: float, *, loss: float, lr: float, last: bool) -> None:
        """Note a step; every few steps their mean loss becomes a line."""
        self._losses.append(loss)
        if last or step % _LOG_EVERY == 0:
            mean = sum(self._losses) / len(self._losses)
            self._write({"step": step, "loss": mean, "lr": lr, "elapsed_s": round(elapsed_s, 2)})
            self._draw(step, {"loss": mean, "lr": lr})
            self._losses.clear()

    def validation(self, step: int, *, score: float, figures: Mapping[str, Any]) -> None:
        self._write({"step": step, "score": score, "validation": figures})
        self._draw(step, {"score": score, **dict(_plain_figures(figures))})

    def close(self) -> None:
        if self._events is not None:
            self._try(self._events.close)

    def _write(self, figures: Mapping[str, Any]) -> None:
        def append() -> None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")

        self._try(append)

    def _draw(self, step: int, figures: Mapping[str, float]) -> None:
        if self._events is None:
            return
        for name, value in figures.items():
            self._try(partial(self._events.add_scalar, name, value, step))

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            self._warn(f"{self._path}: the metrics could not be written ({error.strerror})")


def _plain_figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Flatten ``{"town": {"miou": 0.5, "classes": {...}}}`` to ``("town/miou", 0.5)``."""
    for name, of_set in figures.items():
        for key, value in of_set.items() if isinstance(of_set, Mapping) else ():
            if isinstance(value, float):
                yield f"{name}/{key}", value


def _tensorboard(folder: Path, first_step: int) -> Any:
    """Open a writer of events, None where tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        return None
    module = import_module("torch.utils.tensorboard")
    return module.SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
