import shlex
import subprocess
import sys

import pytest
from typer.main import get_command
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
    command = get_command(app).commands[name]
    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_two_examples_that_parse(name):
    command = get_command(app).commands[name]
    examples = command.epilog.split("\n\n")[1:]
    assert len(examples) == len(set(examples)) == 2
    for example in examples:
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("lemevit", name)
        command.make_context(name, arguments)


@pytest.mark.parametrize("arguments", [["-h"], *([name, "-h"] for name in COMMANDS)], ids=" ".join)
def test_help_is_short_too_and_flags_take_no_value(arguments):
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0 and "<bool>" not in run.stdout and "Usage" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--nosuch"], "No such option: --nosuch; see lemevit predict --help"),
        (["nosuch"], "No such command 'nosuch'; see lemevit --help"),
        (["--nosuch"], "No such option: --nosuch; see lemevit --help"),
        (["predict"], "Missing argument 'SCENE...'"),
        (["predict", "x.tif", "--task", "det"], "det is for lemevit detect"),
        (["predict", "x.tif", "--task", "change"], "change is for lemevit change"),
        (["predict", "x.tif", "--task", "sag"], "no task 'sag'; predict has seg and cls"),
        (["predict", "x.tif", "--bounds", "0,0,10"], "such as --bounds 458000,5547900,"),
        (["predict", "x.tif", "--bounds", "a,b,c,d"], "such as --bounds 458000,5547900,"),
        (["detect", "x.tif", "--score", "many"], "see lemevit detect --help"),
        (["detect", "a.tif", "b.tif", "-o", "one.shp"], "2 scenes need a folder"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments, said):
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 2 and run.stdout == ""
    assert run.stderr.startswith("lemevit: ") and run.stderr.count("\n") == 1
    assert said in run.stderr


def test_tasks_with_a_command_are_those_that_advice_knows():
    from lemevit_cli.inference.predictor import COMMAND_OF
    from lemevit_cli.tasks import TASKS

    assert {task: words.split()[1] for task, words in COMMAND_OF.items()} == {
        task: room.command for task, room in TASKS.items()
    }


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
