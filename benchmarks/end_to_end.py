"""What everything around the model costs, beside the model alone, in one process.

    python benchmarks/end_to_end.py [--task predict] [--size 4096] [--runtime openvino] [--json]
    python benchmarks/end_to_end.py --device cuda

A simulated town is written first, and the weights are loaded once. Then two runs take turns. One is
all that the command does from there on: open the scene, read, model, blend or merge, write. The
other gives the same windows in the same batches to the same runtime, and adds up the time that
this takes alone: each batch is read before the clock starts, and its answers are thrown away. The
ratio is the median of those of the turns, so that what else the machine does, which falls on both
of a turn, falls out. Aims: predict 1.05, detect and change 1.10; with OpenVINO 1.15.

On a GPU the model alone is that on batches which lie in its memory already, and whose scores stay
there: ``throughput`` is the share of the model's windows a second that the command reaches. Aim:
0.70.

Beside it stand the seconds by phase of the last run: where the rest goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import inference_over, pad_by_reflection
from lemevit_cli.inference.scenes import SceneTask, infer_scenes, prepare_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions, Tiling
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import TASKS, load_network
from lemevit_cli.tasks.change.inference import Change
from lemevit_cli.tasks.detection.inference import Detection
from lemevit_cli.tasks.segmentation.inference import Segmentation

# By command: the task, and the result that is written.
COMMANDS = {
    "predict": ("seg", "landcover.tif"),
    "detect": ("det", "boxes.shp"),
    "change": ("change", "changes.shp"),
}


def task_of(args: argparse.Namespace, folder: Path, settings: InferenceSettings) -> Any:
    """Make the task of a command, its target, and its predictor."""
    name, result = COMMANDS[args.task]
    target = str(folder / result)
    weights = args.weights or TASKS[name].starter
    card, load = prepare_weights(load_network(name), weights, settings, Silent())
    if name == "change":
        after = str(folder / "after.tif")
        before = str(folder / "before.tif")
        return Change(card, settings, Silent(), before, after, (target,)), target, load()
    kind = {"seg": Segmentation, "det": Detection}[name]
    return kind(card, settings, Silent()), target, load()


@contextmanager
def batches_of(task: SceneTask, scene: str, predictor: Predictor) -> Iterator[Iterator[Any]]:
    """Open a scene as its command does; yield the batches of its windows."""
    with (
        task.open(scene) as source,
        inference_over(source, predictor, task.settings.tiling, Silent()) as run,
    ):

        def read() -> Iterator[Any]:
            found = map(run.view.read, run.grid.windows_over(run.area_of(source.area)))
            seen = (pad_by_reflection(pixels, run.grid.size) for pixels, ok in found if ok.any())
            while batch := list(islice(seen, run.batch_size)):
                filling = [np.zeros_like(batch[0])] * (run.batch_size - len(batch))
                yield np.stack([*batch, *filling])

        yield read()


def time_model(task: SceneTask, scene: str, predictor: Predictor) -> float:
    """Return seconds of the runtime alone, on the batches that the command gives it."""
    seconds = 0.0
    with batches_of(task, scene, predictor) as batches:
        for batch in batches:
            answer = on_gpu(predictor, batch) if is_gpu(predictor) else predictor.runtime
            start = time.perf_counter()
            answer(batch)
            seconds += time.perf_counter() - start
    return seconds


def is_gpu(predictor: Predictor) -> bool:
    """Tell whether a GPU computes."""
    return predictor.device.startswith("cuda")


def on_gpu(predictor: Predictor, batch: np.ndarray) -> Callable[[Any], None]:
    """Bring a batch to the GPU; return what runs the model on it and waits for that."""
    import torch

    from lemevit_cli.inference.runtimes.torch import as_torch_dtype

    runtime: Any = predictor.runtime
    there = torch.from_numpy(as_torch_dtype(batch)).to(predictor.device)
    torch.cuda.synchronize()

    def answer(_: Any) -> None:
        runtime.outputs_of(there)
        torch.cuda.synchronize()

    return answer


def time_command(run: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """Return seconds of all that the command does, and those that it reports by phase."""
    start = time.perf_counter()
    report = run()
    return time.perf_counter() - start, report.results[0]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=COMMANDS, default="predict")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", help="a starter's name or a file; default: the task's starter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = InferenceSettings(
        runtime=RuntimeOptions(
            device=args.device,
            precision=args.precision,
            threads=args.threads,
            runtime=args.runtime,
        ),
        tiling=Tiling(batch_size=args.batch_size),
        output=OutputOptions(overwrite=True),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_pair(folder, size=args.size, seed=3)
        task, target, predictor = task_of(args, folder, settings)
        scene = str(folder / "before.tif")
        with batches_of(task, scene, predictor) as batches:
            predictor.runtime(next(batches))  # what is built at the first call
        turns = []
        for _ in range(args.repeats):
            alone = time_model(task, scene, predictor)
            whole, phases = time_command(
                lambda: infer_scenes(task, [scene], [target], lambda: predictor)
            )
            turns.append((whole, alone))
    ratio = statistics.median(whole / alone for whole, alone in turns)
    found = {
        "task": args.task,
        "size": args.size,
        "runtime": f"{predictor.version}, {predictor.arithmetic}, {predictor.threads} threads",
        "whole_s": [round(whole, 3) for whole, _ in turns],
        "model_s": [round(alone, 3) for _, alone in turns],
        "ratio": round(ratio, 3),
        "throughput": round(1 / ratio, 3),
        "phases_of_last": phases,
    }
    if args.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:16}{value}")


if __name__ == "__main__":
    main()
