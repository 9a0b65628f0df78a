"""geoai: `predict_geotiff`, which takes any module, its own blending weights and defaults."""

from __future__ import annotations

import numpy as np
import torch
from geoai.inference import predict_geotiff
from job import Job, run_job


def as_it_is(window: np.ndarray) -> np.ndarray:
    """Keep the scene's values; without a function geoai divides them by 255."""
    return window


def class_ids(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.argmax(0).astype(np.uint8)


def classify(job: Job) -> None:
    predict_geotiff(
        torch.jit.load(job.probabilities),
        job.scene,
        job.result,
        tile_size=job.window,
        overlap=job.overlap,
        batch_size=job.batch,
        num_classes=job.classes,
        output_dtype="uint8",
        output_nodata=255,
        preprocess_fn=as_it_is,
        postprocess_fn=class_ids,
        device="cpu",
        verbose=False,
    )


if __name__ == "__main__":
    run_job(classify)
