"""Change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from functools import partial
from typing import Any

from lemevit_cli.errors import LemevitError
from lemevit_cli.models.backbone import check_backbone, check_reduction
from lemevit_cli.models.change import check_head, head_defaults
from lemevit_cli.tasks.change.classes import change_groups
from lemevit_cli.tasks.change.data import PAIRS, vary_pair
from lemevit_cli.tasks.change.figures import change_figures, match_changes
from lemevit_cli.tasks.change.network import NETWORK
from lemevit_cli.training.datasets.source import Sources
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.gather import make_card
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.losses import make_loss
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.pictures import draw_report
from lemevit_cli.training.pixel_data import gather_pixels, loss_of_pixels
from lemevit_cli.training.sources import open_sources
from lemevit_cli.training.task import TaskData
from lemevit_cli.training.window_validation import WindowValidation

# Forms of the heads, by the names that `--head` takes.
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "difference": ("difference", {}),
    "difference_decoded": ("difference", {"decode_first": True}),
    "bit": ("bit", {}),
}
_DEFAULT_FORM = "difference"


class ChangeDetection:
    """The task ``change``."""

    network = NETWORK
    headline = ("f1", "iou", "precision", "recall", "batch_f1", "batch_precision", "batch_recall")

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders of pairs, and pairs of scenes with layers or rasters of what changed."""
        sources = open_sources(data, crop=options.crop, openers=PAIRS)
        draw = WindowDraw(sources, options)
        head, head_args = _head_of(options)
        card = make_card("change", sources, draw, options, head=head, head_args=head_args)
        return gather_pixels(
            sources,
            draw,
            card,
            options,
            notes=(*sources.notes, _note_of_change(sources)),
            groups=change_groups,
            make_judge=partial(
                WindowValidation, match=match_changes, figures_of=change_figures, judged_by="f1"
            ),
            draw_report=partial(
                draw_report, score=("f1", "F1 of change"), dates=("before", "after")
            ),
            vary=vary_pair,
        )

    def make_loss(self, data: TaskData, options: TrainingOptions) -> Loss:
        return loss_of_pixels(data, options)

    def check(self, options: TrainingOptions) -> None:
        """Refuse a loss, a head or a backbone that there is not."""
        if options.decoder is not None and options.decoder not in _FORMS:
            raise LemevitError(
                f"no head {options.decoder!r} for change; choose one of {', '.join(_FORMS)}"
            )
        check_head(*_head_of(options))
        check_backbone(options.backbone, pretrained=options.pretrained)
        check_reduction(options.backbone, options.backbone_args)
        make_loss(options.loss)


TRAINING = ChangeDetection()


def _head_of(options: TrainingOptions) -> tuple[str, dict[str, Any]]:
    head, form = _FORMS[options.decoder or _DEFAULT_FORM]
    return head, {**head_defaults(head), **form, **(options.decoder_args or {})}


def _note_of_change(sources: Sources) -> str:
    changed = sum(int(cells.counts[:, 1:].sum()) for cells in sources.cells)
    return f"{changed / sources.num_labels:.1%} of the labelled pixels changed"
