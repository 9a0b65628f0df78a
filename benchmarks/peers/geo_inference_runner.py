"""geo-inference: `GeoInference`, which takes TorchScript and shares half a window, always."""

from __future__ import annotations

from pathlib import Path

from geo_inference.geo_inference import GeoInference
from job import Job, run_job


def classify(job: Job) -> None:
    infer = GeoInference(
        model=job.probabilities, work_dir=job.scratch, device="cpu", num_classes=job.classes
    )
    infer(inference_input=job.scene, patch_size=job.window)
    (result,) = Path(job.scratch).glob("*_mask_*.tif")  # it draws the name
    result.replace(job.result)


if __name__ == "__main__":
    run_job(classify)
