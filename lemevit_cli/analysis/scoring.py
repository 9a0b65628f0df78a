"""``lemevit score``: a result compared with the truth, whatever grid either lies on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lemevit_cli.atomic import check_replaceable
from lemevit_cli.errors import DataError
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.source import STDIN
from lemevit_cli.tasks import load_scorings
from lemevit_cli.tasks.scoring import POLYGONS, RASTER, ScoreOptions, Scoring
from lemevit_cli.vector.scene_polygons import is_vector


def score(
    prediction: str,
    truth: str,
    options: ScoreOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare two results; what is compared, and how, follows from what the files hold.

    Returns:
        ``prediction``, ``truth``, the figures of the task's ``SCORING``, and ``seconds``.

    Raises:
        LemevitError: if they cannot be read or compared; before any counting.
    """
    started = time.perf_counter()
    options, progress = options or ScoreOptions(), progress or Silent()
    if options.picture is not None:
        check_inputs_kept([options.picture], [prediction, truth])
        check_replaceable(options.picture, overwrite=options.overwrite)
    for path in (prediction, truth):
        _check_exists(path)
    scorings = load_scorings()
    kinds = (_kind_of(prediction, scorings), _kind_of(truth, scorings))
    compare = next((scoring.compare for scoring in scorings if kinds in scoring.pairs), None)
    if compare is None:
        raise DataError(
            f"{prediction} holds {kinds[0]} and {truth} {kinds[1]}; score takes a raster of "
            "classes or change, and as the truth a raster or polygons; or boxes, and as the truth "
            "boxes"
        )
    if options.labels.all_touched and is_vector(prediction) == is_vector(truth):
        raise DataError("--all-touched is for polygons against a raster")
    return {
        "prediction": prediction,
        "truth": truth,
        **compare(prediction, truth, options, progress),
        "seconds": round(time.perf_counter() - started, 2),
    }


def _check_exists(path: str) -> None:
    file = path.partition("|")[0]
    if path != STDIN and ":" not in file and not Path(file).exists():
        raise DataError(f"{path}: no such file")


def _kind_of(path: str, scorings: Sequence[Scoring]) -> str:
    if path == STDIN:
        return RASTER
    for scoring in scorings:
        if scoring.kind is not None and scoring.is_kind(path):
            return scoring.kind
    return POLYGONS if is_vector(path) else RASTER
