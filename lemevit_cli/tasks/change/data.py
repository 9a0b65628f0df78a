"""How pairs of pictures, and of scenes, with what changed between them are opened."""

from __future__ import annotations

from lemevit_cli.tasks.change.datasets.folders import open_pair_folder
from lemevit_cli.tasks.change.datasets.scenes import open_labelled_pair
from lemevit_cli.training.sources import Openers

PAIRS = Openers(open_pair_folder, open_labelled_pair)
