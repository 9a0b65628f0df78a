from __future__ import annotations

from contextlib import suppress

from lemevit_cli.atomic import placed_together, replacing


def write(target, text):
    with replacing(target, overwrite=True) as path:
        path.write_text(text)


def test_results_that_belong_together_appear_together(tmp_path):
    one, other = tmp_path / "one.tif", tmp_path / "other.gpkg"
    one.write_text("old")
    with placed_together():
        write(one, "new")
        assert one.read_text() == "old"
        write(other, "new")
        assert not other.exists()
    assert one.read_text() == other.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_failure_leaves_none_of_them(tmp_path):
    with suppress(RuntimeError), placed_together():
        write(tmp_path / "one.tif", "new")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    write(tmp_path / "alone.tif", "new")
    assert (tmp_path / "alone.tif").read_text() == "new"
