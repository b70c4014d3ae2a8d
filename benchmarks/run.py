"""All benchmarks in one go: `make bench`.

    python benchmarks/run.py                     # everything, results in outputs/bench
    python benchmarks/run.py --only views step   # jobs whose name contains one of these
    python benchmarks/run.py --quick             # toy sizes: does everything run?
    python benchmarks/run.py --publish           # then write benchmarks/results.json, for the pages
    python benchmarks/run.py --only probe --publish   # that job; other jobs' results stay

A job that already has a result from the same commit and command is skipped (--again repeats it). A
job that fails is reported at the end, with its log, and does not stop the others.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page
import results

from bcl.core.files import write_text
from bcl.core.provenance import commit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PUBLISHED = HERE / "results.json"


@dataclass(frozen=True)
class Job:
    """One call of a benchmark.

    Attributes:
        name: of its result.
        full: the command's words after ``python benchmarks/``.
        quick: the same at toy size.
        minutes: after which it is killed.
        gpu: needs a GPU, and is skipped where there is none.
    """

    name: str
    full: str
    quick: str
    minutes: float = 15.0
    gpu: bool = False


_VIEWS = "views.py --device cuda --threads 1 --num-ops 1 2 --seconds 0.5 --only exact fast v2"
_STEP = "step.py --device cuda --encoder resnet18 --batch 512 --precision bf16 --channels-last"
_GPU_PEERS = "peers.py --device cuda --precision bf16-mixed --batch 256 --workers 16 --rounds 2"
_TOY_PEERS = "peers.py --encoder resnet10t --images 16 --batch 8 --epochs 2 --rounds 1"
_TOY_PEERS += " --only ours ours-files plain bare"
_TOY_VIEWS = "views.py --sizes 32 --threads 1 --num-ops 1 --batch 4 --seconds 0.01 --alone"
_TOY_STEP = "step.py --encoder resnet8 --size 16 --batch 8 --rounds 2 --warmup 1 --steps 2"
JOBS = (
    Job(
        "losses",
        "losses.py --sizes 128 512 1024 2048 --rounds 15 --seconds 3 --max-seconds 3 --max-gb 4",
        "losses.py --loss nt_xent --sizes 128 --rounds 1 --seconds 0.01 --no-memory",
    ),
    Job(
        "losses-large",
        "losses.py --clock cpu --threads 1 --sizes 2048 8192 32768 --rounds 3 --max-gb 5",
        "losses.py --loss cacr --views 2 --sizes 128 --rounds 1 --seconds 0.01 --no-memory",
        30.0,
    ),
    Job(
        "views-small",
        "views.py --sizes 32 --threads 1 2 --num-ops 1 2 --seconds 2",
        "views.py --sizes 32 --threads 1 --num-ops 1 --batch 8 --seconds 0.01",
    ),
    Job(
        "views-large",
        "views.py --sizes 96 224 --threads 1 2 --num-ops 1 --seconds 3",
        "views.py --sizes 64 --threads 1 --num-ops 2 --batch 4 --seconds 0.01 --only ours",
    ),
    Job(
        "step-resnet8",
        "step.py --encoder resnet8 --batch 256",
        "step.py --encoder resnet8 --size 16 --batch 8 --rounds 2 --warmup 1",
    ),
    Job(
        "step-resnet8-bf16",
        "step.py --encoder resnet8 --batch 256 --precision bf16 --channels-last",
        "step.py --encoder resnet8 --size 16 --batch 8 --rounds 2 --warmup 1 --precision bf16",
    ),
    Job(
        "step-resnet18",
        "step.py --encoder resnet18 --batch 64 --precision bf16 --channels-last --rounds 9",
        "step.py --encoder resnet8 --size 16 --batch 8 --rounds 2 --precision bf16 --channels-last",
    ),
    Job(
        "methods",
        "methods.py --encoder resnet8 --batch 256 --threads 1 --channels-last --warmup 1 --steps 4",
        "methods.py --size 16 --batch 8 --samples 100 --rounds 1 --steps 2 --no-memory "
        "--only gh rwsam colt",
        45.0,
    ),
    Job(
        "loading-memory", "loading.py memory --repeat 3", "loading.py memory --repeat 1 --batches 8"
    ),
    Job(
        "loading-files",
        "loading.py large --images 512 --repeat 3 --threads 1",
        "loading.py large --images 140 --repeat 1 --threads 1",
    ),
    Job("loading-cache", "loading.py cache --images 60000", "loading.py cache --images 2000"),
    Job("loading-cost", "loading.py cost --repeat 5", "loading.py cost --repeat 1"),
    Job(
        "loading-packed",
        "loading.py packed --images 512 --repeat 3 --threads 1",
        "loading.py packed --images 140 --repeat 1 --threads 1",
    ),
    Job(
        "tracker",
        "tracker.py --samples 10000 1281167",
        "tracker.py --samples 1000 --batch 16 --repeats 20",
    ),
    Job("probe", "probe.py", "probe.py --small --only ours --repeats 1"),
    Job(
        "peers",
        "peers.py --encoder resnet18 --size 32",
        _TOY_PEERS,
        45.0,
    ),
    Job(  # for the others decoding and views cost more than the network
        "peers-small",
        "peers.py --encoder mobilenetv3_small_050 --size 32 --images 4096",
        _TOY_PEERS,
        45.0,
    ),
    Job(
        "embedding",
        "embedding.py",
        "embedding.py --images 16 --size 32 --rounds 1 --only ours plain",
    ),
    *(
        Job(
            f"growth-{part}",
            f"growth.py --only {part}",
            f"growth.py --only {part} --over images --sizes 300 600",
            60.0,
        )
        for part in ("train", "embed", "discover", "probe")
    ),
    Job("gpu-views", f"{_VIEWS} --sizes 32 224 --step", _TOY_VIEWS, gpu=True),
    Job("gpu-views-large", f"{_VIEWS} --sizes 32 --batch 4096 --alone", _TOY_VIEWS, gpu=True),
    Job("gpu-step", f"{_STEP} --warmup 10", _TOY_STEP, gpu=True),
    Job(
        "gpu-methods",
        "methods.py --encoder resnet18 --batch 512 --precision bf16 --channels-last --steps 30",
        "methods.py --size 16 --batch 8 --samples 100 --rounds 1 --steps 2 --only cacr --no-memory",
        gpu=True,
    ),
    *(
        Job(f"gpu-peers-{name}", f"{_GPU_PEERS} {options}", _TOY_PEERS, 12.0, gpu=True)
        for name, options in (
            ("resnet50", "--encoder resnet50 --size 224 --images 4096"),
            ("vit", "--encoder vit_small_patch16_224 --size 224 --images 4096"),
            ("resnet18", "--encoder resnet18 --size 32 --images 16384"),
        )
    ),
    Job("gpu-compiled-step", f"{_STEP} --warmup 10 --compile", _TOY_STEP, gpu=True),
    Job(
        "gpu-losses",
        "losses.py --device cuda --max-gb 100 --seconds 1",
        "losses.py --loss nt_xent --sizes 128 --rounds 1 --seconds 0.01 --no-memory",
        gpu=True,
    ),
    Job(
        "gpu-tracker",
        "tracker.py --device cuda --samples 10000 10000000 --repeats 200",
        "tracker.py --samples 1000 --batch 16 --repeats 20",
        gpu=True,
    ),
    Job(
        "gpu-probe",
        "probe.py --device cuda --only ours",
        "probe.py --small --only ours --repeats 1",
        gpu=True,
    ),
)


def can_run(job: Job, folder: Path, quick: bool) -> bool:
    """Whether the machine has what the job needs, or its result exists already."""
    import torch

    return not job.gpu or quick or torch.cuda.is_available() or is_done(job, folder, quick)


def run(job: Job, folder: Path, quick: bool) -> str | None:
    """Run a job; its result is written to ``folder`` atomically.

    Returns:
        None, or why there is no result.
    """
    words = shlex.split(job.quick if quick else job.full)
    target, log = folder / f"{job.name}.json", folder / f"{job.name}.log"
    target.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / words[0]), *words[1:], "--json", str(target)]
    status = finish(command, log, job.minutes)
    if status is None:
        return f"not done after {job.minutes:g} minutes; see {log}"
    if status:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        return f"status {status}: {''.join(last)[:200]}; see {log}"
    if not target.is_file():
        return f"it wrote no result; see {log}"
    return None


def finish(command: list[str], log: Path, minutes: float) -> int | None:
    """Status of a command; none after so many minutes, when it is ended with all its processes."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:  # by the time-out, or an interrupt
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def is_done(job: Job, folder: Path, quick: bool) -> bool:
    """Whether the folder has the result of this commit and command.

    One that lacks rounds is made again, and one that lacks a contender where LIGHTLY_TRAIN says
    where that one is.
    """
    path = folder / f"{job.name}.json"
    if not path.is_file():
        return False
    try:
        found = results.load(path)
    except ValueError:
        return False
    wanted = f"python benchmarks/{job.quick if quick else job.full}"
    dirty = commit().endswith("-dirty")  # the source may have changed since
    lacking = any(note.startswith(results.LEFT_OUT) for note in found["notes"])
    partial = any(note.startswith(results.PARTIAL) for note in found["notes"])
    if dirty or partial or (lacking and "LIGHTLY_TRAIN" in os.environ):
        return False
    return bool(found["command"] == wanted and found["commit"] == commit())


def collect(folder: Path, jobs: tuple[Job, ...]) -> list[dict[str, Any]]:
    """The results found, in the order of the jobs."""
    paths = [folder / f"{job.name}.json" for job in jobs]
    return [{"job": path.stem, **results.load(path)} for path in paths if path.is_file()]


def read_published() -> list[dict[str, Any]]:
    """What the pages show now.

    Raises:
        ValueError: the file is none of `results.publish`.
    """
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    wanted = {*results.RESULT_KEYS, "rows"}
    known = content if isinstance(content, list) else []
    if not known or not all(isinstance(each, dict) and wanted <= each.keys() for each in known):
        raise ValueError("it holds no results")
    return known


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "bench", metavar="DIR")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of the jobs' names")
    parser.add_argument("--quick", action="store_true", help="toy sizes; do not use the numbers")
    parser.add_argument("--again", action="store_true", help="run jobs that already have a result")
    parser.add_argument("--publish", action="store_true", help=f"write benchmarks/{PUBLISHED.name}")
    args = parser.parse_args()
    if args.publish and args.quick:
        parser.error("--publish needs jobs at full size")
    jobs = tuple(
        job for job in JOBS if not args.only or any(part in job.name for part in args.only)
    )
    if not jobs:
        parser.error(f"no such job; there are {', '.join(job.name for job in JOBS)}")
    folder = args.out.absolute() / ("quick" if args.quick else "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out} cannot be a folder of results: {error.strerror}")
    shown_before = []
    if args.publish:
        try:
            shown_before = read_published()
        except (OSError, ValueError) as error:
            parser.error(f"{PUBLISHED} is damaged ({error}); take it from the repository again")
    left_out = [job.name for job in jobs if not can_run(job, folder, args.quick)]
    jobs = tuple(job for job in jobs if job.name not in left_out)
    if left_out:
        print(f"no GPU here; left out: {', '.join(left_out)}", flush=True)
    failures: dict[str, str] = {}
    start = time.monotonic()
    for number, job in enumerate(jobs, 1):
        place = f"[{number}/{len(jobs)}] {job.name}"
        if not args.again and is_done(job, folder, args.quick):
            print(f"{place}: already done", flush=True)
            continue
        print(f"{place}: {job.quick if args.quick else job.full}", flush=True)
        began = time.monotonic()
        problem = run(job, folder, args.quick)
        if problem:
            failures[job.name] = problem
        outcome = f"failed: {problem}" if problem else "done"
        print(f"{place}: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
    found = collect(folder, jobs)
    print(f"\n{page.table(found)}\n")
    write_text(folder / "table.md", page.table(found) + "\n")
    shown = os.path.relpath(folder)
    print(f"{len(found)} of {len(jobs)} results in {shown}, {time.monotonic() - start:.0f} s")
    for name, problem in failures.items():
        print(f"failed: {name}: {problem}", file=sys.stderr)
    if args.publish and not failures:
        # Of jobs that were not asked for, or that this machine cannot run.
        by_job = {result["job"]: result for result in [*shown_before, *found]}
        everything = [by_job[job.name] for job in JOBS if job.name in by_job]
        results.publish(PUBLISHED, everything)
        print(f"wrote {os.path.relpath(PUBLISHED)}")
    return 1 if failures else 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that a job does not outlive this command
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
