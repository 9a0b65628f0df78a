import xml.etree.ElementTree as ET

import pytest

from lemevit_cli.legend import ClassInfo
from lemevit_cli.qgis_style import write_style

CLASSES = (ClassInfo("ship", (214, 69, 65)), ClassInfo('"<Gewässer> & Co"', (66, 135, 245)))


@pytest.fixture
def style(tmp_path):
    write_style(tmp_path / "boxes.qml", polygons=CLASSES, label="class and score")
    return ET.fromstring((tmp_path / "boxes.qml").read_bytes())


def properties(symbol):
    return {o.get("name"): o.get("value") for o in symbol.findall("layer/Option/Option")}


def test_every_class_has_a_category_with_a_symbol_of_its_own(style):
    renderer = style.find("renderer-v2")
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class")
    categories = renderer.findall("categories/category")
    assert [c.get("value") for c in categories] == [info.name for info in CLASSES]
    symbols = {s.get("name"): s for s in renderer.findall("symbols/symbol")}
    for category, info in zip(categories, CLASSES, strict=True):
        symbol = symbols[category.get("symbol")]
        assert symbol.get("type") == "fill"
        assert symbol.find("layer").get("class") == "SimpleLine"  # the outline alone
        assert properties(symbol)["line_color"] == ",".join(map(str, (*info.color, 255)))


def test_labels_tell_class_and_score(style):
    assert style.get("labelsEnabled") == "1"
    text = style.find("labeling/settings/text-style")
    assert text.get("fieldName") == '"class" || \' \' || format_number("score", 2)'
    assert text.get("isExpression") == "1"
    assert style.find("labeling/settings/rendering").get("drawLabels") == "1"


def test_filled_polygons_let_the_scene_through(tmp_path):
    write_style(tmp_path / "changes.qml", polygons=CLASSES, label="class", filled=True)
    symbol = ET.fromstring((tmp_path / "changes.qml").read_bytes()).find(".//symbol")
    assert symbol.find("layer").get("class") == "SimpleFill"
    assert properties(symbol)["color"].startswith("214,69,65,")
    assert 0 < int(properties(symbol)["color"].split(",")[3]) < 255


def test_the_document_says_what_it_is(tmp_path):
    write_style(tmp_path / "boxes.qml", polygons=(), label="class")
    text = (tmp_path / "boxes.qml").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE qgis PUBLIC")


def test_a_raster_has_an_entry_for_each_class_and_no_other(tmp_path):
    write_style(tmp_path / "map.qml", raster=CLASSES)
    style = ET.fromstring((tmp_path / "map.qml").read_bytes())
    renderer = style.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [dict(entry.items()) for entry in renderer.findall("colorPalette/paletteEntry")]
    assert entries == [
        {"value": "0", "color": "#d64541", "alpha": "255", "label": "ship"},
        {"value": "1", "color": "#4287f5", "alpha": "255", "label": '"<Gewässer> & Co"'},
    ]
    assert style.find("renderer-v2") is None and style.find("layerGeometryType") is None
    assert style.get("labelsEnabled") == "0"
