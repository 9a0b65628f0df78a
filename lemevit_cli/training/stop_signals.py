"""SIGTERM, SIGHUP and Ctrl-C during a training, in one process or in several."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from accelerate import Accelerator


@dataclass
class Stop:
    """The signal that asked this process to end, None so far."""

    signal: signal.Signals | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note signals to end instead of dying of them, so that a checkpoint can be written.

    A second Ctrl-C acts at once.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python takes signals in the main thread alone
        return

    def note(number: int, frame: object) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    hang_up = getattr(signal, "SIGHUP", None)  # none on Windows; ignored under nohup
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        numbers.append(hang_up)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed_signal(stop: Stop, accelerator: Accelerator) -> signal.Signals | None:
    """Return the signal that any process has got: all of them save and leave together."""
    number = torch.tensor([stop.signal or 0], device=accelerator.device)
    highest = int(accelerator.gather(number).max())
    return signal.Signals(highest) if highest else None


def leave(number: signal.Signals) -> NoReturn:
    """End as the signal would have ended the program."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
