"""A module of torch that takes a batch of windows and answers scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lemevit_cli.errors import DeviceError
from lemevit_cli.inference.network import Decode
from lemevit_cli.inference.runtime import Wait
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import RuntimeOptions


class TorchRuntime:
    """Runs a module with torch: one device, one precision, no gradients.

    A batch that does not fit into a GPU's memory goes through in halves, and so do all after it.

    Args:
        model: pixels to scores or candidates, a tensor.
        decode: these to scores or boxes (a task's).
        progress: told of memory that was too small.
    """

    def __init__(
        self,
        model: nn.Module,
        decode: Decode,
        options: RuntimeOptions,
        progress: Progress | None = None,
    ) -> None:
        use_threads(options.threads)
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.precision, self._device, for_inference=True)
        self._decode, self._progress = decode, progress or Silent()
        self._model = model.eval().to(self._device).to(memory_format=torch.channels_last)
        self._transfer = CudaTransfer(self._device) if self._device.type == "cuda" else None
        self._most: int | None = None  # windows that fit at once, once more did not

    @property
    def version(self) -> str:
        """Name torch with its version."""
        return f"torch {torch.__version__}"

    @property
    def device(self) -> str:
        """Name the device."""
        return str(self._device)

    @property
    def arithmetic(self) -> str:
        """Name what the model computes in."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def threads(self) -> int:
        """Count torch's threads."""
        return torch.get_num_threads()

    @property
    def in_flight(self) -> int:
        """Count the batches that are worth beginning before the answers to one are taken."""
        return 1 if self._transfer else 0

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return self.begin(pixels)()

    @torch.inference_mode()
    def begin(self, pixels: NDArray[Any]) -> Wait:
        """Begin with a batch; return what waits for its answers."""
        batch = torch.from_numpy(as_torch_dtype(pixels))
        if self._transfer:
            outputs = self.outputs_of(self._transfer.upload(batch))
            wait = self._transfer.download(outputs)
        else:
            wait = self.outputs_of(batch.to(self._device)).float().cpu().numpy
        return lambda: self._answers_of(wait())

    @torch.inference_mode()
    def outputs_of(self, batch: Tensor) -> Tensor:
        """Return what the model makes of a batch on its device, there: nothing is copied."""
        while True:
            most = min(self._most or len(batch), len(batch))
            try:
                with torch.autocast(
                    self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
                ):
                    parts = [self._model(part) for part in batch.split(most)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
            # Here the error has let go of what its frames held.
            self._most = most // 2
            torch.cuda.empty_cache()
            self._progress.note(
                f"{most} windows at once are too many for the memory of {self._device}: "
                f"{self._most} from here on"
            )

    def _answers_of(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        answers = self._decode(outputs)
        if not np.isfinite(answers.sum()):
            raise DeviceError(
                f"the model answers what is no number in {self._dtype} on {self._device}; "
                "try --precision fp32"
            )
        return answers


class CudaTransfer:
    """Copies batches to a GPU and answers back while it computes others, on streams of their own.

    Through pinned memory, which torch hands out again once the copies of it have ended.

    Args:
        cuda: ``torch.cuda``.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._up, self._down = cuda.Stream(device), cuda.Stream(device)

    def upload(self, batch: Tensor) -> Tensor:
        """Send a batch; what is computed of it next on the GPU waits for it."""
        computing = self._cuda.current_stream(self._device)
        with self._cuda.stream(self._up):
            there = batch.pin_memory().to(self._device, non_blocking=True)
        computing.wait_stream(self._up)
        there.record_stream(computing)  # its memory is not another's before that has read it
        return there

    def download(self, outputs: Tensor) -> Wait:
        """Fetch outputs as soon as they are computed; return what waits for them."""
        self._down.wait_stream(self._cuda.current_stream(self._device))
        with self._cuda.stream(self._down):
            here = torch.empty(outputs.shape, dtype=torch.float32, pin_memory=True)
            # Of one dtype: the copy would have to convert in pageable memory.
            here.copy_(outputs.float(), non_blocking=True)
            outputs.record_stream(self._down)
            arrived = self._cuda.Event()
            arrived.record(self._down)

        def wait() -> NDArray[np.float32]:
            arrived.synchronize()
            return here.numpy()

        return wait


def check_options(options: RuntimeOptions) -> None:
    """Refuse a device or a precision that this machine has not.

    Raises:
        DeviceError: naming it.
    """
    choose_dtype(options.precision, choose_device(options.device))


def as_torch_dtype(pixels: NDArray[Any]) -> NDArray[Any]:
    """Cast values to a dtype that torch computes with: uint8 and float32 stay, others widen."""
    return pixels if pixels.dtype in (np.uint8, np.float32) else pixels.astype(np.float32)
