"""Raster Vision: a learner over a sliding window, smooth labels; no weights within a window."""

from __future__ import annotations

from pathlib import Path

import torch
from job import Job, run_job
from rastervision.core.data import ClassConfig, SemanticSegmentationLabels
from rastervision.pytorch_learner import (
    SemanticSegmentationGeoDataConfig,
    SemanticSegmentationLearner,
    SemanticSegmentationLearnerConfig,
    SemanticSegmentationSlidingWindowGeoDataset,
)


def classify(job: Job) -> None:
    names = [f"class {number}" for number in range(job.classes)]
    classes = ClassConfig(names=names, null_class=names[0])  # saving asks for one
    windows = SemanticSegmentationSlidingWindowGeoDataset.from_uris(
        class_config=classes,
        image_uri=job.scene,
        size=job.window,
        stride=job.window - job.overlap,
        normalize=False,
    )
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(
            data=SemanticSegmentationGeoDataConfig(class_config=classes, num_workers=0)
        ),
        model=torch.jit.load(job.logits),
        training=False,
    )
    labels = SemanticSegmentationLabels.from_predictions(
        windows.windows,
        learner.predict_dataset(
            windows, numpy_out=True, dataloader_kw={"batch_size": job.batch}, progress_bar=False
        ),
        smooth=True,
        extent=windows.scene.extent,
        num_classes=job.classes,
    )
    crs_transformer = windows.scene.raster_source.crs_transformer
    labels.save(job.scratch, crs_transformer, classes, smooth_output=False)
    (Path(job.scratch) / "labels.tif").replace(job.result)


if __name__ == "__main__":
    run_job(classify)
