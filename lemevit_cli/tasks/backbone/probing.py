"""``lemevit probe``: how good are a network's features for labelled data, with nothing trained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import Confusion, match_classes
from lemevit_cli.models.dense_features import DenseFeatures, FeatureSource, open_features
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.radiometry import are_known
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks.backbone.linear_probe import LinearLayer, features_at, fit_linear_layer
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.frames import model_values
from lemevit_cli.training.options import DataOptions
from lemevit_cli.training.pixel_data import PIXELS
from lemevit_cli.training.sources import open_sources
from lemevit_cli.training.statistics import value_range_of
from lemevit_cli.training.window_validation import windows_of

_PLACES = 4  # tried for a window; the one with most classes is taken
_PIXELS_A_WINDOW = 1024
_MOST_NUMBERS = 300_000_000  # of all sampled features together: 1.2 GB


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Options of the fit of a linear layer.

    Args:
        windows: that it is fitted on, of each data set.
        side: of a window, in pixels.
        zoom: how much larger the network sees them.
        seed: of the windows.
    """

    windows: int = 256
    side: int = 512
    zoom: float = 1.0
    seed: int = 0


def probe(
    source: FeatureSource,
    data: DataOptions,
    options: ProbeOptions,
    runtime: RuntimeOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a linear layer on frozen features, for each data set by itself, and score it.

    Windows of the training part are drawn evenly over its area, of four places the one with most
    classes; the whole validation part is scored, its windows side by side.

    Returns:
        ``backbone``, ``channels`` of its features and, by data set, the ``figures`` of a
        :class:`Confusion`, with ``windows``, ``pixels`` and ``seconds``.

    Raises:
        LemevitError: if the network, its weights or the data are not to be had, or data have no
            validation part.
    """
    progress = progress or Silent()
    use_threads(runtime.threads)
    device = choose_device(runtime.device)
    features = open_features(source).to(device)
    channels = features.try_out(options.side, (options.zoom,))
    network = _Network(
        features, channels, options.zoom, device, choose_dtype(runtime.precision, device)
    )
    parts = [part for path in data.paths for part in _parts_of(path, options, progress)]
    return {
        "backbone": features.label,
        "channels": channels,
        "figures": {
            training.name: _probe_set(network, training, validation, options, progress)
            for training, validation in parts
        },
    }


def _parts_of(
    path: str, options: ProbeOptions, progress: Progress
) -> list[tuple[Source, tuple[Source, ...]]]:
    """Open data: each training part, with the validation parts that it is scored on.

    Those are of the same name, as of a folder; a part without any is scored on those that no other
    has, as scenes of a list are, which have names of their own.

    Raises:
        DataError: if nothing is held back.
    """
    sources = open_sources(DataOptions(paths=(path,)), crop=options.side, openers=PIXELS)
    for note in sources.notes:
        progress.note(note)
    for warning in sources.warnings:
        progress.warn(warning)
    names = {source.name for source in sources.training}
    others = tuple(source for source in sources.validation if source.name not in names)
    parts = [
        (training, tuple(v for v in sources.validation if v.name == training.name) or others)
        for training in sources.training
    ]
    without = [training.name for training, validation in parts if not validation]
    if without:
        raise DataError(
            f"{without[0]}: has no validation part, which a probe is scored on; put pictures into "
            'val, or list a scene with split = "val"'
        )
    return parts


@dataclass(frozen=True)
class _Network:
    """A network that looks at windows of any data."""

    features: DenseFeatures
    channels: int
    zoom: float
    device: torch.device
    dtype: torch.dtype

    def __call__(self, pixels: NDArray[np.float32]) -> list[Tensor]:
        """Return maps of pixels ``(bands, H, W)`` that are in the values that the network knows."""
        given = torch.from_numpy(np.ascontiguousarray(pixels[: self.features.bands]))
        is_short = self.dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=is_short),
        ):
            maps = self.features(given[None].to(self.device), zoom=self.zoom)
        return [m.float().clone() for m in maps]


def _probe_set(
    network: _Network,
    training: Source,
    validation: Sequence[Source],
    options: ProbeOptions,
    progress: Progress,
) -> dict[str, Any]:
    began = time.perf_counter()
    scale = _scaling(network.features, training, options, progress)
    matches = [match_classes(training.classes, source.classes) for source in validation]
    progress.start(f"{training.name}: sample", total=options.windows, unit="windows")
    try:
        sampled, ids = _sample(network, training, options, scale, progress)
    finally:
        progress.finish()
    layer = fit_linear_layer(sampled, ids, num_classes=len(training.classes))
    confusion = Confusion(matches[0].classes)
    windows = [
        (source, match, site, window)
        for source, match in zip(validation, matches, strict=True)
        if match.classes == confusion.classes
        for site, window in windows_of(source.sites, options.side)
    ]
    scored = {source.name for source, *_ in windows}
    others = [source.name for source in validation if source.name not in scored]
    if others:
        progress.warn(
            f"{', '.join(others)}: not scored, they know other classes than {validation[0].name}"
        )
    progress.start(f"{training.name}: score", total=len(windows), unit="windows")
    try:
        for source, match, site, window in windows:
            pixels, truth = scale.read(source, site, window)
            answer = _answer(layer, network(pixels), window)
            confusion.add(match.truth(truth), match.prediction(answer))
            progress.advance()
    finally:
        progress.finish()
    return {
        **confusion.figures(),
        "windows": options.windows,
        "pixels": int(confusion.counts.sum()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _answer(layer: LinearLayer, maps: list[Tensor], window: Window) -> NDArray[np.uint8]:
    logits = layer.logits(maps, height=window.height, width=window.width)
    return logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class _Scaling:
    """Brings the values of data to those that a network knows."""

    given: tuple[float, float]
    wanted: tuple[float, float]

    def read(
        self, source: Source, site: Site, window: Window
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read pixels ``(bands, H, W)`` and class ids ``(H, W)`` of a window."""
        sample = source.read(site, window)
        ids, middle = sample.ids, [sum(self.given) / 2] * len(sample.pixels)
        pixels = model_values(sample.pixels, sample.valid, middle)
        if self.given == self.wanted:
            return pixels, ids
        (low, high), (least, most) = self.given, self.wanted
        share = np.clip((pixels - low) / (high - low), 0.0, 1.0)
        return (least + share * (most - least)).astype(np.float32), ids


def _scaling(
    features: DenseFeatures, source: Source, options: ProbeOptions, progress: Progress
) -> _Scaling:
    if source.bands < features.bands:
        raise DataError(
            f"{source.name} has {source.bands} bands, {features.label} reads {features.bands}; "
            "probe a backbone that was made for fewer"
        )
    if source.bands > features.bands:
        progress.note(
            f"{source.name}: the first {features.bands} of {source.bands} bands are read, as "
            f"{features.label} reads no more"
        )
    if source.dtype == features.dtype:
        return _Scaling(features.value_range, features.value_range)
    places = _places(source, options, tries=1)
    drawn = ((*source.read_pixels(site, window), site.dates) for site, window in places)
    found = value_range_of(drawn)
    if are_known([np.array(found)], features.dtype, features.value_range):
        progress.note(
            f"{source.name}: values lie within those that {features.label} knows, and are read as "
            "they are"
        )
        return _Scaling(features.value_range, features.value_range)
    return _Scaling(found, features.value_range)


def _places(
    source: Source, options: ProbeOptions, *, tries: int = _PLACES
) -> Iterator[tuple[Site, Window]]:
    """Draw windows evenly over the area; of several places the one with most classes."""
    random = np.random.default_rng(options.seed)
    sites = source.sites
    shares = np.array([site.core.width * site.core.height for site in sites], dtype=float)
    shares /= shares.sum()
    for _ in range(options.windows):
        places = [
            _place(sites[random.choice(len(sites), p=shares)], options.side, random)
            for _ in range(tries)
        ]
        yield max(places, key=lambda place: _number_of_classes(source, *place))


def _place(site: Site, side: int, random: np.random.Generator) -> tuple[Site, Window]:
    area = site.core
    width, height = min(side, area.width), min(side, area.height)
    return site, Window(
        col_off=area.col_off + int(random.integers(area.width - width + 1)),
        row_off=area.row_off + int(random.integers(area.height - height + 1)),
        width=width,
        height=height,
    )


def _number_of_classes(source: Source, site: Site, window: Window) -> int:
    ids = np.unique(source.read_ids(site, window))
    return int((ids != NODATA_CLASS).sum())


def _sample(
    network: _Network, source: Source, options: ProbeOptions, scale: _Scaling, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Draw pixels from the windows: features ``(N, C)`` and class ids ``(N,)``."""
    random = np.random.default_rng(options.seed + 1)
    most = _MOST_NUMBERS // (options.windows * network.channels)
    count = max(min(_PIXELS_A_WINDOW, most), 16)
    columns, labels = [], []
    for site, window in _places(source, options):
        pixels, ids = scale.read(source, site, window)
        rows, cols = np.nonzero(ids != NODATA_CLASS)
        if len(rows):
            chosen = random.choice(len(rows), min(count, len(rows)), replace=False)
            rows, cols = rows[chosen], cols[chosen]
            x = (2 * cols + 1) / window.width - 1
            y = (2 * rows + 1) / window.height - 1
            points = torch.from_numpy(np.stack([x, y], axis=1).astype(np.float32))
            columns.append(features_at(network(pixels), points.to(network.device)))
            labels.append(torch.from_numpy(ids[rows, cols].astype(np.int64)))
        progress.advance()
    if not labels:
        raise DataError(f"{source.name}: no pixel of the windows drawn has a label")
    return torch.cat(columns), torch.cat(labels).to(network.device)
