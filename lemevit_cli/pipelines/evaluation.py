"""``lemevit eval``: weights scored on labelled pictures, predicted as ``predict`` does it."""

from __future__ import annotations

from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import find_weights, read_card
from lemevit_cli.pipelines.block_inference import class_ids
from lemevit_cli.pipelines.prediction import inference_over
from lemevit_cli.pipelines.predictor import Predictor, load_predictor
from lemevit_cli.pipelines.progress import Progress, Silent
from lemevit_cli.pipelines.scene_input import scene_input
from lemevit_cli.scenes.scene import open_scene
from lemevit_cli.settings import ReadingOptions, RuntimeOptions, Tiling
from lemevit_cli.tasks.confusion import ClassMatch, Confusion, match_classes
from lemevit_cli.training.datasets.folders import (
    FolderSource,
    Picture,
    PictureReader,
    count_classes,
    open_folder,
)


def evaluate(
    weights: str,
    data: str,
    *,
    split: str = "val",
    runtime: RuntimeOptions | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a split of a folder, pooled over all its pixels.

    Pictures go through the road of ``predict``: windows and overlap of the card, blended. Classes
    are matched by name; see :func:`lemevit_cli.tasks.segmentation.match_classes`.

    Returns:
        ``miou``, ``accuracy``, ``classes.<name>.{iou,f1,precision,recall}`` in [0, 1] (None where
        a class occurs in neither truth nor prediction), ``pictures`` and scored ``pixels``.

    Raises:
        WeightsError, DataError: before any prediction.
    """
    progress = progress or Silent()
    card = read_card(find_weights(weights))
    if card.task != "seg":
        raise WeightsError(f"{weights}: weights for task {card.task}; eval scores those for seg")
    source = open_folder(data, split)
    match = match_classes(card.class_names, source.classes)
    reader = PictureReader()
    count_classes(source, reader)  # for its checks
    predictor = load_predictor(weights, "seg", runtime or RuntimeOptions())
    confusion = Confusion(match.classes)
    progress.start(f"{source.name}/{split}", total=len(source.pictures), unit="pictures")
    try:
        for picture in source.pictures:
            _score_picture(source, picture, reader, predictor, batch_size, match, confusion)
            progress.advance()
    finally:
        progress.finish()
    return {
        **confusion.figures(),
        "pictures": len(source.pictures),
        "pixels": int(confusion.counts.sum()),
    }


def _score_picture(
    source: FolderSource,
    picture: Picture,
    reader: PictureReader,
    predictor: Predictor,
    batch_size: int | None,
    match: ClassMatch,
    confusion: Confusion,
) -> None:
    whole = Window(col_off=0, row_off=0, width=picture.width, height=picture.height)
    with open_scene(str(picture.image)) as scene:
        # Silent: what predict says of one scene would drown the progress over all pictures.
        view = scene_input(scene, predictor.card, ReadingOptions(), Silent())
        inference = inference_over(view, predictor, Tiling(batch_size=batch_size), Silent())
        for rows in inference.rows(whole):
            truth = reader.read_truth(source, picture, rows.window)
            found = class_ids(rows, NODATA_CLASS)
            truth[found == NODATA_CLASS] = NODATA_CLASS  # no pixel, nothing to be right about
            confusion.add(match.truth(truth), match.prediction(found))
