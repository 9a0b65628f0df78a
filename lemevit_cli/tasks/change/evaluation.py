"""Change weights scored on labelled pairs, used as ``lemevit change`` uses them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.inference.mosaic import Rows
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import inference_over
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import ClassMatch
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.settings import ChangeOptions, ReadingOptions, Tiling
from lemevit_cli.tasks.change.datasets.folders import PairFolderSource, open_pair_folder
from lemevit_cli.tasks.change.figures import match_changes
from lemevit_cli.tasks.change.inference import decided
from lemevit_cli.tasks.change.pair_input import pair_input
from lemevit_cli.tasks.change.tally import ChangeTally
from lemevit_cli.tasks.evaluation import Evaluation
from lemevit_cli.training.datasets.source import Site, Source, count_pictures, joined_areas


def open_changes_to_score(data: str, split: str, card: Card) -> PairFolderSource:
    """Open a split of a folder that weights shall be scored on.

    Raises:
        DataError: if it cannot be opened.
    """
    return open_pair_folder(data, split)


def evaluate_changes(
    predictor: Predictor,
    source: Source,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a source of pairs.

    Pairs go through the road of ``change``: windows and overlap of the card over the whole grid,
    blended, and its usual threshold. Where truth or weights know one kind of change and the other
    several, all kinds are one.

    Returns:
        The figures of :class:`ChangeTally` over all areas, and how many ``pictures``. Batches are
        of whole pairs predicted and cut afterwards, where the authors of BIT predict the windows.

    Raises:
        SceneError: if a pair cannot be read as the weights ask.
    """
    progress = progress or Silent()
    match = match_changes(predictor.card.class_names, source.classes)
    tally = ChangeTally(match.classes)
    areas = joined_areas(source.sites)
    progress.start(f"{source.name}/{source.split}", total=len(areas), unit="areas")
    try:
        for dates, sites in groupby(areas, key=lambda site: site.dates):
            with open_pair(*dates) as pair:
                # Silent: what change says of one pair would drown the progress over all.
                seen = pair_input(pair, predictor.card, ReadingOptions(), Silent())
                tiling = Tiling(batch_size=batch_size)
                with inference_over(seen, predictor, tiling, Silent()) as inference:
                    for site in sites:
                        with tally.over(site.area) as add:
                            for rows in inference.rows(site.area):
                                add(rows.window, *_compared(source, site, rows, match))
                        progress.advance()
    finally:
        progress.finish()
    return {**tally.figures(), "pictures": count_pictures(areas)}


def _compared(
    source: Source, site: Site, rows: Rows, match: ClassMatch
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return class ids ``(H, W)`` of truth and prediction, as both can be judged."""
    truth = source.read_truth(site, rows.window)
    found, _ = decided(rows, ChangeOptions.threshold)
    truth[found == NODATA_CLASS] = NODATA_CLASS  # no pixel, nothing to be right about
    return match.truth(truth), match.prediction(found)


EVALUATION = Evaluation(open_changes_to_score, evaluate_changes)
