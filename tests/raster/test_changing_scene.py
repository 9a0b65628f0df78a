"""A scene that is replaced while it is read gives no result."""

from __future__ import annotations

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import open_scene

PIXELS = np.arange(3 * 48 * 64, dtype=np.uint8).reshape(3, 48, 64)
CORNER = Window(col_off=0, row_off=0, width=8, height=8)


def read_in_a_thread(scene):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(scene.read, CORNER).result()


def replace_by_another(path):
    shutil.copy(path, f"{path}.new")
    Path(f"{path}.new").replace(path)


def grow(path):
    with Path(path).open("ab") as file:
        file.write(b"\0")


def touch(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [replace_by_another, grow, touch])
def test_another_thread_does_not_read_another_file(write_scene, change):
    path = write_scene(PIXELS, "a.tif")
    with open_scene(path) as scene:
        read_in_a_thread(scene)
        scene.check_unchanged()
        change(path)
        for look in (lambda: read_in_a_thread(scene), scene.check_unchanged):
            with pytest.raises(SceneError, match=r"a\.tif: was changed or replaced while it was"):
                look()


def test_a_worker_does_not_read_another_file(write_scene):
    path = write_scene(PIXELS, "a.tif")
    with open_scene(path) as scene:
        sent = pickle.dumps(scene)
        pickle.loads(sent).read(CORNER)
        touch(path)
        with pytest.raises(SceneError, match="was changed or replaced"):
            pickle.loads(sent).read(CORNER)


def test_sidecars_and_sources_of_a_vrt_count(write_scene, tmp_path):
    path = write_scene(PIXELS, "a.tif")
    rasterio.shutil.copy(path, tmp_path / "b.vrt", driver="VRT")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    for name, changed in (("b.vrt", "a.tif"), ("a.tif", "a.tif.aux.xml")):
        with open_scene(str(tmp_path / name)) as scene:
            touch(tmp_path / changed)
            with pytest.raises(SceneError, match=rf"\(its .*{changed}\)"):
                scene.check_unchanged()
            os.utime(tmp_path / changed)
