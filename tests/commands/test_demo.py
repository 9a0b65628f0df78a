import json

import rasterio
from typer.testing import CliRunner

from lemevit_cli.cli import app


def test_demo_predicts_scores_and_draws_a_simulated_town(tmp_path):
    folder = tmp_path / "demo"
    run = CliRunner().invoke(app, ["demo", str(folder), "--size", "256", "--json", "-q"])
    assert run.exit_code == 0, run.stderr
    record = json.loads(run.stdout)
    with rasterio.open(record["result"]) as result, rasterio.open(record["scene"]) as scene:
        assert result.shape == scene.shape == (256, 256)
        assert result.transform == scene.transform
        ids = result.read(1)
    with rasterio.open(record["truth"]) as truth:
        expected = truth.read(1)
    assert record["scores"]["accuracy"] == (ids == expected).mean()
    assert 0.3 < record["scores"]["accuracy"] <= 1  # weights that learned nothing reach less
    assert (folder / "landcover.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_demo_in_the_same_folder_needs_overwrite(tmp_path):
    arguments = ["demo", str(tmp_path), "--size", "256", "-q"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
