"""Change weights scored on labelled pairs, used as ``lemevit change`` uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lemevit_cli.inference.run import BlockInference
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.settings import ChangeOptions, ReadingOptions
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder
from lemevit_cli.tasks.change.figures import match_changes
from lemevit_cli.tasks.change.inference import decide_classes
from lemevit_cli.tasks.change.pair_input import pair_input
from lemevit_cli.tasks.change.tally import ChangeTally
from lemevit_cli.tasks.evaluation import Evaluation, ids_to_judge
from lemevit_cli.training.datasets.source import Site, Source


def open_changes(data: str, split: str, card: Card) -> Source:
    """Open a split of a folder that weights shall be scored on.

    Raises:
        DataError: if it cannot be opened.
    """
    return open_pair_folder(data, split)


@contextmanager
def open_pair_of(site: Site, card: Card) -> Iterator[SceneInput]:
    """Open the two dates of a site as the weights want them."""
    with open_pair(site.scene, str(site.after)) as pair:
        yield pair_input(pair, card, ReadingOptions(), Silent())


class PairTally:
    """Counts change in areas of pairs, above the threshold that ``change`` has.

    Where truth or weights know one kind of change and the other several, all kinds are one. Batches
    are of whole pairs predicted and cut afterwards, where the authors of BIT predict the windows.
    """

    def __init__(self, card: Card, source: Source, progress: Progress) -> None:
        self._source = source
        self._match = match_changes(card.class_names, source.classes)
        self._changes = ChangeTally(self._match.classes)

    def add(self, site: Site, scene: SceneInput, inference: BlockInference) -> None:
        """Count an area, in the blended answers of its windows."""
        with self._changes.over(site.core) as add:
            for rows in inference.rows(site.core):
                answers, _ = decide_classes(rows, ChangeOptions.threshold)
                ids = ids_to_judge(self._source, site, rows.window, answers, self._match)
                add(rows.window, *ids)

    def figures(self) -> dict[str, Any]:
        """Return the figures of :class:`ChangeTally`."""
        return self._changes.figures()


EVALUATION = Evaluation(open_changes, PairTally, open_pair_of)
