"""Dask workers as processes of this machine: started, started again when they end, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemevit_cli.atomic import temporary_folder

_LONELY_S = 60  # a worker whose scheduler does not answer ends by itself
_ENDS_BY_PLACE = 3  # processes that may end, each in its place, without a block done in between


class LocalWorkers:
    """Processes in places: where one ends, another follows, unless too many end in vain.

    Args:
        scheduler: address.
        count: of places.
        folder: for what the processes say, and for their own files.
    """

    def __init__(self, scheduler: str, count: int, folder: Path) -> None:
        self._scheduler, self._folder = scheduler, folder
        self._processes = [self._start(place) for place in range(count)]
        self._ends_in_vain = 0
        self._last_end = ""

    def revive(self) -> bool:
        """Start anew what has ended; return False if no process is left and none will be."""
        for place, process in enumerate(self._processes):
            if process.poll() is None or self._is_hopeless:
                continue
            self._ends_in_vain += 1
            self._last_end = self._describe_end(place)
            if not self._is_hopeless:
                self._processes[place] = self._start(place)
        return any(process.poll() is None for process in self._processes)

    def succeed(self) -> None:
        """Take note that a block was done: processes that ended before it ended for a purpose."""
        self._ends_in_vain = 0

    def describe(self) -> str:
        """Say how many processes have ended in vain, and how the last of them did."""
        return f"{self._ends_in_vain} processes have ended one after the other ({self._last_end})"

    def stop(self) -> None:
        """End all: whatever they are at is of no use any more."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    @property
    def _is_hopeless(self) -> bool:
        return self._ends_in_vain > _ENDS_BY_PLACE * len(self._processes)

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self._scheduler]
        command += ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "0"]
        command += ["--death-timeout", str(_LONELY_S), "--local-directory", str(self._folder)]
        with self._log(place).open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"DASK_LOGGING__DISTRIBUTED": "error"},
                start_new_session=True,  # Ctrl-C is for the command, which ends them
            )

    def _log(self, place: int) -> Path:
        return self._folder / f"{place}.log"

    def _describe_end(self, place: int) -> str:
        lines = self._log(place).read_text(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        status = self._processes[place].returncode
        end = f"exit status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        return f"the last {end}: {words}" if words else f"the last {end}"


@contextmanager
def local_workers(scheduler: str, count: int) -> Iterator[LocalWorkers]:
    """Yield workers of this machine; they end with the block."""
    with temporary_folder() as folder:
        workers = LocalWorkers(scheduler, count, folder)
        try:
            yield workers
        finally:
            workers.stop()
