"""Simulated scenes as files: sets that ``train`` reads, or a pair of dates with its truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from lemevit_cli.atomic import check_replaceable, placed_together
from lemevit_cli.errors import OutputError
from lemevit_cli.inputs import companions_of
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.simulation.files import SceneFiles, blocks_of
from lemevit_cli.simulation.world import WorldSpec

_Scene = tuple[WorldSpec, list[Path]]  # with the files that are made of it


@dataclass(frozen=True)
class Layout:
    """A data set of simulated scenes, as a task reads it.

    Args:
        files: of a scene, below ``train`` or ``val``; ``{}`` stands for its name.
        classes: what ``classes.json`` says.
        write: draws a scene into these files.
    """

    files: tuple[str, ...]
    classes: Mapping[str, Any]
    write: Callable[[SceneFiles, Sequence[Path], WorldSpec], None]


def simulate_dataset(
    folder: str | Path,
    layout: Layout,
    *,
    size: int,
    scenes: int = 1,
    gsd_m: float = 0.3,
    crs: str = "EPSG:32633",
    seed: int = 0,
    val_fraction: float = 0.25,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw scenes with their truth into a folder, one town a scene, as ``train`` reads them.

    Args:
        layout: of the task; gets ``{train,val}``.
        size: side of each square scene in pixels.
        seed: of the first scene; the others follow it.
        val_fraction: share of the scenes for ``val``; one at least where there are two.

    Returns:
        ``folder``, ``scenes``, ``files`` (paths written) and ``seconds``.

    Raises:
        OutputError: a file is there already and ``overwrite`` is False; size, number of scenes,
            GSD or CRS cannot be drawn.
    """
    check_drawable(size=size, scenes=scenes, gsd_m=gsd_m, crs=crs, seed=seed)
    root = Path(folder)
    plan = []
    for number, split in enumerate(_splits(scenes, val_fraction)):
        spec = WorldSpec(seed=seed + number, width=size, height=size, gsd_m=gsd_m, crs=crs)
        paths = [root / split / name.format(f"town_{spec.seed:05d}") for name in layout.files]
        plan.append((spec, paths))
    classes = {root / "classes.json": json.dumps(layout.classes, indent=1)}
    towns = [root.glob(f"*/{name.format('town_[0-9]*')}") for name in layout.files]
    others = {path for found in towns for path in found}.difference(*(paths for _, paths in plan))
    return draw_scenes(root, plan, layout.write, texts=classes, stale=sorted(others),
                       overwrite=overwrite, progress=progress)  # fmt: skip


def draw_scenes(
    root: Path,
    plan: Sequence[_Scene],
    write: Callable[[SceneFiles, Sequence[Path], WorldSpec], None],
    *,
    texts: Mapping[Path, str],
    stale: Sequence[Path] = (),
    overwrite: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Draw what is planned, and write texts beside it; returns as :func:`simulate_dataset`.

    All appears together, when all is drawn, the texts last: a folder that has them is of one seed.

    Args:
        stale: files of another data set that go.

    Raises:
        OutputError: a file is there already and ``overwrite`` is False.
    """
    began = time.perf_counter()
    for path in [*texts, *(path for _, paths in plan for path in paths)]:
        if path.parent.is_dir():
            check_replaceable(path, overwrite=overwrite, companions=companions_of(path))
    if stale and not overwrite:
        raise OutputError(f"{stale[0]} exists; name another folder or replace all by --overwrite")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{root}: cannot be made ({error.strerror})") from error
    progress = progress or Silent()
    files = SceneFiles(tick=progress.advance, overwrite=overwrite)
    blocks = sum(1 for spec, _ in plan for _ in blocks_of(spec))
    progress.start("simulating", total=blocks, unit="blocks")
    try:
        with placed_together(stale):
            for spec, paths in plan:
                write(files, paths, spec)
            for path, text in texts.items():
                files.write_text(path, text)
    finally:
        progress.finish()
    return {
        "folder": str(root),
        "scenes": len(plan),
        "files": [str(path) for path in files.written],
        "seconds": round(time.perf_counter() - began, 2),
    }


def check_drawable(*, size: int, scenes: int, gsd_m: float, crs: str, seed: int) -> None:
    """Refuse what no world is drawn of.

    Raises:
        OutputError: naming the value.
    """
    if size < 1 or scenes < 1:
        raise OutputError(f"cannot draw {scenes} scenes of {size} pixels; both must be at least 1")
    if seed < 0:
        raise OutputError(f"cannot draw a town from seed {seed}; choose 0 or more")
    if not 0.02 <= gsd_m <= 20:
        raise OutputError(
            f"cannot draw a town at {gsd_m} m a pixel; choose 0.02 to 20 (0.3 is usual)"
        )
    try:
        known = CRS.from_user_input(crs)
    except CRSError as error:
        raise OutputError(f"unknown CRS {crs!r}; give a code such as EPSG:32633") from error
    if not (known.is_projected or known.is_geographic):
        raise OutputError(f"{crs} is no map: choose a projected or geographic CRS (EPSG:32633)")


def _splits(scenes: int, val_fraction: float) -> list[str]:
    """Choose ``train`` or ``val`` for each scene; validation scenes come last."""
    held = round(scenes * val_fraction)
    held = min(max(held, 1), scenes - 1) if scenes > 1 and val_fraction > 0 else 0
    return ["train"] * (scenes - held) + ["val"] * held
