import weakref
from pathlib import Path

import pytest
import torch

from lemevit_cli.errors import OutputError, SceneError, WeightsError
from lemevit_cli.inference.scenes import Report, check_targets, describe_failure, infer_scenes
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks.segmentation.inference import Segmentation


@pytest.fixture
def run_over(write_scene, pixels, predictor):
    """Return a function that works on some scenes, by name, with what works on one of them."""

    def run(names, work, report=None, load=lambda: predictor):
        class Task(Segmentation):
            def check_target(self, target): ...

            def assemble(self, run, parts, target):
                return work(run, target)

        paths = [write_scene(pixels, name) for name in names]
        task = Task(predictor.card, InferenceSettings(), Silent())
        return infer_scenes(task, paths, [f"{name}.out" for name in names], load, report)

    return run


def failing_on(name, error):
    def work(run, target):
        if run.source.scene.path.endswith(name):
            raise error
        return {"path": target}

    return work


NAMES = ["a.tif", "b.tif", "c.tif"]


@pytest.mark.parametrize(
    ("error", "message", "is_bug"),
    [
        (SceneError("its tiles\nare broken"), "its tiles are broken", False),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", False),
        (MemoryError(), "out of memory", False),
        (torch.cuda.OutOfMemoryError("2 GiB"), "out of memory (2 GiB)", False),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", True),
    ],
)
def test_whatever_a_scene_fails_of_the_others_have_their_turn(run_over, error, message, is_bug):
    report = run_over(NAMES, failing_on("b.tif", error))
    assert [result["path"] for result in report.results] == ["a.tif.out", "c.tif.out"]
    ((path, failure),) = report.failures.items()
    assert path.endswith("b.tif")
    assert (failure.message, failure.is_bug) == (message, is_bug)
    assert failure.traceback.startswith("Traceback") and "in work" in failure.traceback


def test_each_outcome_is_told_before_the_next_scene_is_begun(run_over):
    told = []

    def work(run, target):
        told.append(f"begun {target}")
        if target == "b.tif.out":
            raise SceneError("broken")
        return {"path": target}

    run_over(NAMES, work, Report(tell=lambda scene, outcome: told.append(outcome)))
    first, a, second, failure, third, c = told
    assert [first, second, third] == [f"begun {name}.out" for name in NAMES]
    assert (a["path"], failure.message, c["path"]) == ("a.tif.out", "broken", "c.tif.out")


def test_weights_that_do_not_load_end_the_run_at_the_first_scene(run_over, predictor):
    loads = []

    def load():
        loads.append(1)
        raise WeightsError("they do not fit")

    with pytest.raises(WeightsError):
        run_over(NAMES, lambda run, target: {}, load=load)
    assert len(loads) == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, BrokenPipeError])
def test_an_interruption_ends_the_run_at_once(run_over, ending):
    seen = []

    def work(run, target):
        seen.append(target)
        raise ending

    with pytest.raises(ending):
        run_over(NAMES, work)
    assert seen == ["a.tif.out"]


@pytest.mark.parametrize("error", [SceneError("broken"), RuntimeError("a bug")])
def test_a_single_scene_fails_as_it_does_by_itself(run_over, error):
    with pytest.raises(type(error)):
        run_over(NAMES[:1], failing_on("a.tif", error))


def test_a_scene_that_failed_leaves_its_memory_to_the_next(run_over):
    class Band:
        pass

    held = []

    def work(run, target):
        assert all(band() is None for band in held)
        band = Band()
        held.append(weakref.ref(band))
        # As an error that comes out of a future, which the frame that asked for it still holds.
        band.error = RuntimeError("a bug")
        raise band.error

    report = run_over(NAMES, work)
    assert len(held) == 3
    assert {failure.message for failure in report.failures.values()} == {"RuntimeError: a bug"}


def test_torch_out_of_the_machines_memory_is_no_bug():
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(10**13)
    failure = describe_failure(raised.value)
    assert failure.message.startswith("out of memory (") and not failure.is_bug


def test_a_scene_that_is_replaced_on_the_way_gives_no_result(write_scene, pixels, predictor):
    path = write_scene(pixels, "a.tif")

    class Late(Segmentation):
        def assemble(self, run, parts, target):
            with Path(path).open("ab") as file:  # as another program saves it
                file.write(b"\0")
            return {"windows": len([piece for part in parts for piece in part])}

    task = Late(predictor.card, InferenceSettings(), Silent())
    with pytest.raises(SceneError, match=r"a\.tif: was changed or replaced while it was read"):
        infer_scenes(task, [path], [path.replace("a.tif", "o.tif")], lambda: predictor)


def test_no_target_replaces_weights_mask_or_a_later_scene(tmp_path):
    for name in ("a.tif", "b.tif", "m.gpkg", "w.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    path = str(tmp_path) + "/"
    for target in ("b.tif", "m.gpkg", "w.safetensors"):
        reads = (path + "m.gpkg", path + "w.safetensors")
        with pytest.raises(OutputError, match="is an input itself; name another file by -o"):
            check_targets([path + "a.tif", path + "b.tif"], [path + target, path + "c"],
                          reads=reads)  # fmt: skip
