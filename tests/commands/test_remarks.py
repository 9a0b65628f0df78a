"""What libraries say comes in the program's words: processes of their own, for the hooks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from rasterio.errors import NotGeoreferencedWarning

from lemevit_cli.commands.console import print_record, printable

READ = """
import sys
from lemevit_cli.commands import remarks
remarks.install()
from lemevit_cli.errors import LemevitError
from lemevit_cli.raster.describe import describe
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.vector.scene_polygons import is_vector, read_layer
for path in sys.argv[1:]:
    try:
        if is_vector(path):
            read_layer(path)
        else:
            with open_scene(path) as scene:
                describe(scene)
    except LemevitError as error:
        print(error)
"""


def said(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={name: text for name, text in os.environ.items() if name != "CPL_LOG"},
    )


@pytest.mark.filterwarnings("ignore", category=NotGeoreferencedWarning)
def test_files_that_are_broken_leave_lines_of_ours_alone(write_scene, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (3, 256, 256), dtype=np.uint8)
    whole = [
        write_scene(noise, "a.tif", compress="deflate"),
        write_scene(noise, "b.jpg", driver="JPEG", transform=None, crs=None),
        write_scene(noise, "c.tif", compress="jpeg", tiled=True, blockxsize=64, blockysize=64),
    ]
    broken = []
    for number, path in enumerate(whole):
        content = bytearray(open(path, "rb").read())  # noqa: PTH123, SIM115
        middle = len(content) // 2
        broken += [tmp_path / f"cut{number}.{path[-3:]}", tmp_path / f"changed{number}.{path[-3:]}"]
        broken[-2].write_bytes(content[:middle])
        content[middle : middle + 400] = bytes(range(200)) * 2
        broken[-1].write_bytes(content)
    (tmp_path / "odd.gpkg").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    no_text = b'<VRTDataset rasterXSize="8" rasterYSize="6"><VRTRasterBand dataType="B\xff"/>'
    (tmp_path / "odd.vrt").write_bytes(no_text + b"</VRTDataset>")
    run = said(READ, *broken, tmp_path / "odd.gpkg", tmp_path / "odd.vrt")
    lines = run.stderr.splitlines()
    assert lines and all(line.startswith("lemevit: warning: ") for line in lines), run.stderr
    assert len(set(lines)) == len(lines) and "CPLE" not in run.stderr
    for name in ("cut0.tif", "cut1.jpg", "odd.gpkg", "odd.vrt"):
        assert sum(name in line for line in run.stdout.splitlines()) == 1, run.stdout


def test_warnings_and_logs_of_any_library_are_lines_said_once():
    program = (
        "import logging, warnings\nfrom lemevit_cli.commands import remarks\nremarks.install()\n"
        "for _ in range(2): logging.getLogger('some.library').warning('two\\nlines')\n"
        "warnings.warn('more\\x1b[2J')\nlogging.getLogger('other').info('nothing')\n"
    )
    assert said(program).stderr == "lemevit: warning: two lines\nlemevit: warning: more\\x1b[2J\n"


def test_our_own_bug_keeps_its_traceback():
    program = (
        "from lemevit_cli.commands import remarks\nremarks.install()\n"
        "try: b'\\xff'.decode()\nexcept ValueError as error: raise error\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and "Traceback" in run.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[red]roof[/red] :smile:", "[red]roof[/red] :smile:"),
        ("a\x1b[2Jb\x07", "a\\x1b[2Jb\\x07"),
        ("\u202eexe.pdf\u2066", "\\u202eexe.pdf\\u2066"),
        ("\udcff", "\\udcff"),
        ("Straße øæöüç 道路", "Straße øæöüç 道路"),
    ],
)
def test_names_of_strangers_neither_steer_nor_turn_a_terminal(text, shown, capsys):
    assert printable(text) == shown
    print_record([(text, text)])
    assert capsys.readouterr().out.split("  ")[0].strip() == shown
