import pytest

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.change.classes import (
    change_groups,
    change_names,
    classes_of_all,
    ids_of_swapped_dates,
)

KINDS = ("unchanged", "built", "torn down")
ONE = ("unchanged", "changed")


def test_one_kind_of_change_is_called_the_same_everywhere():
    assert change_names(["no-change", "building change"]) == ONE
    assert change_names(["nothing", "built", "torn down"]) == KINDS


def test_a_model_learns_the_kinds_that_some_set_tells_apart():
    assert classes_of_all([("a", ONE), ("b", ONE)]) == ONE
    assert classes_of_all([("a", ONE), ("b", KINDS)]) == KINDS
    with pytest.raises(DataError, match="c tells apart felled, grown, b built, torn down"):
        classes_of_all([("b", KINDS), ("c", ("unchanged", "felled", "grown"))])


def test_where_one_side_knows_one_kind_it_stands_for_all():
    assert change_groups(KINDS, ONE) == (0, 1, 1)
    assert change_groups(KINDS, ("unchanged", "torn down", "built")) == (0, 2, 1)
    assert change_groups(ONE, ONE) == (0, 1)


def test_what_was_built_is_torn_down_once_the_dates_are_swapped():
    assert ids_of_swapped_dates(ONE)[[0, 1, 255]].tolist() == [0, 1, 255]
    assert ids_of_swapped_dates(KINDS)[[0, 1, 2, 255]].tolist() == [0, 2, 1, 255]
    assert ids_of_swapped_dates(("unchanged", "flooded", "burnt")) is None
