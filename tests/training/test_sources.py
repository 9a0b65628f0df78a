import pickle
from dataclasses import replace
from math import inf
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine

from lemevit_cli.errors import DataError
from lemevit_cli.training.options import DataOptions, LabelledScene
from lemevit_cli.training.pixel_data import PIXELS
from lemevit_cli.training.sources import open_sources

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


@pytest.fixture
def scene_with_roofs(write_scene, write_polygons, on_map):
    """Return a labelled scene of 128 x 128 pixels with 40 roofs."""

    def make(name, *, bands=3, dtype="uint8", **changes):
        pixels = np.random.default_rng(0).integers(0, 255, (bands, 128, 128)).astype(dtype)
        scene = write_scene(pixels, f"{name}.tif", transform=NORTH_UP)
        corners = [(col, row) for col in range(2, 120, 15) for row in range(2, 120, 25)]
        roofs = [shapely.box(c, r, c + 9, r + 7) for c, r in corners]
        labels = write_polygons(on_map(roofs, NORTH_UP), f"{name}.gpkg")
        return LabelledScene(scene=scene, labels=labels, class_name="building", **changes)

    return make


def opened(**settings):
    return open_sources(DataOptions(**settings), crop=32, openers=PIXELS)


def test_folders_and_scenes_come_together(make_folder, scene_with_roofs):
    folder = str(make_folder("town"))
    sources = opened(paths=(folder,), scenes=(scene_with_roofs("roofs"),))
    assert [s.name for s in sources.training] == ["town", "roofs"]
    assert [(s.name, s.split) for s in sources.validation] == [("town", "val"), ("roofs", "val")]
    # The town knows land, so the roofs' background is a group of classes.
    assert sources.classes == ("land", "building")
    assert sources.training[1].classes == ("background", "building")
    labelled = [cells.counts.sum() for cells in sources.cells]
    np.testing.assert_allclose(sources.weights, np.sqrt(labelled))
    assert "held back" in sources.notes[0]


def test_folders_share_one_bounded_store_of_pictures_also_in_a_worker(make_folder):
    sources = opened(paths=(str(make_folder("a")), str(make_folder("b"))))
    here, there = sources.training, pickle.loads(pickle.dumps(sources.training))
    for sources in (here, there):
        readers = [source.read_pixels.__self__ for source in sources]
        assert readers[0] is readers[1]


def test_a_scene_may_train_and_another_validate(scene_with_roofs):
    train, val = scene_with_roofs("a", split="train"), scene_with_roofs("b", split="val")
    sources = opened(scenes=(train, val))
    assert [s.name for s in sources.training] == ["a"]
    assert [s.name for s in sources.validation] == ["b"]


def test_without_labels_to_spare_nothing_is_held_back(scene_with_roofs):
    sources = opened(scenes=(scene_with_roofs("a"),), val_fraction=0.0)
    assert sources.validation == ()
    assert "nothing is held back for validation" in sources.notes[0]


def test_stated_weights_win(make_folder, scene_with_roofs, tmp_path):
    make_folder("town")
    scene = scene_with_roofs("a")
    listing = tmp_path / "data.toml"
    listing.write_text(
        f"[[source]]\nfolder = 'town'\nweight = 3\n"
        f"[[source]]\nscene = '{scene.scene}'\nlabels = '{scene.labels}'\nweight = 1.0\n"
    )
    listed = opened(paths=(str(listing),))
    assert listed.weights == (3.0, 1.0)
    other = scene_with_roofs("b", split="val")
    shared = opened(
        paths=(str(listing),), scenes=(scene, other), source_weights=(8.0, 5.0), val_fraction=0.2
    )
    assert shared.weights == (6.0, 2.0, 5.0)


def test_what_weighs_nothing_is_judged_and_not_learned_from(make_folder, tmp_path):
    make_folder("town", classes=("land", "roof"))
    make_folder("village", classes=("land", "shed"))
    listing = tmp_path / "data.toml"
    town, village = "[[source]]\nfolder = 'town'\n", "[[source]]\nfolder = 'village'\n"
    listing.write_text(f"{town}{village}weight = 0\n")
    listed = opened(paths=(str(listing),))
    given = opened(paths=(str(tmp_path / "town"), str(tmp_path / "village")), source_weights=(2, 0))
    for sources in (listed, given):
        assert [s.name for s in sources.training] == ["town"]
        assert [s.name for s in sources.validation] == ["town", "village"]
        assert len(sources.weights) == len(sources.cells) == 1
        assert sources.classes == ("land", "roof")
        assert "village: of weight 0, so judged and not learned from" in sources.notes
    listing.write_text(f"{town}weight = 0\n{village}weight = 0\n")
    with pytest.raises(DataError, match="nothing to train on"):
        opened(paths=(str(listing),), source_weights=(1.0,))


def test_what_weighs_nothing_and_is_not_held_back_is_told(scene_with_roofs, make_folder):
    scene = scene_with_roofs("a", split="train")
    with pytest.raises(DataError, match="a weighs nothing and none of it is held back"):
        opened(paths=(str(make_folder()),), scenes=(scene,), source_weights=(1.0, 0.0))


def test_a_scene_without_a_class_of_the_shared_layer_is_known_to_have_none(
    scene_with_roofs, tmp_path
):
    first, second = scene_with_roofs("a"), scene_with_roofs("b")
    with rasterio.open(second.scene, "r+") as raster:
        raster.transform = Affine.translation(5_000, 0) @ raster.transform
    table = geopandas.read_file(first.labels)
    moved = table.set_geometry(table.translate(5_000, 0))
    both = pd.concat([table.assign(kind=["road", *["roof"] * (len(table) - 1)]),
                      moved.assign(kind="roof")])  # fmt: skip
    both.to_file(tmp_path / "both.gpkg")
    layer = {"labels": str(tmp_path / "both.gpkg"), "label_field": "kind", "class_name": None}
    sources = opened(scenes=(replace(first, **layer), replace(second, **layer)))
    assert [s.classes for s in sources.training] == [("background", "road", "roof")] * 2
    assert sources.training[1].count_classes().counts.sum(axis=0)[1] == 0
    alone = opened(scenes=(replace(second, **layer),))
    assert alone.classes == ("background", "roof")


def test_other_labels_of_a_scene_are_divided_as_the_first(scene_with_roofs):
    roofs = scene_with_roofs("a")
    table = geopandas.read_file(roofs.labels)
    other = str(Path(roofs.labels).with_name("roads.gpkg"))
    table.iloc[::3].to_file(other)
    roads = replace(roofs, labels=other, class_name="road", background="ignore")
    sources = opened(scenes=(roofs, roads), val_fraction=0.3)
    learned = {(window.col_off, window.row_off): window for source in sources.training
               for window in (site.extent for site in source.sites)}  # fmt: skip
    held = [site.core for source in sources.validation for site in source.sites]
    assert held and len(sources.training) == 2
    assert all(w.intersection(h) is None for w in learned.values() for h in held)
    few = {"background": "ignore"}
    for scenes in (
        (roofs, replace(roofs, split="val")),
        (roofs, replace(roads, split="train")),
        (replace(roofs, split="train"), replace(roads, split="val")),
    ):
        with pytest.raises(DataError, match="is both learned from and named to be judged by"):
            opened(scenes=scenes)
    learned = [replace(each, split="train", **few) for each in (roofs, roads)]
    told = opened(scenes=(*learned, replace(roads, split="val")))
    assert [len(told.training), len(told.validation)] == [2, 1]


def test_background_stays_where_the_other_source_ignores_its_own(scene_with_roofs, make_folder):
    roofs = scene_with_roofs("roofs")
    roads = replace(roofs, class_name="road", background="ignore")
    assert opened(scenes=(roofs, roads)).classes == ("background", "building", "road")
    folder = str(make_folder(classes=("land", "road")))
    complete = opened(paths=(folder,), scenes=(roofs, roads))
    assert complete.classes == ("land", "road", "building")


def test_sources_of_one_name_are_numbered(make_folder):
    paths = (str(make_folder("a/data")), str(make_folder("b/data")))
    sources = opened(paths=paths)
    assert [s.name for s in sources.training] == ["data", "data (2)"]
    assert [s.name for s in sources.validation] == ["data", "data (2)"]


def test_figures_of_the_second_of_two_names_are_not_those_of_the_first(make_folder):
    paths = (str(make_folder("a/data")), str(make_folder("b/data")))
    only_judged = opened(paths=paths, source_weights=(0.0, 1.0))
    assert [s.name for s in only_judged.training] == ["data (2)"]
    assert [s.name for s in only_judged.validation] == ["data", "data (2)"]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0), (1.0, -1.0), (1.0, inf)])
def test_a_wrong_number_of_weights_is_told(make_folder, scene_with_roofs, weights):
    with pytest.raises(DataError, match=f"{len(weights)} weights for 2 data sets"):
        opened(paths=(str(make_folder()),), scenes=(scene_with_roofs("a"),), source_weights=weights)


def test_what_does_not_fit_together_is_told(scene_with_roofs):
    plain = scene_with_roofs("plain")
    for name, changes, values in (
        ("five", {"bands": 5}, "5 bands of uint8"),
        ("deep", {"dtype": "uint16"}, "3 bands of uint16"),
    ):
        with pytest.raises(DataError, match=f"{name} has {values}, plain has 3 of uint8"):
            opened(scenes=(plain, scene_with_roofs(name, **changes)))


def test_data_without_training_or_with_one_class_are_refused(scene_with_roofs, make_folder):
    with pytest.raises(DataError, match="nothing to train on"):
        opened(scenes=(scene_with_roofs("a", split="val"),))
    with pytest.raises(DataError, match="one class, building, and the background is ignored"):
        opened(scenes=(scene_with_roofs("a", background="ignore"),))
    folder = make_folder()
    for mask in (folder / "val" / "masks").iterdir():
        ignored = np.full((48, 64), 255, dtype=np.uint8)
        mask.unlink()
        from PIL import Image

        Image.fromarray(ignored).save(mask)
    with pytest.raises(DataError, match="data/val: no pixel of its labels has a class"):
        opened(paths=(str(folder),))


@pytest.mark.parametrize("name", ["\x1b[2J", "roof\u202egnp.", "\udcff", " ", "r" * 201])
def test_a_class_that_the_weights_could_not_name_is_refused_before_any_step(scene_with_roofs, name):
    labelled = replace(scene_with_roofs("roofs"), class_name=name)
    with pytest.raises(DataError, match="has no name that can be printed"):
        opened(scenes=(labelled,))
