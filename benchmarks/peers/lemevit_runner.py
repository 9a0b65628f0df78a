"""lemevit over the same TorchScript: what `lemevit predict` does, its process prepared likewise."""

from __future__ import annotations

from collections.abc import Callable

from job import Job, run_job

from lemevit_cli.commands import lifetime


def prepare() -> Callable[[Job], None]:
    """Import what computes, after the process was told how to begin."""
    import torch

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
        model = torch.jit.load(job.probabilities)
        runtime = TorchRuntime(model, lambda scores: scores, options)
        predictor = Predictor("TorchScript", "0", card, runtime, "cpu")
        settings = InferenceSettings(
            tiling=Tiling(window=job.window, overlap=job.overlap, batch_size=job.batch),
            runtime=options,
            output=OutputOptions(overwrite=True),
        )
        task = Segmentation(card, settings, Silent())
        infer_scenes(task, [job.scene], [job.result], lambda: predictor)

    return classify


if __name__ == "__main__":
    lifetime.begin()
    call = prepare()
    lifetime.settle()
    run_job(call)
    lifetime.end(0)
