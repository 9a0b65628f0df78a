"""How sure scores are, brought to how often they are right: one number divides all logits.

Temperature scaling (Guo et al., arXiv 1706.04599): classes stay as they are, for the order of the
logits does. A network learns to be surer than it should be on scenes that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lemevit_cli.metrics.class_groups import groups_of
from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.source import Source
from lemevit_cli.training.frames import model_values
from lemevit_cli.training.losses import grouped_cross_entropy
from lemevit_cli.training.window_validation import plan_windows

_TEMPERATURES = torch.logspace(-0.6, 0.6, 61)  # 0.25 to 4, by steps of 5 %
_EVERY = 4  # pixels, of both directions
_WINDOWS = 12  # of each source


@torch.inference_mode()
def find_temperature(
    answer: Callable[[Tensor], Tensor], card: Card, sources: Sequence[Source]
) -> float:
    """Return the divisor of the logits that least surprises, in [0.25, 4]; sources count alike.

    Args:
        answer: logits ``(1, classes, H, W)`` float32 of pixels ``(1, bands, H, W)``.
        sources: what was held back.
    """
    surprise = {source.name: torch.zeros(len(_TEMPERATURES)) for source in sources}
    counts = dict.fromkeys(surprise, 0)
    for source, site, window in plan_windows(sources, card, _WINDOWS)[0]:
        sample = source.read(site, window)
        pixels = model_values(sample.pixels, sample.valid, card.mean)
        logits = answer(torch.from_numpy(pixels[None]))[..., ::_EVERY, ::_EVERY].cpu()
        ids = torch.from_numpy(sample.ids[::_EVERY, ::_EVERY]).long()[None]
        groups = torch.tensor([groups_of(card.class_names, source.classes)])
        sums = [grouped_cross_entropy(logits / t, ids, groups) for t in _TEMPERATURES]
        surprise[source.name] += torch.stack([total for total, _ in sums])
        counts[source.name] += int(sums[0][1])
    means = [surprise[name] / count for name, count in counts.items() if count]
    return float(_TEMPERATURES[torch.stack(means).mean(dim=0).argmin()]) if means else 1.0
