from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from lemevit_cli.inference.runtime import SymmetricRuntime
from lemevit_cli.inference.runtimes.torch import CudaTransfer, TorchRuntime, as_torch_dtype
from lemevit_cli.progress import Silent
from lemevit_cli.settings import RuntimeOptions


class Double(nn.Module):
    def forward(self, pixels):
        return pixels.float() * 2


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_scores_are_the_decoded_outputs_in_float32(dtype):
    pixels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    runtime = TorchRuntime(Double(), lambda outputs: outputs + 1, RuntimeOptions(device="cpu"))
    scores = runtime(pixels)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, pixels.astype(np.float32) * 2 + 1)


def test_the_model_is_put_in_eval_mode():
    model = nn.Sequential(nn.Dropout(0.5), Double()).train()
    TorchRuntime(model, lambda outputs: outputs, RuntimeOptions(device="cpu"))
    assert not model.training


def test_only_dtypes_that_torch_lacks_are_widened():
    assert as_torch_dtype(np.zeros(1, np.uint8)).dtype == np.uint8
    assert as_torch_dtype(np.zeros(1, np.uint16)).dtype == np.float32


class Directed(nn.Module):
    """Answers that depend on where up is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.convolution = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, pixels):
        return self.convolution(pixels.float()).softmax(1)


def runtimes(model):
    plain = TorchRuntime(model, lambda scores: scores, RuntimeOptions(device="cpu"))
    return plain, SymmetricRuntime(plain)


def test_symmetries_change_nothing_for_an_equivariant_model():
    pixels = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    plain, symmetric = runtimes(Double())
    np.testing.assert_allclose(symmetric(pixels), plain(pixels), atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_with_symmetries_a_turned_window_has_the_turned_scores(turns, mirrored):
    pixels = np.random.default_rng(0).random((2, 3, 24, 24), dtype=np.float32)
    plain, symmetric = runtimes(Directed())

    def turn(values):
        turned = np.rot90(values, turns, axes=(2, 3))
        return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)

    expected = turn(symmetric(pixels))
    np.testing.assert_allclose(symmetric(turn(pixels)), expected, atol=1e-6)
    assert np.abs(plain(turn(pixels)) - turn(plain(pixels))).max() > 0.05


def test_symmetries_are_the_mean_over_all_eight():
    pixels = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    model = Directed()
    _, symmetric = runtimes(model)
    answers = []
    for axes in ((2, 3), (3, 2)):
        for flips in ((), (2,), (3,), (2, 3)):
            seen = torch.from_numpy(pixels).permute(0, 1, *axes).flip(flips)
            answers.append(model(seen).flip(flips).permute(0, 1, *axes))
    expected = torch.stack(answers).mean(0).detach()
    np.testing.assert_allclose(symmetric(pixels), expected.numpy(), atol=1e-6)


class Crowded(Double):
    """Has room for a few windows at once."""

    def __init__(self, room):
        super().__init__()
        self.room, self.seen = room, []

    def forward(self, pixels):
        self.seen.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(pixels)


class Listener(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_batch_without_room_goes_through_in_halves_from_then_on():
    pixels = np.random.default_rng(0).random((10, 3, 4, 4), dtype=np.float32)
    model, listener = Crowded(room=3), Listener()
    runtime = TorchRuntime(model, lambda scores: scores, RuntimeOptions(device="cpu"), listener)
    np.testing.assert_array_equal(runtime(pixels), pixels * 2)
    assert model.seen == [10, 5, 2, 2, 2, 2, 2]
    np.testing.assert_array_equal(runtime(pixels[:5]), pixels[:5] * 2)
    assert model.seen[7:] == [2, 2, 1]
    assert listener.notes == [
        "10 windows at once are too many for the memory of cpu: 5 from here on",
        "5 windows at once are too many for the memory of cpu: 2 from here on",
    ]


def test_a_window_without_room_is_an_error():
    runtime = TorchRuntime(Crowded(room=0), lambda scores: scores, RuntimeOptions(device="cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        runtime(np.zeros((4, 3, 4, 4), np.float32))


class Stream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class FakeCuda:
    """As much of torch.cuda as copies need; its work is done at once, and its order kept."""

    def __init__(self):
        self.log, self.names = [], iter(("up", "down"))
        self.computing = Stream("compute", self.log)

    def Stream(self, device):  # noqa: N802 - torch's name
        return Stream(next(self.names), self.log)

    def current_stream(self, device):
        return self.computing

    @contextmanager
    def stream(self, stream):
        self.log.append(f"on {stream.name}")
        yield

    def Event(self):  # noqa: N802 - torch's name
        return self

    def record(self, stream):
        self.log.append(f"mark on {stream.name}")

    def synchronize(self):
        self.log.append("arrived")


def test_copies_wait_for_what_they_copy_and_nobody_else(monkeypatch):
    """No GPU is asked for: the order of streams is all that is ours."""
    fake, empty = FakeCuda(), torch.empty
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory, **kind: empty(*shape, **kind))
    transfer, pixels = CudaTransfer(torch.device("cpu"), fake), torch.rand(2, 3, 4, 4)
    np.testing.assert_array_equal(transfer.upload(pixels), pixels)
    assert fake.log == ["on up", "compute waits for up"]
    fake.log.clear()
    wait = transfer.download(pixels.to(torch.bfloat16))
    assert fake.log == ["down waits for compute", "on down", "mark on down"]
    answers = wait()
    assert fake.log[-1] == "arrived" and answers.dtype == np.float32
    np.testing.assert_array_equal(answers, pixels.to(torch.bfloat16).float())
