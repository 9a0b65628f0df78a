import os
import signal
import subprocess
import sys
import time

import pytest

from lemevit_cli.commands import interruption
from lemevit_cli.commands.console import Console

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(interruption, "_noted", None)
    monkeypatch.setattr(interruption, "_held", False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may go on without one
    interruption.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs before the next line


ENDS = [
    (signal.SIGTERM, SystemExit),
    (signal.SIGINT, KeyboardInterrupt),
    (signal.SIGHUP, SystemExit),
]
STATUSES = {signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(("number", "exception"), ENDS)
def test_a_signal_waits_for_the_next_window(number, exception):
    console = Console(quiet=True)
    console.start("scene", total=3, unit="windows")
    send(number)  # raises nothing yet
    with pytest.raises(exception) as raised:
        console.advance()
    assert number == signal.SIGINT or raised.value.code == STATUSES[number]


@pytest.mark.parametrize(("number", "exception"), ENDS)
def test_a_second_signal_does_not_wait(number, exception):
    Console(quiet=True).start("scene", total=3, unit="windows")
    send(signal.SIGTERM)
    with pytest.raises(exception):
        send(number)


def test_a_signal_before_or_after_the_loop_acts_at_once():
    console = Console(quiet=True)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    interruption._noted = None
    console.start("scene", total=1, unit="windows")
    console.advance()
    console.finish()
    with pytest.raises(SystemExit):
        send(signal.SIGTERM)


def test_a_signal_that_a_callback_swallowed_ends_the_loop_at_its_start():
    with pytest.raises(SystemExit):
        send(signal.SIGTERM)  # as GDAL does to an exception in its callbacks: it is gone
    with pytest.raises(SystemExit):
        Console(quiet=True).start("scene", total=1, unit="windows")


def test_a_signal_after_the_last_window_acts_when_the_file_is_in_place():
    console = Console(quiet=True)
    console.start("scene", total=1, unit="windows")
    console.advance()
    send(signal.SIGTERM)
    with pytest.raises(SystemExit):
        console.finish()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_during_the_imports_ends_the_program(tmp_path, number, status):
    program = (
        "import sys, typer, lemevit_cli.cli as cli, lemevit_cli.commands.info as info\n"
        "def slow(*_, **__):\n"
        "    import time; print('here', flush=True); time.sleep(60)\n"
        "sys.modules['lemevit_cli.analysis.information'] = type(sys)('x')\n"
        "sys.modules['lemevit_cli.analysis.information'].describe = slow\n"
        "sys.argv = ['lemevit', 'info']\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"here\n"
        running.send_signal(number)
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == status and b"Traceback" not in stderr


def test_a_terminal_that_is_gone_is_nothing_to_a_program_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruption.install()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_what_is_half_done_goes_with_a_signal(tmp_path, number):
    program = (
        "import sys, tempfile, lemevit_cli.commands.interruption as interruption\n"
        "interruption.install()\n"
        "from lemevit_cli.atomic import replacing\n"
        "from lemevit_cli.raster.scene import open_scene\n"
        "with replacing(sys.argv[1], overwrite=False) as path:\n"
        "    path.write_text('half'); print('here', flush=True)\n"
        "    open_scene('-')\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "out.tif")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(temporary)}, **pipes
    ) as running:
        assert running.stdout.readline() == b"here\n"
        running.stdin.write(b"some of a scene" * 10_000)
        running.stdin.flush()
        deadline = time.monotonic() + 60
        while not [p for p in temporary.iterdir() if p.stat().st_size > 100_000]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert list(tmp_path.glob(".out.tif.*"))
        running.send_signal(number)
        running.wait(timeout=60)
    assert running.returncode == STATUSES[number]
    assert list(tmp_path.iterdir()) == [temporary] and not list(temporary.iterdir())
