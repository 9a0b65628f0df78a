import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial

import dask.config
import numpy as np
import pytest
import rasterio
from distributed import Client, LocalCluster

from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.inference import parts
from lemevit_cli.inference.journal import folder_of
from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.models.weights import open_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import (
    ClusterOptions,
    InferenceSettings,
    Recovery,
    RuntimeOptions,
    Tiling,
)
from lemevit_cli.tasks.segmentation.inference import Segmentation
from lemevit_cli.tasks.segmentation.network import NETWORK

RUNTIME = RuntimeOptions(device="cpu", threads=1)


@pytest.fixture(scope="module")
def address():
    """Return the address of a scheduler with two workers."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture
def infer(tiny_weights, write_scene, tmp_path):
    """Return a function that predicts a scene of 12 blocks, and gives the record."""
    opened = open_weights(tiny_weights)
    values = np.random.default_rng(0).integers(1, 256, (3, 96, 128), dtype=np.uint8)
    scene = write_scene(values)

    def run(target, make=Segmentation, *, progress=None, **settings):
        settings = {"tiling": Tiling(block_size=32), "runtime": RUNTIME} | settings
        task = make(opened.card, InferenceSettings(**settings), progress or Silent())
        load = partial(load_predictor, opened, NETWORK, RUNTIME)
        return infer_scenes(task, [scene], [str(tmp_path / target)], load).results[0]

    return run


def assert_same(path, other):
    assert path.read_bytes() == other.read_bytes()


def ids_of(path):
    with rasterio.open(path) as result:
        return result.read(1)


def workers_of(address):
    with Client(address) as client:
        return client.run(os.getpid)


def test_workers_give_what_one_process_does(infer, address, tmp_path):
    whole = infer("whole.tif")
    record = infer("out.tif", cluster=ClusterOptions(scheduler=address))
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")
    assert record["windows"] == whole["windows"]
    for name, figures in whole["classes"].items():  # areas are summed as blocks come
        assert record["classes"][name] == pytest.approx(figures, rel=1e-12)
    assert not list(tmp_path.glob(".*"))


def test_workers_that_do_not_see_the_folder_send_their_parts(infer, address, tmp_path, monkeypatch):
    infer("whole.tif")
    monkeypatch.setattr("lemevit_cli.inference.parts.Path.resolve", lambda path: "/nowhere/at/all")
    infer("out.tif", cluster=ClusterOptions(scheduler=address))
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")


@dataclass(frozen=True)
class Slow(Segmentation):
    """Takes its time, so that a worker can be met at work."""

    def infer(self, run, block):
        time.sleep(0.3)
        yield from super().infer(run, block)


def test_a_worker_that_is_killed_costs_its_block_alone(infer, address, tmp_path):
    infer("whole.tif")
    folder, before = folder_of(str(tmp_path / "out.tif")), workers_of(address)

    def kill():
        while len(list(folder.glob("*.part"))) < 2:
            time.sleep(0.01)
        os.kill(next(iter(before.values())), signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    infer("out.tif", Slow, cluster=ClusterOptions(scheduler=address))
    killing.join()
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")
    assert workers_of(address) != before


@dataclass(frozen=True)
class Poisoned(Segmentation):
    """Ends whoever works on one of the blocks, but for one process."""

    spared: int

    def infer(self, run, block):
        if (block.col_off, block.row_off) == (64, 32) and os.getpid() != self.spared:
            os._exit(1)
        yield from super().infer(run, block)


@pytest.mark.parametrize("on_error", ["fail", "nodata"])
def test_a_block_that_ends_its_workers_is_named(infer, address, tmp_path, on_error):
    infer("whole.tif")
    run = partial(
        infer,
        "out.tif",
        partial(Poisoned, spared=os.getpid()),
        cluster=ClusterOptions(scheduler=address),
        recovery=Recovery(on_error=on_error),
    )
    if on_error == "fail":
        with pytest.raises(SceneError, match=r"32 x 32 pixels from column 64, row 32 has ended"):
            run()
        assert list(folder_of(str(tmp_path / "out.tif")).glob("*.part"))
        return
    assert run()["unreadable"]
    ids, expected = (ids_of(tmp_path / name) for name in ("out.tif", "whole.tif"))
    assert (ids[32:64, 64:96] == 255).all()
    expected[32:64, 64:96] = 255
    np.testing.assert_array_equal(ids, expected)


def test_what_is_kept_is_not_asked_of_workers(infer, address, tmp_path):
    infer("whole.tif")

    class Ending(Silent):
        left = 5

        def advance(self, count=1, **figures):
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer("out.tif", progress=Ending())
    kept = len(list(folder_of(str(tmp_path / "out.tif")).glob("*.part")))
    record = infer("out.tif", cluster=ClusterOptions(scheduler=address))
    assert 0 < kept == record["blocks_kept"] < 12
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")


def test_processes_of_this_machine_are_started_and_ended(infer, tmp_path):
    infer("whole.tif")
    infer("out.tif", cluster=ClusterOptions(workers=1))
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")


def test_no_scheduler_and_no_library_are_one_line(infer, monkeypatch):
    monkeypatch.setattr("lemevit_cli.inference.cluster._PATIENCE_S", 0.2)
    with pytest.raises(LemevitError, match=r"tcp://127.0.0.1:9: nobody answers there"):
        infer("out.tif", cluster=ClusterOptions(scheduler="tcp://127.0.0.1:9"))

    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(parts, "import_module", refuse)
    with pytest.raises(LemevitError, match=r"pip install 'lemevit\[dask\]'"):
        infer("out.tif", cluster=ClusterOptions(workers=2))
