import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path

import fsspec.implementations.local
import numpy as np
import psutil
import pytest
from making.clusters import start_cluster
from making.collector import Collector
from making.copying import NODATA, Copying, attempts_of, load
from making.interruption import Interrupting

from lemevit_cli.errors import LemevitError, OutputError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference import cluster as clusters
from lemevit_cli.inference import parts
from lemevit_cli.inference.journal import Journal, folder_of
from lemevit_cli.inference.parts import Order
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.inference.worker import UNKNOWN, Recipe, infer_block
from lemevit_cli.progress import Silent
from lemevit_cli.settings import ClusterOptions, InferenceSettings, Recovery, RuntimeOptions

NUM_BLOCKS = 12
RUNTIME = RuntimeOptions(device="cpu", threads=1)
WITHIN_S = 90  # a test that takes longer waits for what does not come


@pytest.fixture(autouse=True)
def ends_in_time():
    """Fail a test that waits without end."""

    def fail(*_):
        pytest.fail(f"nothing came of it within {WITHIN_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(WITHIN_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def processes_find_the_task(monkeypatch):
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


@pytest.fixture(scope="module")
def cluster():
    """Return a cluster of two workers that no test ends."""
    with start_cluster(2) as started:
        yield started


@pytest.fixture
def copy(write_scene, tmp_path):
    """Return a function that copies the scene's first band, and gives the record."""
    values = np.random.default_rng(0).integers(1, 256, (3, 48, 64), dtype=np.uint8)
    scene, attempts = write_scene(values), tmp_path / "attempts"
    attempts.mkdir()

    def run(*, progress=None, on_error="fail", restart=False, to=None, **task):
        settings = InferenceSettings(
            runtime=RUNTIME,
            recovery=Recovery(on_error=on_error, restart=restart),
            cluster=ClusterOptions(**to or {}),
        )
        task = Copying(attempts, settings, progress or Silent(), spared=os.getpid(), **task)
        return infer_scenes(task, [scene], [str(tmp_path / "out.npy")], load).results[0]

    run.values, run.attempts = values[0], attempts
    return run


def at(cluster):
    return {"scheduler": cluster.scheduler_address}


def kept(tmp_path):
    return sorted(folder_of(str(tmp_path / "out.npy")).glob("[0-9]*.part"))


def assert_copied(copy, tmp_path, *, without=()):
    expected = copy.values.copy()
    for number in without:
        row, col = divmod(number, 4)
        expected[row * 16 :, col * 16 :][:16, :16] = NODATA
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert not list(tmp_path.glob(".*"))


class Impatient(Collector):
    """Ends a run as soon as it has been warned of something."""

    def advance(self, count=1, **figures):
        if self.warnings:
            raise KeyboardInterrupt


class Watching(Silent):
    """Does something at every sign of progress."""

    def __init__(self, look):
        self.look = look

    def advance(self, count=1, **figures):
        self.look()


def test_parts_come_in_the_order_of_blocks_and_none_is_done_twice(copy, cluster, tmp_path):
    record = copy(to=at(cluster))
    assert_copied(copy, tmp_path)
    corners = [(window.row_off, window.col_off) for window in record["order"]]
    assert corners == sorted(corners) and record["windows"] == NUM_BLOCKS
    assert sorted(attempts_of(copy.attempts)[0]) == list(range(NUM_BLOCKS))


def test_a_worker_closes_the_scene_when_the_run_ends(copy, cluster, tmp_path, count_handles):
    scene = tmp_path / "scene.tif"
    seen = []
    copy(to=at(cluster), progress=Watching(lambda: seen.append(count_handles(scene))))
    with pytest.raises(KeyboardInterrupt):
        copy(to=at(cluster), progress=Interrupting(5), restart=True)
    while count_handles(scene):  # the limit of every test ends this
        time.sleep(0.05)
    assert max(seen) > 0


def test_workers_have_two_blocks_at_most(copy, cluster, tmp_path):
    seen = []

    def look():
        tasks = [task for task in cluster.scheduler.tasks.values() if "lemevit" in task.key]
        seen.append(sum(task.state == "processing" for task in tasks))

    copy(to=at(cluster), progress=Watching(look), delay_s=0.05)
    assert 2 <= max(seen) <= 4


def test_workers_that_do_not_see_the_folder_send_their_parts(copy, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(Journal, "is_of", lambda *_: False)
    copy(to=at(cluster))
    assert_copied(copy, tmp_path)


def test_workers_that_do_not_see_the_folder_leave_their_parts_in_the_relay(
    copy, cluster, tmp_path, monkeypatch
):
    relay, relayed = tmp_path / "bucket" / "parts", []
    take = fsspec.implementations.local.LocalFileSystem.cat_file

    def taken(files, place, **options):
        relayed.append(Path(place))
        return take(files, place, **options)

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "cat_file", taken)
    monkeypatch.setattr(Journal, "is_of", lambda *_: False)
    copy(to={**at(cluster), "relay": f"file://{relay}"})
    assert_copied(copy, tmp_path)
    assert len(relayed) == NUM_BLOCKS and {path.parents[1] for path in relayed} == {relay}
    assert not list(relay.iterdir())


def test_a_relay_that_is_none_is_one_line(copy, cluster, tmp_path):
    for relay in ("nothing://parts", f"file://{tmp_path / 'scene.tif'}/parts"):
        with pytest.raises(LemevitError, match=f"^--relay {relay}: parts cannot be left") as raised:
            copy(to={**at(cluster), "relay": relay})
        assert "\n" not in str(raised.value)


def test_what_an_earlier_run_has_kept_is_not_asked_of_workers(copy, cluster, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        copy(progress=Interrupting(5))
    *whole, spoiled = kept(tmp_path)
    spoiled.write_bytes(spoiled.read_bytes()[:-40])
    num_kept = len(whole)
    for path in copy.attempts.iterdir():
        path.unlink()
    record = copy(to=at(cluster))
    assert 0 < num_kept == record["blocks_kept"] < NUM_BLOCKS
    assert sorted(attempts_of(copy.attempts)[0]) == list(range(num_kept, NUM_BLOCKS))
    assert_copied(copy, tmp_path)


def test_a_process_that_is_killed_costs_its_blocks_alone(copy, tmp_path):
    killed = []

    def kill():
        if not killed and len(kept(tmp_path)) >= 2:
            victim = next(
                child
                for child in psutil.Process().children()
                if child.pid in attempts_of(copy.attempts)[1]
            )
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    copy(to={"workers": 2}, progress=Watching(kill), delay_s=0.1)
    begun, processes = attempts_of(copy.attempts)
    assert killed and killed[0] in processes
    assert len(begun) <= NUM_BLOCKS + 2 and set(begun) == set(range(NUM_BLOCKS))
    assert_copied(copy, tmp_path)


@pytest.mark.parametrize("on_error", ["fail", "nodata"])
def test_a_block_that_ends_three_processes_is_named(copy, tmp_path, on_error):
    progress, poisoned = Collector(), 6
    run = partial(
        copy,
        to={"workers": 2 if on_error == "fail" else 1},
        on_error=on_error,
        poisoned=(poisoned,),
        progress=progress,
    )
    told = "the block of 16 x 16 from column 32, row 16 has ended 3 workers"
    if on_error == "fail":
        with pytest.raises(SceneError, match=told):
            run()
        assert kept(tmp_path)
        assert any("the same command goes on" in note for note in progress.notes)
        copy()
        assert_copied(copy, tmp_path)
    else:
        assert run()["unreadable"] == [(32, 16, 16, 16)]
        assert any(told in warning for warning in progress.warnings)
        assert_copied(copy, tmp_path, without=[poisoned])
    pids_of_poisoned = {path.name.split(".")[1] for path in copy.attempts.glob(f"{poisoned}.*")} - {
        str(os.getpid())
    }
    assert len(pids_of_poisoned) == 3


def test_processes_that_cannot_begin_are_one_line(copy, tmp_path, monkeypatch):
    (tmp_path / "broken" / "distributed").mkdir(parents=True)
    (tmp_path / "broken" / "distributed" / "__init__.py").write_text(
        "raise ImportError('out of luck')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(LemevitError) as failure:
        copy(to={"workers": 1})
    assert "--workers: no worker is left, 4 processes have ended" in str(failure.value)
    assert "ImportError: out of luck" in str(failure.value) and "\n" not in str(failure.value)
    copy()
    assert_copied(copy, tmp_path)


def test_without_workers_the_command_says_so_until_one_comes_or_it_is_ended(copy, tmp_path):
    with start_cluster(0) as empty:
        impatient = Impatient()
        with pytest.raises(KeyboardInterrupt):
            copy(to=at(empty), progress=impatient)
        assert any("no worker; waiting for one (0 of 12" in told for told in impatient.warnings)
        patient = Collector()
        patient.advance = lambda *_, **__: patient.warnings and empty.scale(1)
        copy(to=at(empty), progress=patient)
    assert len(patient.warnings) == 1
    assert_copied(copy, tmp_path)


def test_a_scheduler_that_goes_away_is_one_line_and_the_parts_stay(copy, cluster, tmp_path):
    with start_cluster(1) as doomed:

        def end():
            if kept(tmp_path):
                doomed.close()

        with pytest.raises(LemevitError, match=r"is lost; \d+ of 12 blocks of .* are kept"):
            copy(to=at(doomed), progress=Watching(end), delay_s=0.1)
    assert 0 < len(kept(tmp_path)) < NUM_BLOCKS
    copy(to=at(cluster))
    assert_copied(copy, tmp_path)


def test_what_a_block_fails_of_on_its_worker_is_told_here(copy, cluster, tmp_path):
    copy.attempts.rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"cannot be kept in .*No such file.*; 0 of 12 blocks"):
        copy(to=at(cluster))


@pytest.fixture
def recipe(copy, tmp_path):
    """Return a recipe whose journal is nowhere, and the fingerprint of this very process."""
    settings = InferenceSettings(runtime=RUNTIME)
    task = Copying(copy.attempts, settings, Silent())
    order = Order(task, str(tmp_path / "scene.tif"), str(tmp_path / "out.npy"), load)
    return Recipe(
        order,
        {"threads": "1", "device": "cpu", "arithmetic": "float32", "lemevit": "0.0"},
        Journal(tmp_path, "out", 12),
        "/",
    )


def test_a_worker_that_would_answer_otherwise_is_refused(recipe):
    block = Window(col_off=0, row_off=0, width=16, height=16)
    assert infer_block("a key", None, 0, block) == UNKNOWN
    with pytest.raises(LemevitError, match=r"otherwise: lemevit is .* there, 0\.0 here"):
        infer_block("a key", pickle.dumps(recipe), 0, block)


def test_no_scheduler_no_library_and_stdin_are_one_line(copy, cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "_ANSWER_S", 0.1)
    with pytest.raises(LemevitError, match=r"tcp://127.0.0.1:9: nobody answers there"):
        copy(to={"scheduler": "tcp://127.0.0.1:9"})

    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(parts, "import_module", refuse)
    with pytest.raises(LemevitError, match=r"pip install 'lemevit\[dask\]'"):
        copy(to={"workers": 2})
