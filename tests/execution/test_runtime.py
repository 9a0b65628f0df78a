import numpy as np
import pytest
import torch
from torch import nn

from lemevit_cli.execution.runtime import TorchRuntime, as_torch_dtype
from lemevit_cli.settings import RuntimeOptions


class Double(nn.Module):
    def forward(self, pixels):
        return pixels.float() * 2


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_scores_are_the_decoded_logits_in_float32(dtype):
    pixels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    runtime = TorchRuntime(Double(), lambda logits: logits + 1, RuntimeOptions(device="cpu"))
    scores = runtime(pixels)
    assert scores.dtype == torch.float32
    np.testing.assert_array_equal(scores.numpy(), pixels.astype(np.float32) * 2 + 1)


def test_the_model_is_put_in_eval_mode():
    model = nn.Sequential(nn.Dropout(0.5), Double()).train()
    TorchRuntime(model, lambda logits: logits, RuntimeOptions(device="cpu"))
    assert not model.training


def test_only_dtypes_that_torch_lacks_are_widened():
    assert as_torch_dtype(np.zeros(1, np.uint8)).dtype == np.uint8
    assert as_torch_dtype(np.zeros(1, np.uint16)).dtype == np.float32
