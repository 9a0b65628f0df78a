"""What README shows in Python runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def run(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(block, {})


def test_a_scene_is_predicted(write_scene, pixels, tmp_path, monkeypatch, capsys):
    write_scene(pixels)
    run(BLOCKS[0], tmp_path, monkeypatch)
    assert (tmp_path / "landcover.tif").exists()
    assert float(capsys.readouterr().out) >= 0


def test_networks_are_timms(tmp_path, monkeypatch):
    run(BLOCKS[1], tmp_path, monkeypatch)
    assert len(BLOCKS) == 2
