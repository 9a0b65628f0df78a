"""Make an environment for each peer, all on one installation of torch.

    python benchmarks/peers/environments.py FOLDER
    python benchmarks/peers/environments.py FOLDER --peers geoai geo-inference

FOLDER gets `torch` (torch and torchvision in the versions of this interpreter) and one virtual
environment a peer, which sees torch through a `.pth` file: the same arithmetic for all, and 6 GB
once. Whatever else a peer asks for goes into its own environment, in pip's choice of versions. What
pip says goes to FOLDER/PEER.log; a peer that does not install is named at the end, with pip's last
error, and the others stay.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

PEERS = {
    "geoai": ["geoai-py"],
    "terratorch": ["terratorch"],
    "rastervision": ["rastervision-pytorch-learner"],
    "geo-inference": ["geo-inference"],
}
BASE = "torch"


def interpreter(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


def site_packages(folder: Path, name: str) -> Path:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / name / "lib" / python / "site-packages"


def install(folder: Path, name: str, requirements: list[str]) -> str | None:
    """Make the environment and install into it; return pip's last error, or None."""
    venv.create(folder / name, with_pip=True)
    if name != BASE:
        link = site_packages(folder, name) / "shared_torch.pth"
        link.write_text(f"{site_packages(folder, BASE)}\n")
    log = folder / f"{name}.log"
    command = [str(interpreter(folder, name)), "-m", "pip", "install", *requirements]
    with log.open("w") as target:
        failed = subprocess.run(command, stdout=target, stderr=subprocess.STDOUT).returncode
    errors = [line for line in log.read_text().splitlines() if "ERROR" in line or "rror:" in line]
    return (errors or [f"pip exited with {failed}; see {log}"])[-1] if failed else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="outside the repository")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    folder = args.folder.resolve()
    if folder.is_relative_to(Path(__file__).resolve().parents[2]):
        parser.error(f"{folder} lies in the repository; name a folder outside it")
    folder.mkdir(parents=True, exist_ok=True)
    torch = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    wanted = {} if interpreter(folder, BASE).exists() else {BASE: torch}
    wanted.update({name: PEERS[name] for name in args.peers})
    failed = False
    for name, requirements in wanted.items():
        error = install(folder, name, requirements)
        failed = failed or error is not None
        print(f"{name}: {error or 'installed'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
