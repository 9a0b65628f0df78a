"""Which pixel size the model sees, what is said of it, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.inference.pixel_size import choose_scale
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, read_card, starter_weights

CARD = Card(task="seg", backbone="-", classes=classes_from_names("ab"), gsd_m=(0.1, 2.0))


def scene(side, other=None, width=360, height=180):
    other = side if other is None else other
    sides = None if side is None else (side, other)
    gsd = None if side is None else (side * other) ** 0.5
    return SimpleNamespace(name="s.tif", width=width, height=height, gsd_m=gsd, pixel_sides_m=sides)


@pytest.mark.parametrize(
    ("side", "spec", "scale", "far", "said"),
    [
        (0.5, "auto", 1, False, None),
        (2.0, "auto", 1, False, None),
        (0.05, "auto", 0.5, False, "0.05 m are read at 0.1 m; the weights learned 0.1 to 2 m"),
        (3, "auto", 1.5, False, "3 m are read at 2 m; the weights learned 0.1 to 2 m"),
        (8, "auto", 4, True, "far coarser"),
        (100, "native", 1, True, "100 m are read as they are"),
        (0.001, "native", 1, True, "far finer"),
        (0.5, "1", 0.5, False, "0.5 m are read at 1 m"),
        (2, "8", 0.25, True, "far coarser"),
    ],
)
def test_a_pixel_size_is_chosen_and_told_in_words(side, spec, scale, far, said):
    found = choose_scale(scene(side), CARD, spec)
    assert found.both == pytest.approx((scale, scale)) and found.is_far is far
    assert (found.note is None) if said is None else (said in found.note)
    assert "(" not in (found.note or "")  # no tuple


@pytest.mark.parametrize(
    ("given", "spec", "said"),
    [
        (scene(10_000), "auto", "would be 1,800,000 x 900,000 pixels (it has 360 x 180)"),
        (scene(8.1), "auto", "enlarged 4.05 times where 4 times is the most"),
        (scene(1, 9), "auto", "would be 360"),
        (scene(0.5), "0.1", "enlarged 5 times"),
        (scene(0.01), "2", "shrunk 200 times where 128 times is the most"),
    ],
)
def test_beyond_the_limits_a_scene_is_refused_with_its_cost(given, spec, said):
    card = CARD if spec != "auto" or given.pixel_sides_m[1] != 9 else replace(CARD, gsd_m=(1, 1))
    with pytest.raises(SceneError, match="--gsd native, which shows") as refusal:
        choose_scale(given, card, spec)
    assert said in str(refusal.value) and "the weights learned" in str(refusal.value)
    assert choose_scale(given, card, "native").both == (1, 1)


def test_without_a_place_or_without_known_sizes_pixels_are_read_as_they_are():
    assert choose_scale(scene(None), CARD, "auto").note is None
    with pytest.raises(LemevitError, match="no size on the ground"):
        choose_scale(scene(None), CARD, "0.5")
    found = choose_scale(scene(10), replace(CARD, gsd_m=None), "auto")
    assert found.both == (1, 1) and "do not say what pixel sizes" in found.note


@pytest.mark.parametrize("name", ["landcover", "objects", "buildings-change"])
def test_starter_weights_know_their_pixel_sizes_and_refuse_those_of_a_satellite(name):
    card = read_card(starter_weights()[name])
    with pytest.raises(SceneError, match="its pixels of 10 m read at"):
        choose_scale(scene(10), card, "auto")
