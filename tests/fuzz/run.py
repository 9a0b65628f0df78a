"""The run: break a file, use it, and count what comes of it; always the same for one seed."""

from __future__ import annotations

import faulthandler
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from lemevit_cli.errors import LemevitError

from .mutations import break_file
from .seeds import Seed, make_seeds
from .uses import USES

OUTCOMES = ("processed", "refused", "traceback", "over time", "over memory")
BAD = OUTCOMES[2:]
_MOST_S = 20  # of the processor, for files that take hundredths of a second
_LONGEST_WAIT_S = 120  # on the clock: then the process ends and says where it was
_MOST_BYTES = 2**30  # beyond what the process holds
_MOST_ADDRESSES = 8 * 2**30
_KEPT_OF_A_KIND = 3
_OURS = "lemevit_cli"


class OverTimeError(BaseException):
    """Ends what takes too long; no handler of errors of files takes it for one."""


@dataclass
class Tally:
    """What came of all inputs: outcomes by kind of input, and the first of each fault.

    Args:
        faults: by where in our code and by which error, how often; and what to repeat it by.
    """

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, outcome: str) -> None:
        """Count an outcome."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    def count(self, *outcomes: str) -> int:
        """Return how many inputs came to one of these."""
        return sum(counts[name] for counts in self.outcomes.values() for name in outcomes)

    def table(self) -> str:
        """Return lines: counts a kind, then the faults with commands that repeat them."""
        lines = [f"{'':16}" + "".join(f"{name:>13}" for name in OUTCOMES)]
        rows = {**self.outcomes, "all": sum(self.outcomes.values(), Counter())}
        for kind, counts in rows.items():
            lines.append(f"{kind:16}" + "".join(f"{counts[name]:13,}" for name in OUTCOMES))
        for fault, count in self.faults.most_common():
            lines += [f"{count:,} x {fault}", *(f"    {line}" for line in self.kept[fault])]
        return "\n".join(lines)


def fuzz(
    kept: Path, *, seed: int = 0, inputs: int | None = None, seconds: float | None = None
) -> Tally:
    """Use broken files one after the other, as many as asked for or until the time is over.

    Args:
        kept: folder for inputs that fail; it is made when the first one does.
        seed: input ``n`` of a seed is always the same.
    """
    tally, ends = Tally(), time.monotonic() + (seconds or 1e9)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, _quiet(), _bounded_memory():
        seeds = make_seeds(Path(name) / "whole")
        for number in range(inputs if inputs is not None else sys.maxsize):
            if time.monotonic() > ends:
                break
            _run_one(Path(name), seeds, kept, tally, seed=seed, number=number)
    return tally


def _run_one(
    place: Path, seeds: list[Seed], kept: Path, tally: Tally, *, seed: int, number: int
) -> None:
    random = Random(f"{seed}/{number}")
    chosen = seeds[number % len(seeds)]
    # A folder of its own: libraries remember files by their names.
    folder = place / f"{number}"
    shutil.copytree(place / "whole" / chosen.name, folder)
    target = folder / random.choice(chosen.broken)
    said = break_file(target, random)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    faulthandler.dump_traceback_later(_LONGEST_WAIT_S, exit=True)
    outcome, fault = use(folder, chosen.use, chosen.subject)
    faulthandler.cancel_dump_traceback_later()
    tally.add(chosen.name, outcome)
    if outcome in BAD:
        key = f"{outcome}: {fault}"
        tally.faults[key] += 1
        commands = tally.kept.setdefault(key, [])
        if len(commands) < _KEPT_OF_A_KIND:
            _keep(kept / f"{seed}-{number}-{chosen.name}", folder, before, chosen)
            where = kept / f"{seed}-{number}-{chosen.name}"
            changed = f"{target.relative_to(folder)}: {said}"
            commands.append(f"python -m tests.fuzz --repeat {where}  # {changed}"[:300])
    shutil.rmtree(folder)


def _keep(to: Path, folder: Path, before: dict[Path, bytes], seed: Seed) -> None:
    for path, content in before.items():
        there = to / path.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)
    (to / "use.json").write_text(json.dumps({"use": seed.use, "subject": seed.subject}))


def repeat(folder: Path) -> None:
    """Use a kept input again, and let its error out."""
    how = json.loads((folder / "use.json").read_text())
    USES[how["use"]](folder, how["subject"])


def use(folder: Path, name: str, subject: str) -> tuple[str, str]:
    """Use a file and return the outcome, and of a fault its error and where in our code it left."""
    start = _reset_peak()
    try:
        with _bounded_time():
            USES[name](folder, subject)
        outcome, fault = "processed", ""
    except LemevitError as error:
        outcome, fault = ("refused", "") if str(error) else ("traceback", "an error without words")
        if isinstance(error.__cause__, MemoryError):
            outcome, fault = "over memory", _place_of(error)
    except OverTimeError as error:
        outcome, fault = "over time", _place_of(error)
    except MemoryError as error:
        outcome, fault = "over memory", _place_of(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of Rust are no Exceptions
        outcome, fault = "traceback", f"{_name_of(error)} from {_place_of(error)}"
    if outcome in OUTCOMES[:2] and (peak := _peak() - start) > _MOST_BYTES:
        outcome, fault = "over memory", f"{name} that is {outcome}, by {peak / 2**30:.0f} GiB"
    return outcome, fault


def _name_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")


def _place_of(error: BaseException) -> str:
    """Return the innermost line of our code that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"/{_OURS}/" in frame.filename] or frames
    frame = ours[-1]
    return f"{frame.filename.rpartition(f'/{_OURS}/')[2]}:{frame.lineno} {frame.name}"


@contextmanager
def _bounded_time() -> Iterator[None]:
    """Raise when the processor has worked for too long: on a busy machine the clock says little."""

    def end(*_: object) -> None:
        raise OverTimeError

    earlier = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, _MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let what asks for too much fail, before the machine does."""
    earlier = resource.getrlimit(resource.RLIMIT_AS)
    held = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (held + _MOST_ADDRESSES, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, earlier)


def _reset_peak() -> int:
    """Forget the largest memory so far, where the system can; return what is held."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    """Return a figure of memory of this process, in bytes; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    # Of warnings the program's console decides, not a run of thousands.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
