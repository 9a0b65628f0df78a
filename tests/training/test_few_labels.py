from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lemevit_cli.errors import DataError
from lemevit_cli.models.pixel_view import PixelView
from lemevit_cli.training.datasets.source import Cells, Sources
from lemevit_cli.training.few_labels import fit_single_pixels, suit_few_labels
from lemevit_cli.training.options import TrainingOptions


def found(labelled, *, pixels=100_000, complete=False):
    """Return one scene with so many labelled pixels."""
    source = SimpleNamespace(is_complete=complete, num_pixels=pixels)
    counts = np.array([[labelled // 2, labelled - labelled // 2]])
    cells = Cells(np.zeros((1, 5), dtype=np.int64), counts)
    return Sources((source,), (cells,), (1.0,), (), (), ())


def test_few_labels_take_their_recipe_on_a_scene_of_any_size():
    options = TrainingOptions(init="landcover")
    for pixels in (100_000, 100_000_000):
        suited = suit_few_labels(options, found(pixels // 100, pixels=pixels))
        assert (suited.decoder, suited.backbone_lr) == ("upernet_pixels", 0.0)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (found(5_000), TrainingOptions(init="landcover")),
        (found(1_000, complete=True), TrainingOptions(init="landcover")),
        (found(1_000), TrainingOptions()),
        (found(1_000), TrainingOptions(init="landcover", backbone="lemevit_small")),
    ],
    ids=["a twentieth", "all is labelled", "nothing known", "another backbone"],
)
def test_the_usual_recipe_stays_where_labels_are_many_or_nothing_is_known(data, options):
    assert suit_few_labels(options, data) == options


def test_what_the_user_chose_stays():
    chosen = TrainingOptions(init="landcover", lr=6e-4, chosen=("lr", "decoder"))
    suited = suit_few_labels(chosen, found(1_000))
    assert (suited.lr, suited.decoder, suited.backbone_lr) == (6e-4, None, 0.0)
    first = TrainingOptions(init="landcover", head_first=0.3)
    assert suit_few_labels(first, found(1_000)).backbone_lr == 1.0


class Model(torch.nn.Module):
    """A model whose colours and detail are the pixels themselves."""

    def __init__(self):
        super().__init__()
        self.pixel_view = PixelView(bands=3, detail=3, num_classes=3)

    def pixel_inputs(self, pixels):
        return pixels.repeat(1, 8, 1, 1), pixels


def samples(groups):
    def sample(index):
        ids = torch.randint(0, 2, (16, 16), generator=torch.Generator().manual_seed(index))
        return {"pixels": 5.0 * ids.expand(3, 16, 16), "ids": ids, "groups": torch.tensor(groups)}

    return [sample(index) for index in range(64)]


def test_pixels_that_stand_for_several_classes_teach_the_view_nothing():
    torch.manual_seed(0)
    model = Model()
    fit_single_pixels(model, samples([0, 1, 0]))  # id 0 may be the first class or the third
    shown = torch.full((1, 24, 1, 1), 5.0), torch.full((1, 3, 1, 1), 5.0)
    assert model.pixel_view.answer(*shown).argmax() == 1
    assert model.pixel_view.norm_detail.running_mean.tolist() == [5.0] * 3  # of id 1 alone
    with pytest.raises(DataError, match="stand for several classes each; take --decoder upernet"):
        fit_single_pixels(Model(), samples([0, 0, 0]))
