import multiprocessing
import os
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lemevit_cli.errors import SceneError
from lemevit_cli.raster.network import give_up_silent_servers, limit_waiting
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import SceneOptions

LIMITS = (
    "GDAL_HTTP_CONNECTTIMEOUT",
    "GDAL_HTTP_TIMEOUT",
    "GDAL_HTTP_LOW_SPEED_TIME",
    "GDAL_HTTP_LOW_SPEED_LIMIT",
)


@pytest.fixture(autouse=True)
def unlimited(monkeypatch):
    """Have no limit set before a test, nor one of it afterwards."""
    for name in LIMITS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def serve(content, how, place):
    """Serve bytes as scene.tif.

    ``refusals`` are errors that are answered first; ``any_name`` serves them as whatever is asked
    for; of parts that reach beyond ``silent_from`` nothing comes.
    """
    refusals, silent_from = how.get("refusals", []), how.get("silent_from", len(content))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            if refusals:
                self.send_error(refusals.pop())
                return
            if not how.get("any_name") and not self.path.endswith("/scene.tif"):
                self.send_error(404)
                return
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
            first, last = (int(number or len(content) - 1) for number in asked.split("-"))
            if "Range" in self.headers and last > silent_from:
                time.sleep(600)
            part = content[first : last + 1]
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header(
                "Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            )
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.put(server.server_port)
    server.serve_forever()


def stall(content, stage, place):
    """Answer each request up to a stage, and then say nothing more, or hardly anything."""

    def answer(connection):
        with suppress(OSError):
            request = b""
            while stage != "no answer" and b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            size = len(content)
            headers = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
            body = b"" if request.startswith(b"HEAD") else content
            parts = {
                "no answer": [],
                "no headers": [],
                "half of the headers": [headers[:20]],
                "no body": [headers],
                "half of the body": [headers, body[: size // 2]],
                "drops": [headers, *(bytes([byte]) for byte in body)],
            }
            for part in parts[stage]:
                connection.sendall(part)
                time.sleep(1 if len(part) == 1 else 0)
            time.sleep(600)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        place.put(server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


@pytest.fixture
def serve_file():
    """Return a function that serves a file from a process of its own, and gives its address.

    A thread of this one would wait for the lock that GDAL's Python holds while it waits for it.
    """
    processes, spawn = [], multiprocessing.get_context("spawn")

    def start(path, how, server=serve):
        place = spawn.Queue()
        content = Path(path).read_bytes()
        processes.append(spawn.Process(target=server, args=(content, how, place)))
        processes[-1].start()
        return f"/vsicurl/http://127.0.0.1:{place.get(timeout=60)}/scene.tif"

    yield start
    for process in processes:
        process.kill()


def test_a_server_that_hangs_up_is_asked_again(write_scene, pixels, serve_file):
    with open_scene(serve_file(write_scene(pixels), {"refusals": [503, 502]})) as scene:
        np.testing.assert_array_equal(scene.read(scene.window)[0], pixels)


def test_a_server_that_answers_to_any_name_is_asked_for_the_scene_alone(
    write_scene, pixels, serve_file
):
    address = serve_file(write_scene(pixels, nodata=7), {"any_name": True})
    for name in (address, address.removeprefix("/vsicurl/"), f"{address}?key=1"):
        with open_scene(name, SceneOptions(nodata=8)) as scene:
            np.testing.assert_array_equal(scene.read(scene.window)[0], pixels)
            assert scene.read_overview(8)[0].shape[-1] <= 8
            assert any("answers to any name" in warning for warning in scene.warnings)
            assert scene.path == name


@pytest.mark.parametrize(
    "stage",
    ["no answer", "no headers", "half of the headers", "no body", "half of the body", "drops"],
)
def test_a_server_that_stalls_is_given_up_in_a_line(write_scene, pixels, serve_file, stage):
    address = serve_file(write_scene(pixels), stage, server=stall)
    limit_waiting(1)
    with pytest.raises(SceneError, match=r"scene\.tif: .*\(the server was silent .*--timeout"):
        open_scene(address).read_overview(64)


def test_a_server_that_falls_silent_when_the_scene_is_open_is_given_up_in_a_line(
    write_scene, serve_file
):
    pixels = np.random.default_rng(3).integers(0, 255, (3, 400, 400), dtype=np.uint8)
    address = serve_file(write_scene(pixels), {"silent_from": 100_000})
    limit_waiting(1)
    silent = r"scene\.tif: .*\(the server was silent .*--timeout"
    with open_scene(address) as scene, pytest.raises(SceneError, match=silent):
        scene.read(scene.window)


def test_what_a_file_of_this_machine_names_has_limits(write_scene, pixels):
    with open_scene(write_scene(pixels)):
        assert all(int(os.environ[name]) > 0 for name in LIMITS)


def test_servers_have_limits_that_a_user_may_set(monkeypatch):
    give_up_silent_servers()
    assert all(int(os.environ[name]) > 0 for name in LIMITS)
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "77")
    give_up_silent_servers()
    assert os.environ["GDAL_HTTP_TIMEOUT"] == "77"
    limit_waiting(2.5)  # an option counts more than the environment
    assert [os.environ[name] for name in LIMITS] == ["3", "60", "3", "500"]
