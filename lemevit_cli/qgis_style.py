"""A QGIS style beside a result: the classes in their colours, and what to write at each object."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from lemevit_cli.legend import ClassInfo

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_VERSION = "3.28.0"  # later ones read it too
_MM = "MM"
LABELS = {
    "class and score": '"class" || \' \' || format_number("score", 2)',
    "class": '"class"',
}


def write_style(
    path: Path,
    *,
    polygons: Sequence[ClassInfo] = (),
    label: str | None = None,
    filled: bool = False,
    raster: Sequence[ClassInfo] = (),
) -> None:
    """Write a QML that QGIS takes up by itself if it has the result's name: ``boxes.qml``.

    A raster and a layer of one name share it: each takes its own part.

    Args:
        polygons: classes of a layer with the fields ``class`` and, for labels with it, ``score``.
        label: what is written at each polygon, a key of ``LABELS``; None for nothing.
        filled: colour the polygons' insides too, half transparent; else their outlines alone.
        raster: classes of a raster whose pixels hold their places; no other value is shown.
    """
    contents = {"styleCategories": "Symbology|Labeling", "labelsEnabled": str(int(bool(label)))}
    root = ET.Element("qgis", {"version": _VERSION, **contents})
    if raster:
        _add_palette(root, raster)
    if polygons:
        _add_categories(root, polygons, filled=filled)
        if label is not None:
            _add_labels(root, LABELS[label])
        ET.SubElement(root, "layerGeometryType").text = "2"  # polygons
    ET.indent(root, " ")
    path.write_text(_DOCTYPE + ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _add_palette(root: ET.Element, classes: Sequence[ClassInfo]) -> None:
    renderer = ET.SubElement(
        ET.SubElement(root, "pipe"),
        "rasterrenderer",
        type="paletted",
        band="1",
        opacity="1",
        alphaBand="-1",
    )
    palette = ET.SubElement(renderer, "colorPalette")
    for value, info in enumerate(classes):
        color = "#" + bytes(info.color).hex()
        ET.SubElement(
            palette, "paletteEntry", value=str(value), color=color, alpha="255", label=info.name
        )


def _add_categories(root: ET.Element, classes: Sequence[ClassInfo], *, filled: bool) -> None:
    renderer = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0"
    )
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, info in enumerate(classes):
        category = {"symbol": str(number), "value": info.name, "label": info.name}
        ET.SubElement(categories, "category", {**category, "type": "string", "render": "true"})
        _add_symbol(symbols, str(number), info, filled=filled)


def _add_symbol(symbols: ET.Element, name: str, info: ClassInfo, *, filled: bool) -> None:
    symbol = ET.SubElement(symbols, "symbol", type="fill", name=name, alpha="1", force_rhr="0")
    opaque = _color(info.color)
    outline = {"width": "0.5", "width_unit": _MM, "joinstyle": "miter"}
    if filled:
        _add_layer(
            symbol,
            "SimpleFill",
            color=_color(info.color, alpha=96),
            style="solid",
            outline_color=opaque,
            outline_style="solid",
            outline_width=outline["width"],
            outline_width_unit=_MM,
            joinstyle=outline["joinstyle"],
        )
    else:
        lines = {f"line_{key}": value for key, value in outline.items() if key != "joinstyle"}
        _add_layer(
            symbol,
            "SimpleLine",
            line_color=opaque,
            line_style="solid",
            joinstyle=outline["joinstyle"],
            **lines,
        )


def _add_layer(symbol: ET.Element, kind: str, **properties: str) -> None:
    layer = ET.SubElement(
        symbol, "layer", {"class": kind, "enabled": "1", "locked": "0", "pass": "0"}
    )
    options = ET.SubElement(layer, "Option", type="Map")
    for name, value in properties.items():
        ET.SubElement(options, "Option", name=name, value=value, type="QString")


def _add_labels(root: ET.Element, expression: str) -> None:
    """Write text beside each polygon with a white rim, shown where there is space for it."""
    settings = ET.SubElement(ET.SubElement(root, "labeling", type="simple"), "settings")
    style = ET.SubElement(
        settings,
        "text-style",
        fieldName=expression,
        isExpression="1",
        fontFamily="Open Sans",
        fontSize="8",
        fontSizeUnit="Point",
        textColor=_color((20, 20, 20)),
        textOpacity="1",
    )
    ET.SubElement(
        style,
        "text-buffer",
        bufferDraw="1",
        bufferSize="0.8",
        bufferSizeUnits=_MM,
        bufferColor=_color((255, 255, 255)),
        bufferOpacity="1",
    )
    # Placement 8: outside of the polygon, which stays in sight.
    ET.SubElement(settings, "placement", placement="8", dist="0.5", distUnits=_MM, priority="5")
    ET.SubElement(settings, "rendering", drawLabels="1", obstacle="0", scaleVisibility="0")


def _color(rgb: tuple[int, int, int], *, alpha: int = 255) -> str:
    return ",".join(str(value) for value in (*rgb, alpha))
