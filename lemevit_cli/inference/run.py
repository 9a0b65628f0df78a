"""The loop that all commands over scenes share: block -> windows -> batches -> model -> answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.geometry.packed_mask import PackedMask
from lemevit_cli.geometry.triangle_filter import AxisFilter, triangle_filter
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import check_batch, peak_memory_mb
from lemevit_cli.inference.mosaic import Mosaic, Rows
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.resample import MaskRows, RowResampler
from lemevit_cli.inference.runtime import Wait, batches_in_flight, begin, count_cores
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import Tiling

_READERS = 2  # windows come sooner than a processor answers them
_READERS_FOR_GPU = 8  # as far as there are cores
_BATCHES_AHEAD = 2
_LARGEST_WINDOW = 4096  # pixels; what the model makes of a window is in memory as a whole
_LARGEST_OVERLAP = 3 / 4  # of a window: every pixel is then seen 16 times


@dataclass(frozen=True)
class Batch:
    """Windows for one pass of the model, with at least one valid pixel each.

    Args:
        windows: N places on the model's grid.
        pixels: ``(B, bands, size, size)`` with B >= N: the last batch is filled with zeros, so
            that the model always sees one shape.
        valid: N masks, ``(H, W)`` of their window.
        scene_valid: masks of the scene's own pixels under each of the N windows, on another grid.
    """

    windows: list[Window]
    pixels: NDArray[Any]
    valid: list[NDArray[np.bool_]]
    scene_valid: list[tuple[PackedMask, ...]]


_Read = tuple[NDArray[Any], NDArray[np.bool_], tuple[PackedMask, ...]]


@dataclass
class Account:
    """Account of a run: windows and seconds by phase.

    Args:
        unreadable: windows of the scene that count as nodata, for the file could not be read
            there: column, row, width, height.
        blocks_kept: those that an earlier run had finished.
        windows_capped: those that had more answers than are taken of one.
        windows_full: those where the model has answered with all that it can.
    """

    windows: int = 0
    windows_skipped: int = 0
    unreadable: list[tuple[int, int, int, int]] = field(default_factory=list)
    blocks_kept: int = 0
    windows_capped: int = 0
    windows_full: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the account was opened."""
        return max(time.perf_counter() - self.started, 1e-6)

    def phases(self) -> dict[str, float]:
        """Return the seconds by phase; ``total`` since the account was opened.

        Where ``assemble`` is one of them, ``finish`` stands for what closing the result took.
        ``workers`` is the time that this process waited for others.
        """
        seconds = {**self.seconds, "total": self.elapsed_s}
        if "assemble" in seconds:
            phases = ("workers", "read", "model", "blend", "write")
            known = sum(seconds.get(phase, 0.0) for phase in phases)
            seconds["finish"] = max(0.0, seconds.pop("assemble") - known)
        return {phase: round(value, 3) for phase, value in seconds.items()}

    def figures(self) -> dict[str, Any]:
        """Return windows, seconds and memory, for the record of a result."""
        return {
            "windows": self.windows,
            "windows_skipped": self.windows_skipped,
            "unreadable": sorted(set(self.unreadable)),
            "blocks_kept": self.blocks_kept,
            "seconds": self.phases(),
            "peak_memory_mb": round(peak_memory_mb(), 1),
        }

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class BlockInference:
    """A scene, a model and the grid of windows between them.

    Args:
        grid: windows over the view of the source.
        batch_size: windows in one pass.
        readers: threads that read windows ahead, the same for all blocks: each keeps a handle of
            its own on the scene for as long as the scene is open.
        skips_unreadable: windows that cannot be read are nodata, and the account names them.
    """

    source: SceneInput
    predictor: Predictor
    grid: WindowGrid
    batch_size: int
    readers: Executor
    account: Account
    progress: Progress
    skips_unreadable: bool = False

    @property
    def view(self) -> SceneView:
        """Return the scene on the model's grid; its own grid is the output's."""
        return self.source.view

    @property
    def num_classes(self) -> int:
        """Count the classes of the scores."""
        return len(self.predictor.card.classes)

    def rows(self, block: Window) -> Iterator[Rows]:
        """Yield blended scores of a block, in rows of the scene's grid, from top to bottom."""
        if self.view.is_resampled:
            yield from self._resampled_rows(block)
        else:
            yield from self._model_rows(block, MaskRows())

    def area_of(self, block: Window) -> Window:
        """Return the part of the model's grid that a block of the scene needs."""
        if not self.view.is_resampled:
            return block
        rows, cols = self._filters(block)
        return Window(
            col_off=cols.start,
            row_off=rows.start,
            width=cols.stop - cols.start,
            height=rows.stop - rows.start,
        )

    def batches(self, windows: Iterable[Window]) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """Read windows of the grid ahead; yield them with the model's answers, in their order.

        Windows without a valid pixel are left out. The answer has a row for each window of the
        batch, and may have more: those of zeros that fill it.
        """
        for batch, wait in self._begun(windows):
            with self.account.time("model"):
                answers = wait()
            yield batch, answers
            self._tell(len(batch.windows))

    def _begun(self, windows: Iterable[Window]) -> Iterator[tuple[Batch, Wait]]:
        """Begin with batches; yield each as soon as enough behind it are begun with."""
        runtime, begun = self.predictor.runtime, deque[tuple[Batch, Wait]]()
        for batch in self._read_ahead(windows):
            with self.account.time("model"):
                begun.append((batch, begin(runtime, batch.pixels)))
            if len(begun) > batches_in_flight(runtime):
                yield begun.popleft()
        yield from begun

    def _model_rows(self, area: Window, scene_valid: MaskRows) -> Iterator[Rows]:
        """Yield rows of the model's grid; the masks under them are in ``scene_valid`` by then."""
        mosaic = Mosaic(self.grid, area, num_classes=self.num_classes)
        for batch, scores in self.batches(self.grid.windows_over(area)):
            shares = zip(batch.windows, scores, batch.valid, batch.scene_valid, strict=False)
            for window, share, valid, masks in shares:
                yield from mosaic.rows_above(window.row_off)
                with self.account.time("blend"):
                    mosaic.add(window, share[:, : window.height, : window.width], valid)
                    for mask in masks:
                        scene_valid.add(mask)
        yield from mosaic.rows_above(area.bottom)

    def _resampled_rows(self, block: Window) -> Iterator[Rows]:
        resampler, scene_valid = RowResampler(*self._filters(block)), MaskRows()
        for rows in self._model_rows(self.area_of(block), scene_valid):
            for top, scores in resampler.add(rows.scores):
                window = Window(
                    col_off=block.col_off, row_off=top, width=block.width, height=scores.shape[1]
                )
                yield Rows(window, scores, scene_valid.take(window))

    def _filters(self, block: Window) -> tuple[AxisFilter, AxisFilter]:
        """Return the filters from the model's grid to the rows and the columns of a block."""
        view, scene = self.view, self.view.scene
        rows = triangle_filter(block.row_off, block.bottom, source=view.height, target=scene.height)
        cols = triangle_filter(block.col_off, block.right, source=view.width, target=scene.width)
        return rows, cols

    def _read_ahead(self, windows: Iterable[Window]) -> Iterator[Batch]:
        """Read windows in threads, a few batches ahead of the model, and keep their order."""
        waiting = iter(windows)
        pending: list[tuple[Window, _Read]] = []
        queue: deque[tuple[Window, Future[Any]]] = deque()
        try:
            while True:
                missing = self.batch_size * _BATCHES_AHEAD - len(queue)
                queue.extend(
                    (window, self.readers.submit(self.view.read_with_masks, window))
                    for window in islice(waiting, missing)
                )
                if not queue:
                    break
                window, future = queue.popleft()
                with self.account.time("read"):
                    read = self._result_of(future, window)
                self.account.windows += 1
                if read is None or not read[1].any():
                    self.account.windows_skipped += 1
                    self._tell(1)
                    continue
                pending.append((window, read))
                if len(pending) == self.batch_size:
                    yield self._batch(pending)
                    pending = []
            if pending:
                yield self._batch(pending)
        finally:
            for _, future in queue:
                future.cancel()

    def _result_of(self, future: Future[_Read], window: Window) -> _Read | None:
        """Return what was read of a window; None where it could not be, and that is allowed."""
        try:
            return future.result()
        except SceneError:
            if not self.skips_unreadable:
                raise
        self.account.unreadable.append(astuple(self.source.on_scene(window)))
        return None

    def _tell(self, windows: int) -> None:
        """Tell the windows, and the scene's megapixels that they bring a second."""
        share = self.view.scene.width * self.view.scene.height / self.view.width / self.view.height
        new_pixels = (self.grid.size - self.grid.overlap) ** 2 * share
        rate = self.account.windows * new_pixels / 1e6 / self.account.elapsed_s
        self.progress.advance(windows, **{"Mpx/s": rate})

    def _batch(self, pending: list[tuple[Window, _Read]]) -> Batch:
        windows, read = zip(*pending, strict=True)
        values, valid, scene_valid = zip(*read, strict=True)
        size = self.grid.size
        pixels = np.zeros((self.batch_size, len(values[0]), size, size), dtype=values[0].dtype)
        for place, of_window in zip(pixels, values, strict=False):
            place[:] = pad_by_reflection(of_window, size)
        return Batch(list(windows), pixels, list(valid), list(scene_valid))


@contextmanager
def inference_over(
    source: SceneInput,
    predictor: Predictor,
    tiling: Tiling,
    progress: Progress,
    *,
    skips_unreadable: bool = False,
) -> Iterator[BlockInference]:
    """Set up the shared loop for a scene: windows and overlap of the card unless told.

    Its reading threads end with the ``with`` block: close the scene after it.
    """
    size, overlap = tiling_of(predictor.card, tiling)
    grid = WindowGrid(
        width=source.view.width, height=source.view.height, size=size, overlap=overlap
    )
    # A scene of few windows is not worth a full batch of zeros.
    windows = len(grid.col_offs) * len(grid.row_offs)
    batch_size = min(tiling.batch_size or default_batch_size(predictor.device), windows)
    if predictor.device == "cpu":
        check_batch(batch_size, size=size, bands=source.view.scene.num_bands)
    readers = ThreadPoolExecutor(readers_for(predictor.device), thread_name_prefix="reader")
    try:
        yield BlockInference(
            source=source,
            predictor=predictor,
            grid=grid,
            batch_size=batch_size,
            readers=readers,
            account=Account(),
            progress=progress,
            skips_unreadable=skips_unreadable,
        )
    finally:
        # What a failed run wanted next is no longer read.
        readers.shutdown(cancel_futures=True)


def readers_for(device: str) -> int:
    """Return the threads that read windows: a GPU wants them faster than two can decode them."""
    return _READERS if device == "cpu" else max(_READERS, min(_READERS_FOR_GPU, count_cores()))


def default_batch_size(device: str) -> int:
    """Return the windows of one pass: many keep a GPU busy; on a CPU over two only cost memory.

    What a GPU has no room for, the runtime passes in parts.
    """
    return 2 if device == "cpu" else 16


def tiling_of(card: Card, tiling: Tiling) -> tuple[int, int]:
    """Return window and overlap in pixels: the card's, unless told.

    Raises:
        LemevitError: if the window is too large to be looked at, or the overlap leaves hardly a
            step.
    """
    size = tiling.window or card.window
    overlap = card.overlap if tiling.overlap is None else tiling.overlap
    if size > _LARGEST_WINDOW:
        raise LemevitError(
            f"--window {size:,}: a window is in memory as a whole; use at most {_LARGEST_WINDOW:,}"
        )
    if overlap > _LARGEST_OVERLAP * size:
        raise LemevitError(
            f"--overlap {overlap:,}: windows of {size} may share {_LARGEST_OVERLAP * size:.0f} "
            "pixels at most, where each pixel is seen 16 times"
        )
    return size, overlap


def pad_by_reflection(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Grow ``(bands, H, W)`` to ``size`` on the right and below, as a mirror would."""
    _, height, width = pixels.shape
    if (height, width) == (size, size):
        return pixels
    return np.pad(pixels, ((0, 0), (0, size - height), (0, size - width)), mode="reflect")


def class_ids(rows: Rows, nodata: int) -> NDArray[np.uint8]:
    """Return the best class of every pixel ``(H, W)``, ``nodata`` where nothing is valid."""
    ids = best_classes(rows.scores)
    ids[~rows.valid] = nodata
    return ids


def best_classes(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the class of the highest score ``(H, W)`` uint8, the first of equals.

    As ``argmax(0)`` of scores ``(classes, H, W)`` in a tenth of its time: class by class, memory is
    read in order.
    """
    best = scores[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for class_id, candidate in enumerate(scores[1:], start=1):
        # A later class has the larger id: arithmetic, which is faster than a choice.
        np.maximum(ids, (candidate > best).view(np.uint8) * np.uint8(class_id), out=ids)
        np.maximum(best, candidate, out=best)
    return ids


def masked_scores(rows: Rows) -> NDArray[np.float32]:
    """Return scores ``(classes, H, W)`` with NaN where nothing is valid."""
    return np.where(rows.valid, rows.scores, np.float32(np.nan))
