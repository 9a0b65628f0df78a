"""lemevit over the same TorchScript: all that `lemevit predict` does but the command itself."""

from __future__ import annotations

import torch
from job import Job, run_job

from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions, Tiling
from lemevit_cli.tasks.segmentation.inference import Segmentation


def classify(job: Job) -> None:
    names = [f"class {number}" for number in range(job.classes)]
    card = Card(task="seg", backbone="-", classes=classes_from_names(names))
    options = RuntimeOptions(precision="fp32")
    runtime = TorchRuntime(torch.jit.load(job.probabilities), torch.Tensor.float, options)
    predictor = Predictor("TorchScript", "0", card, runtime, "cpu")
    settings = InferenceSettings(
        tiling=Tiling(window=job.window, overlap=job.overlap, batch_size=job.batch),
        runtime=options,
        output=OutputOptions(overwrite=True),
    )
    task = Segmentation(card, settings, Silent())
    infer_scenes(task, [job.scene], [job.result], lambda: predictor)


if __name__ == "__main__":
    run_job(classify)
