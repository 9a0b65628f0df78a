"""lemevit beside its peers: one scene, one model, the same windows, every process as a whole.

    python benchmarks/peers/environments.py FOLDER
    python benchmarks/peers/run.py FOLDER --size 8192 --model conv --repeats 3

All take turns in every repeat, each in a process and an environment of its own, with the same
number of threads. Measured are the seconds of the process, from start to end, the seconds of the
call within it (imports left out), and the peak of the resident memory of the process with its
children, looked at ten times a second. A table goes to stdout: medians, their ratios to lemevit's
(bold where below 1), and the share of pixels that get lemevit's class, so that whoever computes
something else is found out. A process that passes `--memory-limit` is ended, and the table says so.
The folder `--work` keeps scene, results and what each process said; `--json` all runs, with their
CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import rasterio
from environments import PEERS, interpreter
from job import Job

HERE = Path(__file__).parent
OURS = "lemevit"
AS_IT_COMES = "lemevit-defaults"  # the arithmetic that it chooses by itself, with the real network
SAME_ARITHMETIC = ["--precision", "fp32", "--runtime", "torch"]  # as all others compute
CLASSES = {"conv": 6, "landcover": 5}
PAUSE_S = 0.1


@dataclass(frozen=True)
class Run:
    """One process: its seconds, those of the call within it, peak memory, and why it failed.

    ``cpu`` adds up the seconds of all its threads, which says more than the clock on a machine that
    has other work.
    """

    seconds: float
    call: float
    cpu: float
    peak_mb: float
    failure: str = ""


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        write_inputs(work, args)
        names = [OURS, *([AS_IT_COMES] if args.model == "landcover" else []), *args.peers]
        runs: dict[str, list[Run]] = {name: [] for name in names}
        equal: dict[str, float] = {}
        for repeat in range(args.repeats):
            for name, found in runs.items():
                if found and found[-1].failure:
                    continue  # it would fail again
                found.append(run_peer(name, work, args))
                print(f"{name}, repeat {repeat + 1}: {found[-1]}", file=sys.stderr)
                if name == OURS and found[-1].failure:
                    sys.exit(f"lemevit failed, so there is nothing to compare with; see {work}")
                if not found[-1].failure:
                    theirs, ours = result_of(name, work), result_of(OURS, work)
                    equal[name] = share_of_equal_pixels(theirs, ours)
    titles = {name: f"{name} {version_of(name, args.environments)}" for name in runs}
    print(table(titles, runs, equal))
    if args.json:
        args.json.write_text(json.dumps(report(args, titles, runs, equal), indent=1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environments", type=Path, help="the folder that environments.py made")
    parser.add_argument("--size", type=int, default=8192, help="side of the scene in pixels")
    parser.add_argument("--model", choices=CLASSES, default="conv")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2, help="windows a pass; geo-inference: 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--memory-limit",
        type=float,
        default=0.85 * psutil.virtual_memory().total / 1e9,
        help="GB that a process may take; default: 85 %% of the machine's",
    )
    parser.add_argument("--work", type=Path, help="folder for scene, results and logs; is kept")
    parser.add_argument("--json", type=Path, help="all runs, for later")
    return parser.parse_args()


def write_inputs(work: Path, args: argparse.Namespace) -> None:
    command = [sys.executable, str(HERE / "inputs.py"), str(work), "--size", str(args.size)]
    command += ["--model", args.model, "--window", str(args.window)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def run_peer(name: str, work: Path, args: argparse.Namespace) -> Run:
    """Run one process to its end, looking at its memory; its folder keeps what it wrote."""
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "scratch").mkdir(parents=True)
    job = Job(
        scene=str(work / "scene.tif"),
        probabilities=str(work / "probabilities.pt"),
        logits=str(work / "logits.pt"),
        result=str(result_of(name, work)),
        scratch=str(folder / "scratch"),
        window=args.window,
        overlap=args.window // 2,  # geo-inference knows no other
        batch=args.batch,
        classes=CLASSES[args.model],
    )
    file, out, log = (folder / leaf for leaf in ("job.json", "stdout", "stderr"))
    file.write_text(json.dumps(asdict(job)))
    start, cpu = time.perf_counter(), cpu_of_children()
    with out.open("w") as stdout, log.open("w") as stderr:
        command, variables = command_of(name, job, file, args), environment_of(args)
        process = psutil.Popen(command, stdout=stdout, stderr=stderr, env=variables)
        peak = watch(process, args.memory_limit * 1e9)
    seconds, cpu = time.perf_counter() - start, cpu_of_children() - cpu
    if peak > args.memory_limit * 1e9:
        return Run(seconds, 0, cpu, peak / 1e6, f"ended above {args.memory_limit:.1f} GB")
    if process.returncode or not Path(job.result).exists():
        last = (log.read_text().splitlines() or ["no word"])[-1]
        return Run(seconds, 0, cpu, peak / 1e6, f"exit {process.returncode}: {last}")
    return Run(seconds, seconds_of_call(out.read_text()), cpu, peak / 1e6)


def cpu_of_children() -> float:
    """Return user and system seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def result_of(name: str, work: Path) -> Path:
    return work / name / "classes.tif"


def command_of(name: str, job: Job, file: Path, args: argparse.Namespace) -> list[str]:
    """Return the command: a runner, or with the real network our own `lemevit predict`."""
    if name in PEERS:
        runner = HERE / f"{name.replace('-', '_')}_runner.py"
        return [str(interpreter(args.environments.resolve(), name)), str(runner), str(file)]
    if args.model == "conv":
        return [sys.executable, str(HERE / "lemevit_runner.py"), str(file)]
    options: dict[str, object] = {
        "--output": job.result,
        "--weights": args.model,
        "--window": job.window,
        "--overlap": job.overlap,
        "--batch-size": job.batch,
        "--gsd": "native",
    }
    command = [sys.executable, "-m", "lemevit_cli", "predict", job.scene, "--json", "--no-progress"]
    command += [str(word) for option in options.items() for word in option]
    return command + (SAME_ARITHMETIC if name == OURS else [])


def environment_of(args: argparse.Namespace) -> dict[str, str]:
    """Return this process's variables with the threads; how they wait is each one's own choice."""
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return kept | threads


def watch(process: psutil.Popen, limit: float) -> float:
    """Wait for the end; return the peak of the tree's resident bytes. Above the limit, kill it."""
    peak, looks, tree = 0.0, 0, [process]
    while process.poll() is None:
        if looks % 10 == 0:  # finding children reads all of /proc
            tree = [process, *process.children(recursive=True)]
        resident = sum(filter(None, map(resident_bytes, tree)))
        peak, looks = max(peak, resident), looks + 1
        if peak > limit:
            for member in (*process.children(recursive=True), process):
                member.kill()
        time.sleep(PAUSE_S)
    return peak


def resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0


def seconds_of_call(answer: str) -> float:
    """Read what a runner printed last, or the report of `lemevit predict --json`."""
    start = answer.index("{") if answer.startswith("{\n") else answer.rindex("{")
    said = json.loads(answer[start:])
    return float(said["call"] if "call" in said else said["seconds"]["total"])


def share_of_equal_pixels(path: Path, reference: Path) -> float:
    """Compare two rasters of class ids, block by block; 0 where their grids differ."""
    equal = 0
    with rasterio.open(path) as theirs, rasterio.open(reference) as ours:
        if (theirs.shape, theirs.crs) != (ours.shape, ours.crs):
            return 0.0
        if not theirs.transform.almost_equals(ours.transform):
            return 0.0
        for _, window in ours.block_windows(1):
            equal += int((theirs.read(1, window=window) == ours.read(1, window=window)).sum())
        return equal / (ours.width * ours.height)


def version_of(name: str, environments: Path) -> str:
    """Return the installed version of a peer, or of lemevit."""
    python = str(interpreter(environments, name)) if name in PEERS else sys.executable
    distribution = PEERS.get(name, [OURS])[0]
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run(
        [python, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def table(titles: dict[str, str], runs: dict[str, list[Run]], equal: dict[str, float]) -> str:
    """Return a Markdown table of medians and ratios; what beats lemevit is bold."""
    ours = medians(runs[OURS])
    lines = ["| | process, s | ratio | call, s | ratio | peak, MB | ratio | equal pixels |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, found in runs.items():
        if found[-1].failure:
            lines.append(f"| {titles[name]} | {found[-1].failure} | | | | | | |")
            continue
        cells = []
        for value, reference in zip(medians(found), ours, strict=True):
            ratio = f"{value / reference:.2f}"
            cells += [f"{value:.1f}" if value < 1000 else f"{value:.0f}"]
            cells += [f"**{ratio}**" if value < reference else ratio]
        lines.append(f"| {titles[name]} | {' | '.join(cells)} | {equal[name]:.4f} |")
    return "\n".join(lines)


def medians(runs: list[Run]) -> tuple[float, float, float]:
    return (
        statistics.median(run.seconds for run in runs),
        statistics.median(run.call for run in runs),
        statistics.median(run.peak_mb for run in runs),
    )


def report(
    args: argparse.Namespace,
    titles: dict[str, str],
    runs: dict[str, list[Run]],
    equal: dict[str, float],
) -> dict[str, Any]:
    settings = {name: str(value) for name, value in vars(args).items()}
    found = {titles[name]: [asdict(run) for run in done] for name, done in runs.items()}
    return {"settings": settings, "runs": found, "equal_pixels": equal}


if __name__ == "__main__":
    main()
