import pytest
import torch

from lemevit_cli.errors import DataError
from lemevit_cli.metrics.class_groups import NO_GROUP, groups_of, union_of_classes
from lemevit_cli.training.losses import own_ids

FIVE = ("land", "building", "road", "vegetation", "water")


def test_background_is_no_class_where_another_source_names_all_there_is():
    assert union_of_classes([FIVE, ("background", "building")]) == FIVE


def test_background_stays_a_class_where_every_source_has_it():
    lists = [("background", "building"), ("background", "ship")]
    assert union_of_classes(lists) == ("background", "building", "ship")


def test_all_that_a_source_does_not_name_is_its_background():
    assert groups_of(FIVE, ("background", "building")) == (0, 1, 0, 0, 0)
    assert groups_of(FIVE, ("water", "road")) == (NO_GROUP, NO_GROUP, 1, NO_GROUP, 0)


def test_sources_that_share_only_the_background_are_refused():
    with pytest.raises(DataError, match="data know background, ship, the model background, car"):
        groups_of(("background", "car"), ("background", "ship"))


def test_ids_that_stand_for_one_class_alone_are_kept():
    groups = torch.tensor([0, 1, 0, NO_GROUP, 2])
    ids = torch.tensor([[0, 1, 2, 255]])
    assert own_ids(ids, groups).tolist() == [[255, 1, 4, 255]]
