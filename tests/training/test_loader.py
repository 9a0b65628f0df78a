import importlib
import multiprocessing
import re
import signal
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import Dataset, StackDataset

from lemevit_cli.errors import DataError
from lemevit_cli.training.loader import load_batches
from lemevit_cli.training.samples import StepBatches

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_from_the_step_that_is_asked_for(workers):
    samples = StackDataset(number=torch.arange(40))
    order = StepBatches(batch_size=2, first_step=3, rank=1, num_processes=2)
    with closing(load_batches(samples, order, workers=workers, device=CPU)) as batches:
        found = [batch["number"].tolist() for batch in islice(batches, 4)]
        assert len(multiprocessing.active_children()) == workers
        assert not any(
            isinstance(child, multiprocessing.get_context("fork").Process)
            for child in multiprocessing.active_children()
        )
    assert found == [[14, 15], [18, 19], [22, 23], [26, 27]]
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_signal_to_the_group_does_not_reach_workers_even_while_they_start():
    samples = StackDataset(number=torch.arange(40))
    batches = load_batches(samples, StepBatches(batch_size=2), workers=1, device=CPU)
    with closing(batches):
        next(batches)
        (worker,) = multiprocessing.active_children()
        status = Path(f"/proc/{worker.pid}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], base=16)  # as the fork server has it
    for number in (signal.SIGINT, signal.SIGTERM):
        assert blocked >> (number - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Broken(Dataset):
    """Raises as a worker process does: with its traceback as text."""

    def __getitem__(self, index):
        try:
            raise DataError("scene.tif: half a file; copy it again")
        except DataError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()


def test_what_a_worker_says_is_one_line():
    with pytest.raises(DataError) as raised:
        next(load_batches(Broken(), StepBatches(batch_size=1), workers=0, device=CPU))
    assert str(raised.value) == "scene.tif: half a file; copy it again"


def test_no_worker_outlives_what_it_could_not_read(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    samples = importlib.import_module("broken_samples").HalfBroken()
    batches = load_batches(samples, StepBatches(batch_size=2), workers=1, device=CPU)
    with pytest.raises(DataError) as raised:
        list(batches)
    assert str(raised.value) == "scene.tif: half a file; copy it again"
    assert multiprocessing.active_children() == []  # the program's end would wait for them
