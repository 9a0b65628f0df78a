import json

import pytest
import torch

from lemevit_cli.errors import DeviceError
from lemevit_cli.models import cpu_arithmetic
from lemevit_cli.models.cpu_arithmetic import measure_speedup, pays_in_bf16
from lemevit_cli.models.device import choose_dtype
from lemevit_cli.models.processor import PIN, multiplies_bf16

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that makes this a machine whose measurements give what is said."""
    monkeypatch.delenv(PIN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(*, native, speedups):
        answers = iter(speedups)
        monkeypatch.setattr(cpu_arithmetic, "multiplies_bf16", lambda: native)
        monkeypatch.setattr(cpu_arithmetic, "measure_speedup", lambda: next(answers))

    return make


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16 avx512_bf16", False),
    ],
)
def test_the_processors_flags_tell_what_it_multiplies(tmp_path, line, native):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n")
    assert multiplies_bf16(cpuinfo) is native
    assert not multiplies_bf16(tmp_path / "of another system")


@pytest.mark.parametrize(
    ("native", "speedup", "dtype"),
    [
        (True, 1.3, torch.bfloat16),
        (True, 1.1, torch.float32),
        (False, 9.0, torch.float32),
    ],
)
def test_auto_takes_bf16_where_it_is_native_and_pays(machine, native, speedup, dtype):
    machine(native=native, speedups=[speedup])
    assert choose_dtype("auto", CPU, for_inference=True) == dtype
    assert choose_dtype("fp32", CPU, for_inference=True) == torch.float32
    assert choose_dtype("auto", CPU) == torch.float32  # training


def test_it_is_measured_once_for_a_number_of_threads(machine, tmp_path):
    machine(native=True, speedups=[2.0, 1.0])
    before = torch.get_num_threads()
    assert pays_in_bf16() and pays_in_bf16()
    try:
        torch.set_num_threads(before + 1)
        assert not pays_in_bf16()
    finally:
        torch.set_num_threads(before)
    assert pays_in_bf16()
    kept = json.loads((tmp_path / "lemevit" / "cpu-bf16.json").read_text())
    assert sorted(kept.values()) == [1.0, 2.0]
    assert all(torch.__version__ in key for key in kept)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"another": 1}', "null"])
def test_a_cache_that_tells_nothing_is_written_anew(machine, tmp_path, text):
    machine(native=True, speedups=[2.0])
    file = tmp_path / "lemevit" / "cpu-bf16.json"
    file.parent.mkdir()
    file.write_text(text)
    assert pays_in_bf16() and pays_in_bf16()


def test_a_cache_that_cannot_be_written_is_no_failure(machine, tmp_path):
    machine(native=True, speedups=[2.0, 1.0])
    (tmp_path / "lemevit").write_text("a file where the folder should be")
    assert pays_in_bf16()
    assert not pays_in_bf16()


def test_the_environment_pins_it(machine, monkeypatch):
    machine(native=True, speedups=[])
    for pinned, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        monkeypatch.setenv(PIN, pinned)
        assert choose_dtype("auto", CPU, for_inference=True) == dtype
    monkeypatch.setenv(PIN, "int8")
    with pytest.raises(DeviceError, match=r"LEMEVIT_CPU_PRECISION=int8: set fp32 or bf16"):
        pays_in_bf16()


def test_a_measurement_is_a_ratio_of_seconds():
    assert 0.01 < measure_speedup() < 100
