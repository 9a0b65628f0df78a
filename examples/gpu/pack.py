"""Pack a training into one small folder, for a machine with a GPU but no network.

    python examples/gpu/pack.py KIT DATA change seg/jonkoping_buildings --weights landcover
    (there)  sh KIT/run.sh train_buildings_change

That machine has Python, torch, torchvision and timm. KIT holds this program, wheels of what else a
training needs, the named folders of DATA and starter weights. Pictures are written anew as WebP of
the best quality with which all of it stays below ``--mb``, under their own names, so that labels
find them: GDAL looks at a file's content. Everything else in the folders is copied.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PROGRAM = HERE.parents[1]
# What a training imports and GPU machines seldom have; rasterio 1.4.3 is the last one of 22 MB.
WHEELS = ("rasterio==1.4.3", "affine", "shapely", "pyproj", "segmentation-models-pytorch")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
QUALITIES = (90, 80, 70, 60, 50, 40, 30, 20)
PHOTOGRAPHS = ("images", "A", "B")  # folders whose pictures may lose a little; masks may not
LOSSY = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # a GeoTIFF keeps its place, and is copied


def main() -> None:
    """Fill KIT, or say that it cannot be made small enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("folders", nargs="+", help="below DATA, with all that is in them")
    parser.add_argument("--weights", nargs="*", default=[], help="starter weights to begin from")
    parser.add_argument("--mb", type=float, default=62.0, help="size of the whole")
    parser.add_argument("--python", default="3.12", help="version of that machine")
    options = parser.parse_args()
    options.kit.mkdir(parents=True)
    pack_program(options.kit / "program", options.weights)
    shutil.copy(HERE / "run.sh", options.kit)
    pack_wheels(options.kit / "wheels", options.python)
    room = options.mb * 1e6 - size_of(options.kit)
    for quality in QUALITIES:
        shutil.rmtree(options.kit / "data", ignore_errors=True)
        if pack_data(options.kit / "data", options.data, options.folders, quality, room):
            megabytes = size_of(options.kit) / 1e6
            print(f"{options.kit}: {megabytes:.1f} MB, pictures at quality {quality}")
            return
    sys.exit(
        f"{options.kit}: the pictures need more than the {room / 1e6:.1f} MB that are left for "
        f"them even at quality {QUALITIES[-1]}; name less data or weights, or a larger --mb"
    )


def pack_program(folder: Path, weights: list[str]) -> None:
    """Copy the program and the recipes; of the weights those that are named."""
    own = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(PROGRAM / "lemevit_cli", folder / "lemevit_cli", ignore=own)
    shutil.copytree(PROGRAM / "examples", folder / "examples", ignore=own)
    for name in weights:
        place = Path("lemevit_cli", "weights", f"{name}.safetensors")
        shutil.copy(PROGRAM / place, folder / place)


def pack_wheels(folder: Path, python: str) -> None:
    """Download the wheels for that machine's Python."""
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", "--implementation=cp", f"--python-version={python}"),
            *(*platforms, "--dest", str(folder), *WHEELS),
        ],
        check=True,
    )


def pack_data(target: Path, data: Path, folders: list[str], quality: int, room: float) -> bool:
    """Write all folders; False as soon as they are larger than ``room`` bytes."""
    for path in (path for folder in folders for path in files_of(data / folder)):
        packed = target / path.relative_to(data)
        packed.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name in PHOTOGRAPHS and path.suffix.lower() in LOSSY:
            Image.open(path).convert("RGB").save(packed, "webp", quality=quality, method=4)
        else:
            shutil.copyfile(path, packed)
        room -= packed.stat().st_size
        if room < 0:
            return False
    return True


def files_of(folder: Path) -> list[Path]:
    """Return all files of a folder, however deep."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in files_of(folder))


if __name__ == "__main__":
    main()
