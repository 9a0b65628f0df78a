"""TerraTorch: `tiled_inference` over a tensor; reading and writing are the user's, by rasterio.

`delta` and `padding` are off, so that its windows are those of the others; on by default, they
cut 8 pixels off each window and add a row and a column of windows.
"""

from __future__ import annotations

import rasterio
import torch
from job import Job, run_job
from terratorch.tasks.tiled_inference import tiled_inference


def classify(job: Job) -> None:
    model = torch.jit.load(job.probabilities).eval()
    with rasterio.open(job.scene) as scene:
        pixels, profile = torch.from_numpy(scene.read())[None], scene.profile
    probabilities = tiled_inference(
        model,
        pixels,
        crop=job.window,
        stride=job.window - job.overlap,
        delta=0,
        padding=False,
        batch_size=job.batch,
    )
    profile.update(count=1, nodata=255)
    with rasterio.open(job.result, "w", **profile) as target:
        target.write(probabilities[0].argmax(0).byte().numpy(), 1)


if __name__ == "__main__":
    run_job(classify)
