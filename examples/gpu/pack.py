"""Pack a training into small folders, for a machine with a GPU but no network.

    python examples/gpu/pack.py KIT --weights buildings-change
    python examples/gpu/pack.py MORE DATA change seg --data-only
    (there)  sh KIT/run.sh train_buildings_change MORE/data

That machine has Python, torch and timm with what these need, accelerate, typer and matplotlib. KIT
holds this program, wheels of what else a training imports, starter weights, and folders of DATA
where some are named: one folder is enough for few pictures. Pictures are copied, or written anew as
WebP of the best quality with which all of it stays below ``--mb``; under their own names, so that
labels find them: GDAL looks at a file's content.
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
WHEELS = (
    *("rasterio==1.4.3", "affine", "attrs", "certifi", "click", "pyparsing"),
    *("shapely", "pyproj", "segmentation-models-pytorch"),
)
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
QUALITIES = (None, 90, 80, 70, 60, 50, 40, 30, 20)  # None: as they are
PHOTOGRAPHS = ("images", "A", "B")  # folders whose pictures may lose a little; masks may not
LOSSY = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # a GeoTIFF keeps its place, and is copied


def main() -> None:
    """Make KIT, or say in one line why it cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=Path())
    parser.add_argument("folders", nargs="*", help="below DATA, with all that is in them")
    parser.add_argument("--weights", nargs="*", default=[], help="starter weights to begin from")
    parser.add_argument("--data-only", action="store_true", help="neither program nor wheels")
    parser.add_argument("--mb", type=float, default=62.0, help="size of the whole")
    parser.add_argument("--python", default="3.12", help="version of that machine")
    options = parser.parse_args()
    check(options)
    unfinished = options.kit.with_name(f"{options.kit.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if not options.data_only:
        pack_program(unfinished / "program", options.weights)
        shutil.copy(HERE / "run.sh", unfinished)
        pack_wheels(unfinished / "wheels", options.python)
    room_bytes = options.mb * 1e6 - size_bytes(unfinished)
    for quality in QUALITIES:
        shutil.rmtree(unfinished / "data", ignore_errors=True)
        if pack_data(unfinished / "data", options.data, options.folders, quality, room_bytes):
            unfinished.rename(options.kit)
            written = "as they are" if quality is None else f"at quality {quality}"
            print(f"{options.kit}: {size_bytes(options.kit) / 1e6:.1f} MB, pictures {written}")
            return
    shutil.rmtree(unfinished)
    sys.exit(
        f"{options.kit}: {room_bytes / 1e6:.1f} MB are left for the data, which need more even at "
        f"quality {QUALITIES[-1]}; name less data or weights, pack data by themselves with "
        "--data-only, or give a larger --mb"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse what is not there, before anything is written."""
    if options.kit.exists():
        sys.exit(f"{options.kit} exists; name another folder, or remove it")
    missing = [name for name in options.folders if not (options.data / name).is_dir()]
    if missing:
        sys.exit(f"{options.data / missing[0]}: no such folder")
    if options.data != Path() and not options.folders:
        sys.exit(f"{options.data}: name the folders in it that are to be packed")
    unknown = [name for name in options.weights if not place_of(name).is_file()]
    if unknown:
        sys.exit(f"--weights {unknown[0]}: no starter weights of that name")


def place_of(name: str) -> Path:
    """Return where starter weights lie."""
    return PROGRAM / "lemevit_cli" / "weights" / f"{name}.safetensors"


def pack_program(folder: Path, weights: list[str]) -> None:
    """Copy the program and the recipes; of the weights those that are named."""
    own = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(PROGRAM / "lemevit_cli", folder / "lemevit_cli", ignore=own)
    shutil.copytree(PROGRAM / "examples", folder / "examples", ignore=own)
    for name in weights:
        shutil.copy(place_of(name), folder / place_of(name).relative_to(PROGRAM))


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


def pack_data(
    target: Path, data: Path, folders: list[str], quality: int | None, room_bytes: float
) -> bool:
    """Write all folders; False as soon as they are larger than there is room."""
    for path in (path for folder in folders for path in list_files(data / folder)):
        copy = target / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        is_photograph = path.parent.name in PHOTOGRAPHS and path.suffix.lower() in LOSSY
        if is_photograph and quality is not None:
            Image.open(path).convert("RGB").save(copy, "webp", quality=quality, method=4)
        else:
            shutil.copyfile(path, copy)
        room_bytes -= copy.stat().st_size
        if room_bytes < 0:
            return False
    return room_bytes >= 0


def list_files(folder: Path) -> list[Path]:
    """Return all files of a folder, however deep."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def size_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in list_files(folder))


if __name__ == "__main__":
    main()
