import multiprocessing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lemevit_cli.raster.scene import open_scene


def serve(content, refusals, place):
    """Serve bytes under any name; the first answers are errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            if refusals:
                self.send_error(refusals.pop())
                return
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
            first, last = (int(number or len(content) - 1) for number in asked.split("-"))
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


@pytest.fixture
def serve_file():
    """Return a function that serves a file from a process of its own, and gives its address."""
    processes, spawn = [], multiprocessing.get_context("spawn")

    def start(path, refusals):
        place = spawn.Queue()
        content = Path(path).read_bytes()
        processes.append(spawn.Process(target=serve, args=(content, refusals, place)))
        processes[-1].start()
        return f"/vsicurl/http://127.0.0.1:{place.get(timeout=60)}/scene.tif"

    yield start
    for process in processes:
        process.kill()


def test_a_server_that_hangs_up_is_asked_again(write_scene, pixels, serve_file):
    with open_scene(serve_file(write_scene(pixels), [503, 502])) as scene:
        np.testing.assert_array_equal(scene.read(scene.window)[0], pixels)
