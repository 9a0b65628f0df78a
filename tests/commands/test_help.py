import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lemevit_cli.cli import app

COMMANDS = [command.name for command in app.registered_commands]
HEAVY = ["torch", "timm", "rasterio", "numpy", "geopandas", "shapely", "pandas", "matplotlib"]
PROGRAM = """
import sys
sys.argv = ["lemevit", *{arguments!r}]
from lemevit_cli.cli import app
try:
    app()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
loaded = sorted({{m.split(".")[0] for m in sys.modules}} & set({heavy!r}))
print("LOADED", loaded)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments):
    program = PROGRAM.format(arguments=arguments, heavy=HEAVY)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage" in run.stdout
    assert "LOADED []" in run.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_is_documented(name):
    from typer.main import get_command

    command = get_command(app).commands[name]
    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


def test_version_is_the_changelogs_latest():
    from pathlib import Path

    from lemevit_cli import __version__

    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    latest = next(line for line in changelog.splitlines() if line.startswith("## [0"))
    assert latest.startswith(f"## [{__version__}] - ")
    assert CliRunner().invoke(app, ["--version"]).stdout == f"lemevit {__version__}\n"


def test_completion_names_the_commands():
    run = subprocess.run(
        [sys.executable, "-m", "lemevit_cli"],
        env={
            "_LEMEVIT_COMPLETE": "complete_bash",
            "COMP_WORDS": "lemevit pre",
            "COMP_CWORD": "1",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "predict" in run.stdout.split()


def test_wrong_usage_exits_2():
    assert CliRunner().invoke(app, ["predict", "--no-such-option"]).exit_code == 2
