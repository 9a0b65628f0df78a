"""Small whole files of each kind, each in a folder with what it needs, and how it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
import torch
from affine import Affine
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.variants import VARIANTS
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.tasks import load_network

WIDTH, HEIGHT = 40, 30
PLACE = Affine.translation(458_000, 5_548_000) @ Affine.scale(0.5, -0.5)
BOX = [(5, 5), (25, 5), (25, 15), (5, 15)]


@dataclass(frozen=True)
class Seed:
    """A folder that is read without complaint.

    Args:
        name: of the kind, as counts are told by.
        use: what is run on it, a name in ``USES``.
        subject: what that is given, in the folder.
        broken: files one of which is broken.
    """

    name: str
    use: str
    subject: str
    broken: tuple[str, ...]


def make_seeds(folder: Path) -> list[Seed]:
    """Make all seeds, each in a folder of its name."""
    made = []
    for make in (_rasters, _layers, _boxes, _pixels, _results, _weights):
        made += make(folder)
    return made


def _pixels_of(bands: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(3).integers(1, 250, (bands, HEIGHT, WIDTH)).astype(dtype)


def _write_raster(path: Path, pixels: np.ndarray, **profile: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "crs": "EPSG:32633",
        "transform": PLACE,
    }
    with rasterio.open(path, "w", **fields | profile) as raster:
        raster.write(pixels)


def _rasters(folder: Path) -> list[Seed]:
    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
        "lzw": {"compress": "lzw", "predictor": 2, "interleave": "pixel"},
        "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
    }
    seeds = []
    for name, profile in kinds.items():
        _write_raster(folder / f"tif-{name}" / "a.tif", _pixels_of(3), nodata=0, **profile)
        seeds.append(Seed(f"tif-{name}", "scene", "a.tif", ("a.tif",)))
    _write_raster(folder / "tif-float" / "a.tif", _pixels_of(2, "float32"), nodata=np.nan)
    with rasterio.open(folder / "tif-float" / "a.tif", "r+") as raster:
        raster.scales, raster.offsets = (0.5, 2.0), (1.0, 0.0)
        raster.update_tags(AREA_OR_POINT="Point", TIFFTAG_DATETIME="2020:05:06 10:11:12")
    seeds.append(Seed("tif-float", "scene", "a.tif", ("a.tif",)))
    points = [rasterio.control.GroundControlPoint(r, c, 14 + c / 9e3, 50 - r / 9e3)
              for r, c in ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))]  # fmt: skip
    path = folder / "tif-gcps" / "a.tif"
    _write_raster(path, _pixels_of(1), crs=None, transform=None)
    with rasterio.open(path, "r+") as raster:
        raster.gcps = points, rasterio.CRS.from_epsg(4326)
    seeds.append(Seed("tif-gcps", "scene", "a.tif", ("a.tif",)))
    for suffix in ("png", "jpg"):
        path = folder / suffix / f"a.{suffix}"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.moveaxis(_pixels_of(3), 0, -1)).save(path)
        path.with_name(f"a.{suffix[0]}gw").write_text("0.5\n0\n0\n-0.5\n458000\n5548000\n")
        seeds.append(Seed(suffix, "scene", path.name, (path.name,)))
    _write_raster(folder / "vrt" / "a.tif", _pixels_of(3))
    (folder / "vrt" / "a.vrt").write_text(_VRT)
    return [*seeds, Seed("vrt", "scene", "a.vrt", ("a.vrt", "a.vrt", "a.tif"))]


_VRT = """<VRTDataset rasterXSize="40" rasterYSize="30">
<SRS>EPSG:32633</SRS><GeoTransform>458000, 0.5, 0, 5548000, 0, -0.5</GeoTransform>
<Metadata><MDI key="TIFFTAG_DATETIME">2020:05:06 10:11:12</MDI></Metadata>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue><Scale>1</Scale>
<ColorInterp>Red</ColorInterp><SimpleSource>
<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="40" ySize="30"/><DstRect xOff="0" yOff="0" xSize="40" ySize="30"/>
</SimpleSource></VRTRasterBand>
<VRTRasterBand dataType="UInt16" band="2"><ComplexSource>
<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>2</SourceBand>
<ScaleRatio>2</ScaleRatio><LUT>0:0,255:100</LUT></ComplexSource></VRTRasterBand>
</VRTDataset>
"""


def _table(count: int = 3) -> geopandas.GeoDataFrame:
    corners = [[(x + 7 * i, y + 3 * i) for x, y in BOX] for i in range(count)]
    polygons = [shapely.Polygon([PLACE * point for point in ring]) for ring in corners]
    holed = shapely.MultiPolygon([polygons[0].difference(polygons[0].buffer(-2)), polygons[1]])
    geometry = [*polygons[:-1], holed]
    fields = {"kind": ["field", "wood", "field"], "year": [2020, 2021, 2020], "v": [0.5, 1, 2.5]}
    return geopandas.GeoDataFrame(fields, geometry=geometry, crs="EPSG:32633")


def _layers(folder: Path) -> list[Seed]:
    seeds = []
    for suffix in ("geojson", "gpkg", "shp"):
        place = folder / suffix
        _write_raster(place / "scene.tif", _pixels_of(1))
        table = _table() if suffix != "geojson" else _table().to_crs(4326)
        table.to_file(place / f"a.{suffix}")
        parts = ("a.shp", "a.dbf", "a.shx", "a.prj") if suffix == "shp" else (f"a.{suffix}",)
        seeds.append(Seed(suffix, "layer", f"a.{suffix}", parts))
    return seeds


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _picture(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.moveaxis(_pixels_of(3), 0, -1) if values is None else values
    Image.fromarray(pixels).save(path)


_SQUARE = "5 5 25 5 25 15 5 15"
_VOC = """<annotation><filename>a.png</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>ship</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>15</ymax></bndbox></object>
<object><name>plane</name><type>robndbox</type><robndbox><cx>20</cx><cy>15</cy><w>9</w><h>5</h>
<angle>0.5</angle></robndbox></object></annotation>"""
_COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
    "categories": [{"id": 2, "name": "ship"}, {"id": 9, "name": "plane"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [5, 5, 20, 10], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 9, "segmentation": [[5, 5, 25, 5, 25, 15]]},
        {
            "id": 3,
            "image_id": 7,
            "category_id": 9,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [200, 90, 910]},
        },
    ],
}


def _boxes(folder: Path) -> list[Seed]:
    seeds = []

    def add(name: str, write: Callable[[Path], None], picture: str, *broken: str) -> None:
        write(folder / name)
        _picture(folder / name / picture)
        seeds.append(Seed(name, "labels", "", broken))

    def dota(root: Path) -> None:
        lines = ("imagesource:x", "gsd:0.25", f"{_SQUARE} ship 0", f"{_SQUARE} air-plane 1")
        _text(root / "train/labelTxt/a.txt", *lines)

    def yolo(root: Path) -> None:
        lines = ("0 0.4 0.4 0.5 0.3", "1 0.5 0.5 0.1 0.2")
        _text(root / "labels/train/a.txt", *lines)
        _text(root / "data.yaml", "path: .", "train: images/train", "names: {0: ship, 1: plane}")

    def coco(root: Path) -> None:
        _text(root / "train.json", json.dumps(_COCO))

    def voc(root: Path) -> None:
        _text(root / "train/annotations/a.xml", *_VOC.splitlines())

    def table(root: Path) -> None:
        header = "image_path,width,height,xmin,ymin,xmax,ymax,label"
        _text(root / "train.csv", header, "a.png,40,30,5,5,25,15,ship", "a.png,40,30,,,,,")

    add("dota", dota, "train/images/a.png", "train/labelTxt/a.txt")
    add("yolo", yolo, "images/train/a.png", "labels/train/a.txt", "data.yaml")
    add("coco", coco, "images/a.png", "train.json")
    add("voc", voc, "train/images/a.png", "train/annotations/a.xml")
    add("csv", table, "images/a.png", "train.csv")
    return seeds


def _pixels(folder: Path) -> list[Seed]:
    """Make folders with a class a pixel or a picture, and a list of scenes."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[5:15, 5:25] = 1
    root = folder / "masks"
    for split in ("train", "val"):
        _picture(root / split / "images/a.png")
        _picture(root / split / "masks/a.png", ids)
    _text(root / "classes.json", json.dumps({"classes": ["land", "water"], "ignore_index": 255}))
    tables = folder / "pictures"
    _picture(tables / "a.png")
    _picture(tables / "b.png")
    _text(tables / "list.csv", "path,class,split", "a.png,field,train", "b.png,wood,val")
    listing = folder / "toml"
    _write_raster(listing / "scene.tif", _pixels_of(3))
    _table().to_file(listing / "a.gpkg")
    scene = ("scene = 'scene.tif'", "labels = 'a.gpkg'", "label-field = 'kind'", "weight = 1.5")
    _text(listing / "data.toml", "[[source]]", *scene)
    return [
        Seed("masks", "labels", "", ("classes.json", "train/masks/a.png", "train/images/a.png")),
        Seed("pictures", "labels", "list.csv", ("list.csv", "a.png")),
        Seed("toml", "labels", "data.toml", ("data.toml",)),
    ]


def _results(folder: Path) -> list[Seed]:
    """Make pairs of results, one of which is broken."""
    ids = np.random.default_rng(1).integers(0, 2, (1, HEIGHT, WIDTH)).astype(np.uint8)
    for place in (folder / "maps", folder / "map-and-layer"):
        _write_raster(place / "a.tif", ids, nodata=255)
    _write_raster(folder / "maps" / "b.tif", ids, nodata=255)
    with rasterio.open(folder / "maps" / "a.tif", "r+") as raster:
        raster.update_tags(1, CLASSES="land,water")
    _table()[:2].to_file(folder / "map-and-layer" / "b.geojson", driver="GeoJSON")
    boxes = _table()[:2].assign(**{"class": ["ship", "plane"], "score": [0.9, 0.8]})
    for name in ("a.gpkg", "b.gpkg"):
        (folder / "box-layers").mkdir(exist_ok=True)
        boxes.to_file(folder / "box-layers" / name)
    found = [
        {"image_id": 7, "category_id": 2, "bbox": [5, 5, 20, 10], "score": 0.9},
        {"image_id": 7, "category_id": 9, "bbox": [5, 5, 10, 10], "score": 0.4},
    ]
    _text(folder / "coco-results" / "a.json", json.dumps(found))
    _text(folder / "coco-results" / "b.json", json.dumps(_COCO))
    _text(folder / "dota-results" / "a.txt", f"{_SQUARE} ship 0", f"{_SQUARE} plane 0")
    _text(folder / "dota-results" / "b.txt", f"{_SQUARE} ship 0", f"{_SQUARE} plane 1")
    return [
        Seed("maps", "score", "a.tif b.tif", ("a.tif", "b.tif")),
        Seed("map-and-layer", "score", "a.tif b.geojson", ("b.geojson",)),
        Seed("box-layers", "score", "a.gpkg b.gpkg", ("a.gpkg", "b.gpkg")),
        Seed("coco-results", "score", "a.json b.json", ("a.json", "b.json")),
        Seed("dota-results", "score", "a.txt b.txt", ("a.txt", "b.txt")),
    ]


def _weights(folder: Path) -> list[Seed]:
    card = Card(
        task="seg",
        backbone="test_resnet",
        head="upernet",
        head_args={"decoder_channels": 8},
        classes=classes_from_names(["land", "water"]),
        window=64,
        overlap=16,
        gsd_m=(0.1, 2.0),
    )
    torch.manual_seed(1)
    state = load_network("seg").build_model(card).state_dict()
    (folder / "weights").mkdir()
    save_weights(folder / "weights" / "a.safetensors", state, card)
    (folder / "checkpoint").mkdir()
    small = {"model": {"a.weight": torch.ones(3, 2), "b": torch.tensor(1.0)}, "recipe": {"lr": 1}}
    torch.save(small, folder / "checkpoint" / "checkpoint.pt")
    variant = VARIANTS["lemevit_tiny"]
    blocks = zip(variant["embed_dims"], variant["depths"], strict=True)
    official = {
        f"stages.{stage}.{depth - 1}.norm1.weight": torch.ones(dim)
        for stage, (dim, depth) in enumerate(blocks)
    }
    official |= {"meta_tokens": torch.ones(4, 64), "head.bias": torch.ones(9)}
    official["downsample_layers.0.0.weight"] = torch.ones(32, 3, 3, 3)
    (folder / "official").mkdir()
    torch.save({"model": official}, folder / "official" / "checkpoint.pt")
    return [
        Seed("official", "checkpoint", "checkpoint.pt", ("checkpoint.pt",)),
        Seed("weights", "weights", "a.safetensors", ("a.safetensors",)),
        Seed("checkpoint", "checkpoint", "checkpoint.pt", ("checkpoint.pt",)),
    ]
