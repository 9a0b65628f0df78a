import numpy as np
import pytest
import torch

from lemevit_cli.errors import LemevitError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks import load_training
from lemevit_cli.tasks.segmentation.network import NETWORK
from lemevit_cli.tasks.segmentation.training import TRAINING

FIVE = ("land", "building", "road", "vegetation", "water")


def test_the_faster_model_answers_the_scores_of_the_same_logits():
    card = Card(
        task="seg",
        backbone="lemevit_tiny",
        head="upernet",
        classes=classes_from_names(FIVE),
        head_args={"decoder_channels": 64},
    )
    torch.manual_seed(0)
    model = NETWORK.build_model(card).eval()
    pixels = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        logits = model(pixels).double()
        scores = NETWORK.for_inference(model)(pixels)
    expected = (logits.exp() / logits.exp().sum(dim=1, keepdim=True)).float()
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(NETWORK.decode(scores.numpy()), scores)


def test_an_unknown_task_lists_the_known():
    assert load_training("seg") is TRAINING
    with pytest.raises(LemevitError, match="no task 'segment'; tasks are seg"):
        load_training("segment")


@pytest.mark.parametrize("decoder", ["upernet", "upernet_paper", "unet"])
def test_divided_logits_keep_the_classes(decoder):
    card = Card(task="seg", backbone="test_resnet", head=decoder, classes=classes_from_names(FIVE))
    torch.manual_seed(0)
    model = NETWORK.build_model(card).eval()
    pixels = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        before = model(pixels)
        model.divide_logits(1.7)
        torch.testing.assert_close(model(pixels), before / 1.7)
