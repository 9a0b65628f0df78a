import pytest
import torch

from lemevit_cli.errors import DeviceError
from lemevit_cli.models.device import choose_device, choose_dtype

CPU = torch.device("cpu")


def test_auto_takes_the_cpu_where_nothing_else_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert choose_device("auto").type == expected
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta", "xpu:3"])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(DeviceError, match="auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused_with_the_number_seen():
    with pytest.raises(DeviceError, match=f"torch sees {torch.cuda.device_count()} CUDA devices"):
        choose_device("cuda:99")


def test_the_cpu_computes_in_fp32_unless_told():
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(DeviceError, match="needs a GPU"):
        choose_dtype("fp16", CPU)
