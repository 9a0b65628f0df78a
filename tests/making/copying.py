"""A task without a model, for processes that share in a scene: it answers the first band.

What it is to suffer is told by a folder: who works on a block leaves a file there, and a block that
is named there ends whoever works on it.
"""

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lemevit_cli.inference.blocks import Piece, Plan, blocks_of
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.scene_input import open_input
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.settings import InferenceSettings

CARD = Card(
    task="seg", backbone="-", classes=classes_from_names(["any"]), window=16, overlap=0
)  # a block is a window
NODATA = 0


def load(*, threads=1, **decided):
    """Load nothing: the pixels are the answer."""
    return Predictor("none", "0" * 16, CARD, lambda pixels: pixels, "cpu", threads=threads)


@dataclass(frozen=True)
class Copying:
    """Copies a scene of 12 blocks, 64 x 48, to a file of numpy.

    Args:
        folder: for what workers leave.
        delay_s: that a block takes at least.
        poisoned: blocks that end their process, unless it is the spared one.
    """

    folder: Path
    settings: InferenceSettings
    progress: Progress
    delay_s: float = 0.0
    poisoned: tuple[int, ...] = ()
    spared: int = 0

    def check_target(self, target): ...

    def outputs(self, target):
        return (target,)

    @contextmanager
    def open(self, scene):
        with open_input(scene, CARD, self.settings, self.progress) as source:
            yield source

    def plan(self, run):
        blocks = tuple(blocks_of(run.source.area, 16))
        return Plan(blocks, len(blocks))

    def infer(self, run, block):
        number = block.row_off // 16 * 4 + block.col_off // 16
        (self.folder / f"{number}.{os.getpid()}.{time.monotonic_ns()}").touch()
        if number in self.poisoned and os.getpid() != self.spared:
            os._exit(1)
        time.sleep(self.delay_s)
        values = np.full((16, 16), NODATA, dtype=np.uint8)
        for _, answers in run.batches([block]):
            values[:] = np.asarray(answers)[0, 0]
        yield Piece(block, {"values": values})

    def assemble(self, run, parts, target):
        whole, order = np.full((48, 64), NODATA, dtype=np.uint8), []
        for part in parts:
            for piece in part:
                whole[piece.window.slices] = piece.arrays["values"]
                order.append(piece.window)
        np.save(target, whole)
        return {"order": order, **run.account.figures()}


def attempts_of(folder):
    """Return the blocks that were begun, each as often as it was, and the processes that did."""
    found = [path.name.split(".") for path in folder.iterdir()]
    return [int(number) for number, *_ in found], {int(pid) for _, pid, _ in found}
