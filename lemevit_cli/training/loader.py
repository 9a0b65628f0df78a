"""Training batches from worker processes.

Workers import this module, so it must stay light: nothing of timm or Accelerate.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lemevit_cli.errors import LemevitError
from lemevit_cli.training.samples import StepBatches

_OURS = (signal.SIGINT, signal.SIGTERM)


def load_batches(
    samples: Dataset[dict[str, Tensor]],
    order: StepBatches,
    *,
    workers: int,
    device: torch.device,
) -> Generator[dict[str, Tensor]]:
    """Yield batches on a device in an order that has no end; close it to end the workers.

    Raises:
        LemevitError: what a sample raised, in one line, wherever it was read.
    """
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        multiprocessing_context=_start_method() if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=device.type == "cuda",
        # A generator of its own: the loader must not draw from the one that a resume restores.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        for batch in loader:
            yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    except LemevitError as error:
        # What the frames of its traceback hold keeps the workers alive, and the program's end would
        # wait for them for ever: they heed no signal.
        traceback.clear_frames(error.__traceback__)
        raise type(error)(_message(error)) from error


def _start_method() -> BaseContext:
    # Never a plain fork: threads of GDAL and OpenMP may hold locks at that moment, which nobody
    # would ever release in the child.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports this module and its libraries once, for all workers. It never calls them,
    # so it has no threads of theirs when it forks.
    context.set_forkserver_preload([__name__])
    # It inherits what is blocked: Ctrl-C reaches the whole group of processes, and would end it
    # while it imports. (The tracker first: as it starts, it would unblock them again.)
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _start_worker(worker: int) -> None:
    # The training process alone answers signals, wherever they arrive.
    for number in _OURS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the training process is gone; torch watches the fork server, which lives on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _message(error: LemevitError) -> str:
    """Return the message alone: a worker's has its traceback as text in front of it."""
    last = str(error).rstrip().splitlines()[-1]
    prefix = f"{type(error).__module__}.{type(error).__qualname__}: "
    return last.removeprefix(prefix)
