"""Labels of a scene, read window by window on the scene's grid: polygons, or a raster of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, LemevitError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    ClassRaster,
    check_class_raster,
    find_ids,
    read_legend,
    white_note,
)
from lemevit_cli.raster.overlap import classes_on_grid_of, is_placed, part_over, same_grid
from lemevit_cli.raster.scene import Scene, open_ground, open_scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.raster.source import STDIN
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.scene_polygons import (
    ScenePolygons,
    field_names,
    field_values,
    is_vector,
    layer_name,
    read_polygons_on,
)

if TYPE_CHECKING:
    import geopandas

IGNORE = "ignore"
_MOST_NAMES = 12  # of a line

AnyScene = TypeVar("AnyScene", Scene, ScenePair)


def check_labelled(labelled: LabelledScene, *, dates: int) -> None:
    """Refuse what is wrong before anything is opened: dates, split, and stdin.

    Raises:
        DataError: in one line.
    """
    if labelled.after is not None and dates == 1:
        raise DataError(
            f"{labelled.scene} and {labelled.after}: are two dates; only --task change learns "
            "from such"
        )
    if labelled.after is None and dates > 1:
        raise DataError(
            f"{labelled.scene}: is one date; change is learned from two, --before and --after"
        )
    if labelled.split not in (None, "train", "val"):
        raise DataError(f"{labelled.scene}: split {labelled.split!r}; it is train, val, or not set")
    if STDIN in (labelled.scene, labelled.after):
        raise DataError("stdin: a scene to train on is read again and again; give a file")


@contextmanager
def open_to_learn(opening: Callable[[], AnyScene]) -> Iterator[AnyScene]:
    """Open a scene that outlives the block, unless the block fails: then it is closed.

    Raises:
        DataError: for every ``SceneError``, of the opening or of the block.
    """
    try:
        scene = opening()
        try:
            yield scene
        except BaseException:
            scene.close()
            raise
    except SceneError as error:
        raise DataError(str(error)) from error


def open_labels(scene: Scene, labelled: LabelledScene) -> Labels:
    """Open the labels of a scene, polygons or a raster.

    Raises:
        LemevitError: if they cannot be read, hold no class, or miss the scene.
    """
    if is_vector(labelled.labels):
        return open_polygons(scene, labelled)
    return open_raster(scene, labelled)


@dataclass(frozen=True, eq=False)
class PolygonLabels:
    """Polygons with a class each, burnt window by window; where two overlap, the later one wins.

    Args:
        ids: class of each polygon, ``NODATA_CLASS`` where it is unknown.
        background: class id of what no polygon covers, ``NODATA_CLASS`` where that is ignored.
        all_touched: whether a polygon takes all pixels that it touches.
    """

    polygons: ScenePolygons
    ids: NDArray[np.uint8]
    background: int
    classes: tuple[str, ...]
    num_polygons: int
    notes: tuple[str, ...]
    all_touched: bool = False

    @property
    def is_complete(self) -> bool:
        """Say whether all of the scene has a class, as far as the labels know the place."""
        return self.background != NODATA_CLASS

    def may_have(self, window: Window) -> bool:
        """Say whether a window can hold a labelled pixel, without reading any."""
        return self.is_complete or len(self.polygons.near(window)) > 0

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read class ids ``(H, W)`` of a window of the scene, ``NODATA_CLASS`` without a class."""
        return self.polygons.burn(
            window, self.ids, background=self.background, all_touched=self.all_touched
        )

    def count_polygons(self) -> dict[str, int]:
        """Count the features of each class that touch the scene."""
        rows = {i: self.polygons.rows[self.ids == i] for i in range(len(self.classes))}
        return {
            self.classes[i]: len(np.unique(own))
            for i, own in rows.items()
            if len(own) or i != self.background
        }

    def alone(self, class_id: int) -> PolygonLabels:
        """Return the labels of one class as they were without the others."""
        own = self.ids == class_id
        return replace(
            self, polygons=self.polygons.only(own), ids=self.ids[own], background=NODATA_CLASS
        )

    def explain_lack(self, class_id: int, *, is_drawn: bool, is_valid: bool) -> str:
        """Say why no pixel of the scene has a class.

        Args:
            is_drawn: whether it has pixels where it is alone.
            is_valid: whether some of them have data.
        """
        if class_id == self.background:
            return "polygons cover all that has data"
        if class_id not in self.ids:
            return "none of its polygons touches the scene"
        if not is_drawn:
            mend = "" if self.all_touched else "; --all-touched takes what they touch"
            return f"they are too small for the grid and cover no pixel's centre{mend}"
        return "they lie under later polygons" if is_valid else "they lie where there is no data"


def open_polygons(scene: Scene, labelled: LabelledScene) -> PolygonLabels:
    """Read the layer of polygons that a scene is labelled with.

    The classes are those of :func:`read_named_polygons`, after the background's class. Polygons
    without a name are ignored, with what they cover.

    Raises:
        SceneError, DataError: as :func:`read_named_polygons`.
    """
    named = read_named_polygons(scene, labelled)
    has_background = labelled.background != IGNORE
    first = [labelled.background] if has_background else []
    classes = tuple(dict.fromkeys([*first, *named.classes]))
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{labelled.labels}: {labelled.label_field} has {len(classes)} different values; at "
            f"most {MAX_CLASSES} can be classes"
        )
    id_of: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    lost = () if labelled.all_touched else _note_of_small(labelled.labels, named)
    return PolygonLabels(
        named.polygons,
        np.array([id_of.get(name, NODATA_CLASS) for name in named.names], dtype=np.uint8),
        id_of[labelled.background] if has_background else NODATA_CLASS,
        classes,
        named.num_features,
        (*named.notes, *lost),
        labelled.all_touched,
    )


def _note_of_small(path: str, named: NamedPolygons) -> tuple[str, ...]:
    """Tell, by class, how many features lie between the centres of pixels."""
    rows, names = named.polygons.rows, np.array(named.names, dtype=object)
    seen = np.unique(rows[~named.polygons.lie_between_centres()])
    parts = []
    for name in named.classes:
        own = np.unique(rows[names == name])
        lost = len(np.setdiff1d(own, seen))
        if lost:
            parts.append(f"{name} {lost:,} of {len(own):,}")
    if not parts:
        return ()
    return (
        f"{path}: polygons too small to cover a pixel's centre leave no label: "
        f"{', '.join(parts)}; --all-touched takes what they touch",
    )


@dataclass(frozen=True, eq=False)
class NamedPolygons:
    """Polygons that touch a scene.

    Args:
        names: the class of each; None where the table does not say.
        classes: the different names, and those that the layer has on other scenes; numbers in their
            order and text by the alphabet.
        num_features: rows of the table that have a class and touch the scene.
        table: of the layer, which ``polygons.rows`` number.
    """

    polygons: ScenePolygons
    names: list[str | None]
    classes: tuple[str, ...]
    num_features: int
    table: geopandas.GeoDataFrame
    notes: tuple[str, ...]


def read_named_polygons(
    scene: Scene, labelled: LabelledScene, *, with_points: bool = True
) -> NamedPolygons:
    """Read a layer of polygons; their names are the values of ``label_field``, or one for all.

    Args:
        with_points: whether a point stands for the pixel that it lies in, or is left out.

    Raises:
        SceneError: if the layer cannot be read or does not touch the scene.
        DataError: if the field is missing, or no polygon with a name is left.
    """
    path, field = labelled.labels, labelled.label_field
    fields = field_names(path, labelled.layer)
    if field is not None and field not in fields:
        raise DataError(
            f"{path}: has no field {field!r}; its fields are {', '.join(fields) or 'none'}"
        )
    if field is not None and labelled.class_name is not None:
        raise DataError(
            f"{path}: the field {field} names the classes, and not --class {labelled.class_name}; "
            "leave one out, or choose polygons by --where"
        )
    polygons, table = read_polygons_on(
        scene, path, layer=labelled.layer, where=labelled.where, with_points=with_points
    )
    if len(table) == 0:
        left = f"is left by the filter {labelled.where!r}" if labelled.where else "is there"
        raise DataError(f"{path}: no polygon {left}")
    if field is None:
        name = labelled.class_name or layer_name(path, labelled.layer)[1]
        names: list[str | None] = [name] * len(table)
    else:
        names = class_texts(table[field])
    of_polygons = [names[row] for row in polygons.rows]
    there = sort_names({name for name in of_polygons if name is not None})
    if not there:
        raise DataError(f"{path}: {field} is empty in all polygons that touch {scene.name}")
    unknown = len({row for row in polygons.rows if names[row] is None})
    notes = (f"{path}: {unknown} polygons without {field} are ignored",) if unknown else ()
    num_features = len(np.unique(polygons.rows)) - unknown
    notes = (*polygons.notes, *notes, *_note_of_elsewhere(scene, labelled, there))
    classes = tuple(sort_names({*there, *labelled.known}))
    return NamedPolygons(polygons, of_polygons, classes, num_features, table, notes)


def classes_on(labelled: LabelledScene) -> set[str]:
    """Return the classes of the polygons on a scene; none where they cannot be read."""
    if labelled.scene == STDIN:
        return set()
    try:
        with open_ground(labelled.scene) as scene:
            return set(read_named_polygons(scene, labelled).classes)
    except LemevitError:
        return set()


def _note_of_elsewhere(
    scene: Scene, labelled: LabelledScene, classes: list[str]
) -> tuple[str, ...]:
    """Tell of classes that the layer has beside the scene alone; large layers are not asked."""
    if labelled.label_field is None:
        return ()
    values = field_values(
        labelled.labels, labelled.label_field, layer=labelled.layer, where=labelled.where
    )
    names = {name for name in class_texts(values) if name is not None}
    elsewhere = sort_names(names - set(classes))
    if not elsewhere:
        return ()
    listed = ", ".join(elsewhere[:_MOST_NAMES]) + (", ..." if elsewhere[_MOST_NAMES:] else "")
    return (f"{labelled.labels}: none of {listed} touches {scene.name}",)


def class_texts(values: Iterable[Any]) -> list[str | None]:
    """Return values of a field as names of classes, None where empty; 3.0 is called 3."""
    return [_class_text(value) for value in values]


def _class_text(value: Any) -> str | None:
    if isinstance(value, float):
        # A column of integers with gaps arrives as floats, its gaps as NaN.
        return None if np.isnan(value) else f"{value:.15g}"
    return None if value is None else str(value).strip() or None


def sort_names(names: set[str]) -> list[str]:
    """Sort names as numbers if all are, else by the alphabet."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


@dataclass(frozen=True, eq=False)
class RasterLabels:
    """A raster of class ids, read on the scene's grid: the pixel under the centre counts.

    It says itself what it knows: its nodata is ignored, whatever the background is, and 255 unless
    only 0 lies beside it.

    Args:
        raster: the labels.
        part: of the scene, that the raster may reach.
        is_on_grid: whether both have the same pixels.
        ids: stored id of each class.
        white: as of a :class:`ClassRaster`.
        is_complete: whether all that it reaches has a class; not where the user ignores a
            background.
    """

    scene: Scene
    raster: Scene
    part: Window
    is_on_grid: bool
    ids: tuple[int, ...]
    classes: tuple[str, ...]
    is_complete: bool
    white: int = NO_WHITE
    notes: tuple[str, ...] = ()
    num_polygons: None = None

    def may_have(self, window: Window) -> bool:
        return self.part.intersection(window) is not None

    def read(self, window: Window) -> NDArray[np.uint8]:
        if not self.may_have(window):
            return np.full((window.height, window.width), NODATA_CLASS, dtype=np.uint8)
        stored = self._read_stored(window)
        table = np.full(NODATA_CLASS + 1, NODATA_CLASS, dtype=np.uint8)
        table[list(self.ids)] = range(len(self.ids))
        unknown = np.setdiff1d(stored, [*self.ids, NODATA_CLASS])
        if len(unknown):
            known = ", ".join(
                f"{i} ({name})" for i, name in zip(self.ids, self.classes, strict=True)
            )
            raise DataError(f"{self.raster.name} holds the id {unknown[0]}; known are {known}")
        return table[stored]

    def count_polygons(self) -> dict[str, int]:
        """Return nothing: there are none."""
        return {}

    def alone(self, class_id: int) -> RasterLabels:
        """Return the labels themselves: no class lies under another."""
        return self

    def explain_lack(self, class_id: int, *, is_drawn: bool, is_valid: bool) -> str:
        """Say why no pixel of the scene has a class, as :meth:`PolygonLabels.explain_lack`."""
        if is_drawn:
            return f"its pixels of {self.raster.name} lie where there is no data"
        return f"{self.raster.name} names it, and has no pixel of it here"

    def _read_stored(self, window: Window) -> NDArray[np.uint8]:
        if self.is_on_grid:
            return ClassRaster(self.raster, self.white).read(window)
        with classes_on_grid_of(self.scene, self.raster, white=self.white) as warped:
            return warped.read(window)


def open_raster(scene: Scene, labelled: LabelledScene) -> RasterLabels:
    """Open the raster of class ids that a scene is labelled with.

    Classes are called as the raster names them, else ``class_<id>`` by the ids found in it. Its
    nodata is ignored, and 255 unless only 0 lies beside it (``raster/class_raster.py``); the
    background ``ignore`` says that much of it is left out so, and is not complete. Without CRS and
    transform it has to have the scene's size.

    Raises:
        DataError: if it cannot be opened, holds no class ids or a single one without a name,
            misses the scene, or options for polygons are given.
    """
    path = labelled.labels
    _refuse_options_of_polygons(labelled)
    with open_to_learn(lambda: open_scene(path)) as raster:
        check_class_raster(raster)
        is_on_grid = same_grid(scene, raster)
        part = scene.window if is_on_grid else part_over(scene, raster)
        names, white = _names_of(raster, path)
        ids = tuple(sorted(names))
        classes = tuple(names[i] for i in ids)
        is_complete = labelled.background != IGNORE
        are_placed = is_placed(scene) and is_placed(raster)
        by_pixel = f"{path}: is taken pixel by pixel; not both say where on the earth they lie"
        notes = (
            *(() if are_placed else (by_pixel,)),
            *(() if white == NO_WHITE else (white_note(path, white),)),
        )
        return RasterLabels(
            scene, raster, part, is_on_grid, ids, classes, is_complete, white, notes
        )


def _names_of(raster: Scene, path: str) -> tuple[dict[int, str], int]:
    """Return the names of a raster's classes by id, and what is white in it."""
    names, white = dict(read_legend(raster).names), NO_WHITE
    if not names:
        ids, white = find_ids(raster)
        names = {i: f"class_{i}" for i in ids}
        if len(names) < 2:
            raise DataError(
                f"{path}: holds the class ids {', '.join(map(str, names)) or 'none'}, apart from "
                f"{NODATA_CLASS} and nodata, which are ignored; it takes two"
            )
    if len(set(names.values())) < len(names):
        raise DataError(f"{path}: two of its ids have the same name; rename one")
    return names, white


# Class ids on a scene's grid, read window by window. Can be pickled.
Labels = PolygonLabels | RasterLabels


def _refuse_options_of_polygons(labelled: LabelledScene) -> None:
    """Refuse what a raster says itself, or ignores: the rest would be ignored without a word."""
    is_usual = labelled.background in (LabelledScene.background, IGNORE)
    given = {
        "a field": labelled.label_field,
        "a class name": labelled.class_name,
        "a layer": labelled.layer,
        "a filter": labelled.where,
        "a background": None if is_usual else labelled.background,
        "an option": "--all-touched" if labelled.all_touched else None,
    }
    for what, value in given.items():
        if value is not None:
            raise DataError(
                f"{labelled.labels}: is a raster, {what} such as {value!r} is for polygons"
            )
