"""Sources put together for a draw, without any that are opened by paths."""

from dataclasses import replace

from lemevit_cli.training.datasets.source import Sources


def sources_of(*training, cells=None, weights=None, classes=None):
    """Return all data of a training on these sources, drawn from evenly but for weights."""
    names = tuple(dict.fromkeys(name for source in training for name in source.classes))
    return Sources(
        training=training,
        cells=tuple(cells or [source.count_classes() for source in training]),
        weights=tuple(weights or [1.0] * len(training)),
        validation=(),
        classes=classes or names,
        notes=(),
    )


def with_one_earlier_date(source):
    """Return a source of two pairs, the second of which has the earlier date of the first."""
    first, second = source.sites
    shared = replace(second, scene=first.scene)
    masks = source.read_ids.__self__
    paths = {first.dates: masks.paths[first.dates], shared.dates: masks.paths[second.dates]}
    return replace(source, sites=(first, shared), read_ids=replace(masks, paths=paths).read)
