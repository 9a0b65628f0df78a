"""Converted networks in a cache of the test's own, and processes that torch is kept from."""

import os
import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refusal())
from lemevit_cli.cli import main
sys.argv[1:] = %r
main()
"""


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory):
    """Return a folder for ``XDG_CACHE_HOME``: what one test converts, the next one finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def openvino(monkeypatch, cache_home):
    """Keep converted networks in the tests' own cache; skip where OpenVINO is not installed."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))


@pytest.fixture
def run_without_torch():
    """Return a function that runs a command in a process in which importing torch raises."""

    def run(*arguments):
        program = WITHOUT_TORCH % (list(map(str, arguments)),)
        environment = {**os.environ, "LEMEVIT_RUNTIME": "auto"}
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )

    return run
