"""The same road as `lemevit predict`, from Python: one scene, weights loaded once.

python examples/predict_from_python.py SCENE TARGET.tif
"""

import sys

from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, Tiling
from lemevit_cli.tasks.segmentation.inference import predict


def main(scene: str, target: str) -> None:
    settings = InferenceSettings(
        tiling=Tiling(window=512, overlap=128),
        output=OutputOptions(overwrite=True),
    )
    report = predict([scene], target, weights="landcover", settings=settings, progress=Silent())
    for name, found in report.results[0]["classes"].items():
        print(f"{name:12} {found['share']:6.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
