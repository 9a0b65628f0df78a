"""Labels of boxes written for other programs: DOTA's texts, YOLO-OBB, COCO, a layer of polygons.

An object is written by its four corners, whatever their order; what has more is written as the
smallest rectangle around it, which is what a training sees of it. Folders hold links to the
pictures, so that they can be trained on as they are. Corners are those of a picture as programs
show it, which is what labels are read as.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import (
    check_folder_replaceable,
    check_replaceable,
    replacing,
    replacing_folder,
)
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.geometry.oriented_boxes import box_of_polygon, corners_of, uncrossed
from lemevit_cli.inputs import companions_of
from lemevit_cli.raster.targets import STDOUT, find_writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.detection.datasets.dota import is_number
from lemevit_cli.tasks.detection.datasets.folders import LabelledPicture
from lemevit_cli.tasks.detection.datasets.labels import Outline
from lemevit_cli.tasks.detection.results import WRITERS
from lemevit_cli.training.datasets.folders import CLASSES_FILE
from lemevit_cli.vector.layer import (
    PolygonLayer,
    crs_of_map,
    on_the_map,
    pixel_size_m,
    replacing_layer,
    write_layer,
)

_LAYERS = tuple(w for w in WRITERS if w.driver not in ("CSV", "Parquet", "DOTA"))
_TEXTS = {"dota": "DOTA", "yolo": "YOLO", "yolo-obb": "YOLO", "coco": "COCO"}
_WORLD_FILES = (".tfw", ".jgw", ".pgw", ".wld", ".prj")  # say where a picture lies
_LONLAT = "OGC:CRS84"
Corners = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelsToWrite:
    """Pictures of each split with their objects, and the classes in their order."""

    pictures: Mapping[str, Sequence[LabelledPicture]]
    classes: tuple[str, ...]

    @property
    def all(self) -> list[tuple[str, LabelledPicture]]:
        """List all pictures, each with its split."""
        return [(split, each) for split, part in self.pictures.items() for each in part]


def check_labels_target(target: str, options: OutputOptions) -> None:
    """Refuse a target that could not be written, before any work.

    Raises:
        OutputError: for a format that is not known, or a target that exists.
    """
    kind = _format_of(target, options)
    if kind in _WRITE_FOLDER and _is_folder(target, kind):
        check_folder_replaceable(Path(target), overwrite=options.overwrite)
    else:
        check_replaceable(target, overwrite=options.overwrite)


def write_labels(target: str, labels: LabelsToWrite, options: OutputOptions) -> list[str]:
    """Write labels in the format that the target's suffix or ``options.format`` names.

    A suffix of .json is COCO's, .txt DOTA's of one picture, .gpkg, .geojson, .shp and .fgb are
    layers; anything else is a folder, DOTA's unless told.

    Returns:
        What the format cannot hold, a line each.

    Raises:
        OutputError: if the target exists, cannot be written, or cannot hold the labels.
    """
    kind = _format_of(target, options)
    if kind in _WRITE_FOLDER and _is_folder(target, kind):
        with replacing_folder(target, overwrite=options.overwrite) as folder:
            lost = _WRITE_FOLDER[kind](folder, labels, Path(target))
    elif kind == "DOTA":
        lost = _write_dota_text(target, labels, options)
    elif kind == "COCO":
        with replacing(target, overwrite=options.overwrite) as path:
            every = [each for _, each in labels.all]
            lost = _write_coco(path, every, labels.classes, Path(target).parent)
    else:
        lost = _write_layer(target, labels, options)
    return _tell_lost(lost, kind, labels)


def _format_of(target: str, options: OutputOptions) -> str:
    if target == STDOUT:
        raise OutputError("labels are written to a file or a folder; stdout takes --json")
    asked = options.format
    if asked is not None and asked.lower() in _TEXTS:
        return _TEXTS[asked.lower()]
    if asked is not None and asked.lower() not in {writer.driver.lower() for writer in _LAYERS}:
        known = ", ".join(["DOTA", "YOLO", "COCO", *(writer.driver for writer in _LAYERS)])
        raise OutputError(f"--format {asked} is not known; take one of {known}")
    suffix = Path(target).suffix.lower()
    if asked is None and (suffix in (".json", ".txt") or _is_folder(target, "")):
        return "COCO" if suffix == ".json" else "DOTA"
    return find_writer(target, options, _LAYERS).driver


def _is_folder(target: str, kind: str) -> bool:
    return (
        kind == "YOLO" or target.endswith("/") or not Path(target).suffix or Path(target).is_dir()
    )


def corners_to_write(outline: Outline) -> Corners:
    """Return the corners ``(4, 2)`` of an outline, none of its sides crossing."""
    if len(outline.points) == 4:
        return uncrossed(outline.points[None])[0]
    return corners_of(box_of_polygon(outline.points)[None])[0]


def _shown_corners(each: LabelledPicture, outline: Outline) -> Corners:
    return each.picture.shown(corners_to_write(outline))


def _tell_lost(lost: Counter[str], kind: str, labels: LabelsToWrite) -> list[str]:
    outlines = (o for _, each in labels.all for o in each.outlines)
    rounded = sum(len(outline.points) != 4 for outline in outlines)
    if rounded:
        lost["outlines are written as the smallest rectangle around them"] += rounded
    return [f"{kind}: {count} {what}" for what, count in lost.items()]


# --- texts ---------------------------------------------------------------------------------------


def _write_dota(folder: Path, labels: LabelsToWrite, target: Path) -> Counter[str]:
    """Write ``{split}/labelTxt/NAME.txt``, links in ``{split}/images``, and ``classes.json``."""
    _check_dota_names(labels.classes, str(target))
    lost = Counter[str]()
    for split, pictures in labels.pictures.items():
        names = _link_pictures(folder / split / "images", pictures, lost)
        place = folder / split / "labelTxt"
        place.mkdir(parents=True)
        for name, each in zip(names, pictures, strict=True):
            lines = _dota_lines(each, lost)
            (place / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    named = json.dumps({"classes": [_hyphenated(name) for name in labels.classes]})
    (folder / CLASSES_FILE).write_text(named + "\n", encoding="utf-8")
    return lost


def _write_dota_text(target: str, labels: LabelsToWrite, options: OutputOptions) -> Counter[str]:
    every, lost = labels.all, Counter[str]()
    _check_dota_names(labels.classes, target)
    if len(every) != 1:
        raise OutputError(
            f"{target}: a text of DOTA is of one picture, there are {len(every)}; name a folder"
        )
    with replacing(target, overwrite=options.overwrite) as path:
        path.write_text("".join(_dota_lines(every[0][1], lost)), encoding="utf-8")
    return lost


def _dota_lines(each: LabelledPicture, lost: Counter[str]) -> list[str]:
    gsd_m = each.site.gsd_m
    lines = [] if gsd_m is None else [f"gsd:{gsd_m:.9g}\n"]
    for outline in each.outlines:
        if outline.name is None:
            lost["areas to be ignored are left out, and become background"] += 1
            continue
        name = _hyphenated(outline.name)
        if name != outline.name:
            lost["objects have hyphens for the spaces of their class"] += 1
        numbers = " ".join(f"{value:.3f}" for value in _shown_corners(each, outline).ravel())
        lines.append(f"{numbers} {name} {int(outline.difficult)}\n")
    return lines


def _check_dota_names(classes: Sequence[str], target: str) -> None:
    """Refuse classes that DOTA's text would not keep apart, or take for numbers.

    Raises:
        OutputError: naming them.
    """
    own = [_hyphenated(name) for name in classes]
    numbers = [name for name in own if is_number(name)]
    if numbers:
        raise OutputError(
            f"{target}: a class of DOTA is no number, as {numbers[0]!r} is; write another --format"
        )
    alike = [name for name, written in zip(classes, own, strict=True) if own.count(written) > 1]
    if alike:
        raise OutputError(
            f"{target}: {' and '.join(map(repr, alike))} would be one class of DOTA, which has no "
            "spaces; write another --format"
        )


def _hyphenated(name: str) -> str:
    return "-".join(name.split())


def _write_yolo(folder: Path, labels: LabelsToWrite, target: Path) -> Counter[str]:
    """Write ``{split}/labels/NAME.txt``, links in ``{split}/images``, and ``data.yaml``."""
    lost = Counter[str]()
    number = {name: i for i, name in enumerate(labels.classes)}
    for split, pictures in labels.pictures.items():
        names = _link_pictures(folder / split / "images", pictures, lost)
        place = folder / split / "labels"
        place.mkdir(parents=True)
        for name, each in zip(names, pictures, strict=True):
            lines = []
            for outline in each.outlines:
                if outline.name is None:
                    lost["areas to be ignored are left out, and become background"] += 1
                    continue
                if outline.difficult:
                    lost["objects lose their mark of being difficult"] += 1
                parts = (_shown_corners(each, outline) / each.picture.size_shown).ravel()
                numbers = " ".join(f"{value:.9f}" for value in parts)
                lines.append(f"{number[outline.name]} {numbers}\n")
            (place / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    # JSON is YAML too.
    lines = [f"{split}: {split}/images\n" for split in labels.pictures]
    names_line = f"names: {json.dumps(list(labels.classes), ensure_ascii=False)}\n"
    (folder / "data.yaml").write_text("".join(lines) + names_line, encoding="utf-8")
    return lost


def _link_pictures(
    folder: Path, pictures: Sequence[LabelledPicture], lost: Counter[str]
) -> list[str]:
    """Link pictures into a folder, and return the stem that each has there, all different."""
    folder.mkdir(parents=True)
    stems: list[str] = []
    for each in pictures:
        path = Path(each.picture.path)
        stem = path.stem
        while stem in stems:
            stem += "_2"
        stems.append(stem)
        if path.is_file():
            _link(path.resolve(), folder / f"{stem}{path.suffix}")
            beside = {path.with_suffix(end): f"{stem}{end}" for end in _WORLD_FILES}
            # Of the whole name: masks, overviews, and what GDAL could not write into the file.
            ends = (name.removeprefix(path.name) for name in companions_of(path))
            beside |= {path.with_name(path.name + e): f"{stem}{path.suffix}{e}" for e in ends}
            for file, name in beside.items():
                if file.is_file():
                    _link(file.resolve(), folder / name)
        else:
            lost["pictures are no files that could be linked"] += 1
    return stems


def _link(path: Path, link: Path) -> None:
    try:
        link.symlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)


# --- COCO ----------------------------------------------------------------------------------------


def _write_coco_files(folder: Path, labels: LabelsToWrite, target: Path) -> Counter[str]:
    """Write ``{split}.json``."""
    lost = Counter[str]()
    for split, pictures in labels.pictures.items():
        lost += _write_coco(folder / f"{split}.json", pictures, labels.classes, target)
    return lost


def _write_coco(
    path: Path, pictures: Sequence[LabelledPicture], classes: Sequence[str], place: Path
) -> Counter[str]:
    """Write a file whose pictures are named by their way from the folder that it comes to lie in.

    What is difficult, which COCO knows nothing of, keeps that mark; an area to be ignored is a
    crowd of its class.
    """
    lost = Counter[str]()
    number = {name: i for i, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, each in enumerate(pictures, 1):
        width, height = each.picture.size_shown
        name = _way_to(each.picture.path, place)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for outline in each.outlines:
            class_name = outline.name or outline.area_of
            if class_name not in number:
                lost["areas to be ignored are of no class, left out, and become background"] += 1
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number[class_name],
                    **_geometry(_shown_corners(each, outline)),
                    "iscrowd": int(outline.name is None),
                    **({"difficult": 1} if outline.difficult else {}),
                }
            )
    categories = [{"id": i, "name": name} for name, i in number.items()]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return lost


def _way_to(path: str, place: Path) -> str:
    if not Path(path).is_file():
        return path
    return Path(os.path.relpath(path, place)).as_posix()


def _geometry(corners: Corners) -> dict[str, Any]:
    corners = corners.round(4)
    left, top = corners.min(axis=0)
    width, height = corners.max(axis=0) - (left, top)
    return {
        "segmentation": [corners.ravel().tolist()],
        "bbox": [round(float(value), 4) for value in (left, top, width, height)],
        "area": round(float(shapely.area(shapely.Polygon(corners))), 4),
    }


_WRITE_FOLDER: dict[str, Callable[[Path, LabelsToWrite, Path], Counter[str]]] = {
    "DOTA": _write_dota,
    "YOLO": _write_yolo,
    "COCO": _write_coco_files,
}


# --- layers --------------------------------------------------------------------------------------


def _write_layer(target: str, labels: LabelsToWrite, options: OutputOptions) -> Counter[str]:
    """Write a polygon an object with class (empty: ignored), difficult, split and picture.

    Of pictures in several CRSs all become longitudes and latitudes; pixels of one picture that lies
    on no map stay pixels, y down.
    """
    every = [(split, each) for split, each in labels.all if each.outlines]
    crs_wkts = {crs_of_map(each.georeference) for _, each in every}
    is_on_earth = all(is_tied_to_earth(crs_wkt) for crs_wkt in crs_wkts)
    if not is_on_earth and len(labels.all) > 1:
        raise OutputError(
            f"{target}: a layer is one map, and not all of the {len(labels.all)} pictures lie on "
            "one; write COCO (.json), or a folder of DOTA or YOLO"
        )
    lonlat = pyproj.CRS(_LONLAT).to_wkt()
    crs_wkt = (next(iter(crs_wkts)) if len(crs_wkts) == 1 else lonlat) if is_on_earth else None
    parts = [_polygons(each, crs_wkt if is_on_earth else None) for _, each in every]
    rows = [(split, each, o) for split, each in every for o in each.outlines]
    layer = PolygonLayer(
        wkb=shapely.to_wkb(np.concatenate([np.empty(0, object), *parts])),
        fields={
            "class": _texts([o.name or "" for *_, o in rows]),
            "difficult": np.array([o.difficult for *_, o in rows], dtype=np.int32),
            "split": _texts([split for split, *_ in rows]),
            "picture": _texts([Path(each.picture.path).name for _, each, _ in rows]),
        },
        crs_wkt=crs_wkt,
        pixel_m=_smallest_pixel_m([each for _, each in every]) if is_on_earth else None,
    )
    writer = find_writer(target, options, _LAYERS)
    with replacing_layer(Path(target), options, writer) as path:
        blame = f"{target} cannot be written"
        write_layer(path, layer, options, writer, blame=blame, target=Path(target))
    lost = Counter[str]()
    if len(crs_wkts) > 1 and is_on_earth:
        lost["CRSs of pictures become longitudes and latitudes"] = len(crs_wkts)
    return lost


def _polygons(each: LabelledPicture, crs_wkt: str | None) -> NDArray[Any]:
    polygons = shapely.polygons(np.stack([corners_to_write(o) for o in each.outlines]))
    if crs_wkt is None:
        return np.asarray(polygons)
    mapped, own = on_the_map(polygons, each.georeference), crs_of_map(each.georeference)
    if own == crs_wkt:
        return mapped
    transformer = pyproj.Transformer.from_crs(own, crs_wkt, always_xy=True)
    return np.asarray(
        shapely.transform(mapped, lambda xy: np.column_stack(transformer.transform(*xy.T)))
    )


def _smallest_pixel_m(pictures: Sequence[LabelledPicture]) -> float | None:
    sizes = [
        pixel_size_m(each.georeference, col=each.picture.width / 2, row=each.picture.height / 2)
        for each in pictures
    ]
    return min((size for size in sizes if size is not None), default=None)


def _texts(values: Sequence[str]) -> NDArray[Any]:
    return np.array([*values, None], dtype=object)[:-1]
