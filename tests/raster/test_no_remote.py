"""``--no-remote`` against a server of this machine that counts who asks it."""

import multiprocessing
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.raster.scene import open_scene


def serve(content, place, log):
    """Serve bytes under any name; each request is a line of a log."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with Path(log).open("a") as lines:
                lines.write(f"{self.path}\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.put(server.server_port)
    server.serve_forever()


@pytest.fixture
def asked(tmp_path):
    """Return the log of the server's requests."""
    (tmp_path / "asked.log").touch()
    return tmp_path / "asked.log"


VRT = """<VRTDataset rasterXSize="64" rasterYSize="48"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>
<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>48</UpperLeftY><LowerRightX>64</LowerRightX>
<LowerRightY>0</LowerRightY><SizeX>64</SizeX><SizeY>48</SizeY><TileLevel>0</TileLevel></DataWindow>
<BandsCount>3</BandsCount></GDAL_WMS>"""
LAYER = """<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{}</SrcDataSource>
</OGRVRTLayer></OGRVRTDataSource>"""
REMOTE = {
    "address": "{}",
    "vsicurl": "/vsicurl/{}",
    "own proxy": "/vsicurl?proxy={}&amp;url=http://nowhere.invalid/a.tif",
    "streaming": "/vsicurl_streaming/{}",
    "archive": "/vsizip//vsicurl/{}.zip/a.tif",
    "bucket": "/vsis3/bucket/a.tif",
    "azure": "/vsiaz/bucket/a.tif",
    "swift": "/vsiswift/bucket/a.tif",
    "wmts": "WMTS:{}",
    "stac": "STACIT:&quot;{}.json&quot;",
}


@pytest.fixture
def offline(monkeypatch):
    """Return a function that runs a command with --no-remote, by whatever proxies a user has."""

    def run(*arguments):
        for name in ("CPL_VSIL_CURL_ALLOWED_FILENAME", "PROJ_NETWORK", "GDAL_VRT_ENABLE_PYTHON"):
            monkeypatch.setenv(name, os.environ.get(name, ""))
        for name in ("GDAL_HTTP_PROXY", "GDAL_HTTPS_PROXY"):
            monkeypatch.setenv(name, "")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        return CliRunner().invoke(app, [*arguments, "--no-remote"])

    return run


@pytest.fixture
def address(write_scene, pixels, asked, monkeypatch):
    """Return where a scene is served, from a process of its own, by whatever kind of service."""
    spawn = multiprocessing.get_context("spawn")
    place, content = spawn.Queue(), Path(write_scene(pixels)).read_bytes()
    process = spawn.Process(target=serve, args=(content, place, asked))
    process.start()
    host = f"127.0.0.1:{place.get(timeout=60)}"
    for name, value in {
        "AWS_S3_ENDPOINT": host,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
        "AZURE_NO_SIGN_REQUEST": "YES",
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=a;"
        f"AccountKey=YQ==;BlobEndpoint=http://{host}/",
        "SWIFT_STORAGE_URL": f"http://{host}",
        "SWIFT_AUTH_TOKEN": "x",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"http://{host}/scene.tif"
    process.kill()


def is_a_line_on_the_option(run):
    lines = run.stderr.splitlines()
    return run.exit_code == 1 and "--no-remote" in lines[-1] and len(lines) == 1


def test_with_no_remote_no_server_is_asked_for_a_scene(tmp_path, address, offline, asked):
    """Whether the name is given or a VRT states it, and whatever reads there by itself."""
    for kind, pattern in REMOTE.items():
        stated = pattern.format(address)
        name = stated.replace("&amp;", "&").replace("&quot;", '"')
        run = offline("info", name)
        assert is_a_line_on_the_option(run), (kind, run.output)
        (tmp_path / "a.vrt").write_text(VRT.format(stated))
        run = offline("quicklook", str(tmp_path / "a.vrt"), "-o", str(tmp_path / "a.png"))
        assert is_a_line_on_the_option(run), (kind, run.output)
    (tmp_path / "wms.xml").write_text(WMS.format(address))
    run = offline("quicklook", str(tmp_path / "wms.xml"), "-o", str(tmp_path / "a.png"))
    assert is_a_line_on_the_option(run), run.output
    assert asked.read_text() == ""


def test_with_no_remote_no_server_is_asked_for_a_layer(tmp_path, scene, address, offline, asked):
    (tmp_path / "a.vrt").write_text(LAYER.format(f"{address}.geojson"))
    for layer in (f"{address}.geojson", f"WFS:{address}", str(tmp_path / "a.vrt")):
        run = offline("quicklook", scene, layer, "-o", str(tmp_path / "a.png"))
        assert is_a_line_on_the_option(run), (layer, run.output)
    assert asked.read_text() == ""


def test_without_the_option_the_same_names_ask_the_server(tmp_path, address, asked):
    (tmp_path / "a.vrt").write_text(VRT.format(address))
    with open_scene(str(tmp_path / "a.vrt")) as scene:
        scene.read(scene.window)
    assert "/scene.tif" in asked.read_text()
