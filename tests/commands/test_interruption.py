import os
import signal
import subprocess
import sys
import time

import pytest

from lemevit_cli.commands import interruption
from lemevit_cli.commands.console import Console


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(interruption, "_noted", None)
    monkeypatch.setattr(interruption, "_held", False)
    interruption.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs before the next line


ENDS = [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]


@pytest.mark.parametrize(("number", "exception"), ENDS)
def test_a_signal_waits_for_the_next_window(number, exception):
    console = Console(quiet=True)
    console.start("scene", total=3, unit="windows")
    send(number)  # raises nothing yet
    with pytest.raises(exception) as raised:
        console.advance()
    assert number == signal.SIGINT or raised.value.code == 143


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
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
