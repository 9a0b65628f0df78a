"""``--dry-run``: what a run would read, cut and need, without a model and without a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lemevit_cli.inference.memory import estimate_mb
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import BlockInference, inference_over
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.models.weights import Weights
from lemevit_cli.raster.scene_pair import ScenePair

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import SceneTask


def planning_predictor(weights: Weights, device: str) -> Predictor:
    """Stand in for weights whose tensors nobody asks for."""

    def refuse(pixels: Any) -> Any:
        raise ValueError("a dry run asks no model")

    own = "cpu" if device == "auto" else device
    return Predictor(weights.name, weights.digest, weights.card, refuse, own)


def describe_run(
    task: SceneTask, source: SceneInput, predictor: Predictor, target: str
) -> dict[str, Any]:
    """Describe the work on a scene, as it is decided before the first window.

    Returns:
        A record fit for JSON; ``line`` is what stands for a file, ``memory_mb`` the estimated peak
        on the processor.
    """
    settings = task.settings
    with inference_over(source, predictor, settings.tiling, task.progress) as run:
        plan = task.plan(run)
        memory_mb = estimate_mb(
            run.batch_size,
            size=run.grid.size,
            bands=run.view.scene.num_bands,
            block_bytes=plan.band_bytes,
        )
        record = {
            "path": ", ".join(task.outputs(target)) or target,
            "scene": source.name,
            "weights": predictor.name,
            "files": list(source.scene.files),
            "bands": list(source.scene.bidx),
            "width": source.area.width,
            "height": source.area.height,
            "gsd_m": source.scene.gsd_m,
            "pixel_size": source.scale.note,
            "stretch": _stretch_of(source),
            "model_width": run.view.width,
            "model_height": run.view.height,
            "window": run.grid.size,
            "overlap": run.grid.overlap,
            "windows": plan.windows,
            "blocks": len(plan.blocks),
            "memory_mb": memory_mb,
        }
    return {**record, "line": _line(record, run), "dry_run": True}


def _stretch_of(source: SceneInput) -> str | None:
    if isinstance(source.scene, ScenePair):
        told = [stretch.describe() if stretch else "none" for stretch in source.scene.stretches]
        return "; ".join(told)
    return source.stretch.describe() if source.stretch else None


def _line(record: dict[str, Any], run: BlockInference) -> str:
    bands = ",".join(map(str, record["bands"]))
    grid = (
        f" on the model's grid of {run.view.width:,} x {run.view.height:,}"
        if run.view.is_resampled
        else ""
    )
    blocks = f" in {record['blocks']:,} blocks" if record["blocks"] > 1 else ""
    return (
        f"{record['path']}\t{record['scene']}: {record['width']:,} x {record['height']:,} pixels, "
        f"bands {bands}; {record['windows']:,} windows of {record['window']}, overlap "
        f"{record['overlap']}{grid}{blocks}; about {record['memory_mb']:,} MB"
    )
