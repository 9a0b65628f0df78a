"""Whatever the size at which a disk is full, no result is taken for whole that is not."""

from __future__ import annotations

import signal
from contextlib import contextmanager

import numpy as np
import pytest

from lemevit_cli.errors import OutputError
from lemevit_cli.settings import OutputOptions

resource = pytest.importorskip("resource")


@contextmanager
def files_of(size):
    """Let no file grow beyond a size, as a disk that is full."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("o.tif", {}),
        ("o.tif", {"format": "COG"}),
        ("o.tif", {"creation_options": {"COMPRESS": "NONE", "TILED": "NO"}}),
        ("o.shp", {}),
        ("o.gpkg", {}),
        ("o.fgb", {}),
        ("o.geojson", {}),
    ],
)
def test_a_full_disk_leaves_no_result_at_any_size(
    make_spec, write_result, tmp_path, capfd, name, options
):
    rng = np.random.default_rng(3)
    side = 520 if name.endswith(".tif") else 64
    ids = rng.integers(0, 3, (side, side), dtype=np.uint8)
    spec, options = make_spec(width=side, height=side), OutputOptions(**options)
    write_result(tmp_path / name, spec, ids, options)
    whole = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        path.unlink()
    size = whole[name]
    for limit in [*range(size // 20, size, size // 20), size - 1]:
        # The error of a part that is larger than the main file stops it as well.
        with pytest.raises(OutputError, match=r"cannot be written") as told, files_of(limit):
            write_result(tmp_path / name, spec, ids, options)
        assert "\n" not in str(told.value)
        assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""  # libtiff has a way of its own to stderr
    write_result(tmp_path / name, spec, ids, options)
    assert whole.keys() == {path.name for path in tmp_path.iterdir()}
