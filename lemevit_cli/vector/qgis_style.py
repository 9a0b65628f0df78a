"""A QGIS style beside a layer: the classes in their colours, and what to write at each object."""

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
    path: Path, classes: Sequence[ClassInfo], *, label: str, filled: bool = False
) -> None:
    """Write a QML that QGIS takes up by itself if it has the layer's name: ``boxes.qml``.

    The layer has the fields ``class`` and, for labels with it, ``score``.

    Args:
        label: a key of ``LABELS``.
        filled: colour the polygons' insides too, half transparent; else their outlines alone.
    """
    contents = {"styleCategories": "Symbology|Labeling", "labelsEnabled": "1"}
    root = ET.Element("qgis", {"version": _VERSION, **contents})
    renderer = ET.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0"
    )
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    for number, info in enumerate(classes):
        category = {"symbol": str(number), "value": info.name, "label": info.name}
        ET.SubElement(categories, "category", {**category, "type": "string", "render": "true"})
        _add_symbol(symbols, str(number), info, filled=filled)
    _add_labels(root, LABELS[label])
    ET.SubElement(root, "layerGeometryType").text = "2"  # polygons
    ET.indent(root, " ")
    path.write_text(_DOCTYPE + ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


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
