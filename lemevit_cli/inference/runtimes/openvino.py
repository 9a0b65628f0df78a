"""OpenVINO runs a converted network on the processor; torch has no part in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import DeviceError
from lemevit_cli.inference.conversions import folder, keep
from lemevit_cli.inference.network import Decode
from lemevit_cli.inference.runtime import count_cores
from lemevit_cli.models.converted import Converted, core
from lemevit_cli.models.processor import FLAGS, fact_of_processor, pinned_precision
from lemevit_cli.settings import RuntimeOptions

# What converts models of others takes longer to import than all the rest of OpenVINO, which does
# without where it is missing.
_CONVERTER = "openvino.tools.ovc"
if _CONVERTER not in sys.modules:
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]
    import openvino

    del sys.modules[_CONVERTER]
else:
    import openvino

VERSION = f"openvino {openvino.get_version().split('-')[0]}"
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_KEPT = 4  # compiled forms of a network: for other threads, batches, arithmetic
_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


class OpenVINORuntime:
    """Runs a network on all windows of a batch side by side, each with its share of the threads.

    That is faster than one window after the other on all threads.

    Args:
        networks: the converted network for windows of a height and width.
        decode: its answers to scores or boxes (a task's).
        quantized: the network holds whole numbers, for which ``precision`` asks in vain.
    """

    def __init__(
        self,
        networks: Callable[[tuple[int, int]], Converted],
        decode: Decode,
        options: RuntimeOptions,
        *,
        quantized: bool = False,
    ) -> None:
        self._networks, self._decode = networks, decode
        self._lowered = choose_arithmetic(options.precision)
        self._quantized = quantized
        self._threads = options.threads or count_cores()
        self._requests: dict[tuple[int, ...], list[openvino.InferRequest]] = {}

    @property
    def version(self) -> str:
        """Name OpenVINO with its version."""
        return VERSION

    @property
    def device(self) -> str:
        """Name the device."""
        return "cpu"

    @property
    def arithmetic(self) -> str:
        """Name what the model computes in."""
        return f"int8 and {self._lowered}" if self._quantized else self._lowered

    @property
    def threads(self) -> int:
        """Count the threads of all windows together."""
        return self._threads

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        if pixels.shape not in self._requests:
            self._requests[pixels.shape] = self._compile(pixels.shape)
        requests = self._requests[pixels.shape]
        outputs = []
        for first in range(0, len(pixels), len(requests)):
            windows = pixels[first : first + len(requests)]
            running = requests[: len(windows)]
            for request, window in zip(running, windows, strict=True):
                request.start_async({0: window[None].astype(np.float32)})
            for request in running:
                request.wait()
                outputs.append(request.get_output_tensor(0).data[0].copy())
        answers = self._decode(np.stack(outputs))
        if not np.isfinite(answers.sum()):
            raise DeviceError(
                f"the model answers what is no number in {self.arithmetic} by {VERSION}; "
                "try --precision fp32, or --runtime torch"
            )
        return answers

    def _compile(self, shape: tuple[int, ...]) -> list[openvino.InferRequest]:
        streams = min(shape[0], self._threads)
        configuration = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._lowered],
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            # Neighbours of a run want a core, too.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = compile_network(self._networks((shape[2], shape[3])), configuration)
        return [compiled.create_infer_request() for _ in range(streams)]


def compile_network(network: Converted, configuration: Mapping[str, Any]) -> openvino.CompiledModel:
    """Compile a network, or take what an earlier process compiled of it from the user's cache.

    That is three times as fast. What is broken there, or not to OpenVINO's taste, is made anew.
    """
    file = file_of(network, configuration)
    if (kept := _read_checked(file)) is not None:
        with suppress(RuntimeError):
            return core().import_model(kept, "CPU", configuration)
    graph = core().read_model(network.graph, openvino.Tensor(network.constants))
    compiled = core().compile_model(graph, "CPU", configuration)
    keep(lambda: _write_checked(file, compiled.export_model().getvalue()), file)
    return compiled


def file_of(network: Converted, configuration: Mapping[str, Any]) -> Path:
    """Return where a compiled network is kept, by all that decides what is compiled."""
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    processor = [core().get_property("CPU", name) for name in names]
    decisive = (openvino.get_version(), sorted(configuration.items()), processor)
    fingerprint = sha256(repr((decisive, fact_of_processor(FLAGS))).encode()).hexdigest()[:12]
    return folder() / f"{network.digest}-{fingerprint}.blob"


def _write_checked(file: Path, content: bytes) -> None:
    """Write bytes behind their digest; of one network, the oldest files make room."""
    with written_whole(file) as temporary:
        temporary.write_bytes(sha256(content).digest() + content)
    of_network = file.parent.glob(f"{file.name.partition('-')[0]}-*.blob")
    for old in sorted(of_network, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)


def _read_checked(file: Path) -> bytes | None:
    """Read what is kept, None if it is not there or broken: OpenVINO may not survive that."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    size = sha256().digest_size
    content, digest = content[size:], content[:size]
    return content if sha256(content).digest() == digest else None


def choose_arithmetic(precision: str) -> str:
    """Choose what is computed in: ``auto`` is bfloat16 where the processor multiplies it natively.

    Raises:
        DeviceError: for fp16, which processors do not multiply, or a pin that is no precision.
    """
    if precision == "auto":
        precision = pinned_precision() or ("bf16" if multiplies_bf16() else "fp32")
    if precision not in _PRECISIONS:
        raise DeviceError(f"precision {precision}: OpenVINO computes in fp32 or bf16")
    return _PRECISIONS[precision]


def multiplies_bf16() -> bool:
    """Tell whether the processor has instructions that multiply bf16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
