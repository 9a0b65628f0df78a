import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lemevit_cli.commands import lifetime

END = "from lemevit_cli.commands import lifetime\n{work}\nlifetime.end({code})\n"


def ended(work="", code="None", **streams):
    program = END.format(work=work, code=code)
    # Unbuffered, nothing would be left to lose.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(
        [sys.executable, "-c", program],
        text=True,
        env=environment,
        timeout=60,
        check=False,
        **streams,
    )


@pytest.mark.parametrize(("code", "status"), [("None", 0), ("0", 0), ("3", 3), ("257", 1)])
def test_the_status_is_that_of_the_interpreter(code, status):
    run = ended(code=code)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", "")


def test_words_in_place_of_a_status_are_told():
    run = ended(code="'no such thing'")
    assert (run.returncode, run.stderr) == (1, "no such thing\n")


def test_what_was_printed_and_not_flushed_arrives():
    run = ended("import sys; sys.stdout.write('data' * 1000); sys.stderr.write('a remark')")
    assert (run.returncode, run.stdout, run.stderr) == (0, "data" * 1000, "a remark")


def test_threads_and_functions_for_the_exit_come_first(tmp_path):
    work = f"""
import atexit, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
place = Path({str(tmp_path)!r})
def write(name, wait):
    time.sleep(wait)
    (place / name).write_text("whole")
kept = tempfile.TemporaryDirectory(dir=place)
atexit.register(write, "exit", 0)
threading.Thread(target=write, args=("thread", 0.3)).start()
ThreadPoolExecutor(1).submit(write, "pool", 0.3)
"""
    run = ended(work)
    assert run.returncode == 0, run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["exit", "pool", "thread"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"whole"}


def test_output_that_a_full_disk_swallows_is_a_line_and_a_failure():
    if not Path("/dev/full").exists():
        pytest.skip("no device that is full")
    with Path("/dev/full").open("w") as full:
        run = ended("print('data')", stdout=full)
    assert run.returncode == 1
    assert run.stderr == "lemevit: stdout cannot be written: No space left on device\n"


def test_a_reader_that_has_gone_is_a_status_of_its_own():
    reader, writer = os.pipe()
    os.close(reader)
    run = ended("print('data')", stdout=writer)
    os.close(writer)
    assert (run.returncode, run.stderr) == (lifetime.BROKEN_PIPE, "")


def test_the_program_ends_by_it():
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import atexit; atexit.register(print, 'bye')\n"
            "import sys; sys.argv = ['lemevit', '--version']\n"
            "from lemevit_cli.cli import main\nmain()\nprint('still here')",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[0].startswith("lemevit ")
    assert run.stdout.splitlines()[1:] == ["bye"]


@pytest.fixture
def collector(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()
    lifetime._thresholds = None


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"KMP_BLOCKTIME": "200"}, None),
        ({"GOMP_SPINCOUNT": "9"}, None),
    ],
)
def test_threads_wait_asleep_unless_the_user_says_otherwise(own, expected, monkeypatch, collector):
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    lifetime.begin()
    found = os.environ.get("OMP_WAIT_POLICY")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert found == expected


@pytest.mark.parametrize(
    ("machine", "own", "expected"),
    [("x86_64", None, "1"), ("x86_64", "2", "2"), ("arm64", None, None)],
)
def test_numpy_computes_with_one_thread_where_torch_does_without_its_library(
    machine, own, expected, monkeypatch, collector
):
    monkeypatch.setattr(lifetime.platform, "machine", lambda: machine)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", own or "")
    if own is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    lifetime.begin()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected


def test_the_collector_rests_while_modules_load_and_works_as_before_afterwards(collector):
    lifetime.begin()
    assert gc.get_threshold()[0] > 10 * collector[0]
    lifetime.settle()
    assert gc.get_threshold() == collector and gc.get_freeze_count() > 0
    gc.unfreeze()
    lifetime.settle()  # of a later scene: what it made may be collected
    assert gc.get_freeze_count() == 0


PROGRAM = "exec {python} -c 'from lemevit_cli.cli import main; main()' {arguments} {streams}"


def in_shell(arguments, streams):
    command = PROGRAM.format(python=sys.executable, arguments=arguments, streams=streams)
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("arguments", ["--version", "--help", "predict --help"])
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", ">/dev/full"])
def test_output_that_goes_nowhere_is_told_where_that_can_be(arguments, streams):
    run = in_shell(arguments, streams)
    assert run.returncode == 1 and run.stdout == ""
    told = "" if "2>&-" in streams else "lemevit: stdout cannot be written: "
    assert run.stderr.startswith(told) and run.stderr.count("\n") == bool(told)


@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_streams_that_are_not_needed_may_be_closed(streams):
    run = in_shell("--version", streams)
    assert (run.returncode, run.stderr) == (0, "") and run.stdout.startswith("lemevit ")


def test_a_mistake_that_nobody_can_read_is_a_status():
    run = in_shell("predict", "2>&-")
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "")


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    work = (
        f"lifetime.begin(); file = open({str(tmp_path / 'result')!r}, 'w'); import os\n"
        "os.write(2, b'of a library'); file.write('whole'); file.close()"
    )
    command = [sys.executable, "-c", END.format(work=work, code="None")]
    subprocess.run(["sh", "-c", '"$0" "$@" <&- >&- 2>&-', *command], timeout=60, check=True)
    assert (tmp_path / "result").read_text() == "whole"


def test_a_reader_of_help_that_has_gone_is_that_status_too():
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys; sys.argv = ['lemevit', '--help']\nfrom lemevit_cli.cli import main\nmain()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (lifetime.BROKEN_PIPE, b"")
