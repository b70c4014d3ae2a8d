"""Time and memory of the losses against plain PyTorch and other libraries.

    python benchmarks/losses.py                      # table on the screen
    python benchmarks/losses.py --sizes 128 512 --loss nt_xent
    python benchmarks/losses.py --device cuda --max-gb 100 --seconds 1


On a GPU "bcl" and "cacr" are Triton kernels; "blocks" are the same losses without them, "tf32x3"
the kernels with products of three TF32 parts, which is not the default. The third command takes 128
to 65,536 samples, and is meant to end within twelve minutes.

Forward and backward pass, float32, d = 128. Implementations take turns within a size, so that drift
of the machine affects all equally: compare ratios within a row. Memory is the peak beyond the
inputs: resident set on a CPU, in a fresh process each; the allocator's count on a GPU. An
implementation is left out if it is not installed or would need more than --max-gb, and runs only
once if a pass takes longer than --max-seconds.

On a busy machine, ``--clock cpu --threads 1`` counts the processor time of one thread, which other
work hardly changes.
"""

import argparse
import contextlib
import functools
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import results
import torch
from torch import Tensor

from bcl import NTXentLoss
from bcl.losses import fused
from cacr import cacr_terms

DIM = 128
TEMPERATURE = 0.2
NT_XENT_SIZES = [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
CACR_SIZES = [(2, b) for b in (128, 512, 2048, 8192, 32768, 65536)] + [
    (5, b) for b in (128, 512, 1024, 2048, 8192)
]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Step = Callable[[Tensor], Tensor]


# NT-Xent


def plain_nt_xent(views: Tensor) -> Tensor:
    """The usual few lines: one matrix, cross-entropy."""
    z = torch.nn.functional.normalize(views.flatten(0, 1), dim=1)  # (2B, D)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    batch = views.shape[1]
    target = torch.arange(2 * batch, device=z.device).roll(batch)
    return torch.nn.functional.cross_entropy(logits, target)


def lightly_nt_xent() -> Step:
    from lightly.loss import NTXentLoss as LightlyLoss

    loss = LightlyLoss(temperature=TEMPERATURE)
    return lambda views: loss(views[0], views[1])


def metric_learning_nt_xent() -> Step:
    from pytorch_metric_learning.losses import NTXentLoss as MetricLearningLoss

    loss = MetricLearningLoss(temperature=TEMPERATURE)

    def step(views: Tensor) -> Tensor:
        labels = torch.arange(views.shape[1], device=views.device).repeat(2)
        return loss(views.flatten(0, 1), labels)

    return step


# CACR


def ours_cacr(views: Tensor) -> Tensor:
    return sum(cacr_terms(views))


def attraction(z: Tensor) -> Tensor:
    total = 0.0
    for v in range(len(z)):
        others = [u for u in range(len(z)) if u != v]
        distance = (z[v] - z[others]).square().sum(-1)  # (K, B)
        total = total + (distance.softmax(0) * distance).sum(0).mean()
    return total / len(z)


def weighted(distance: Tensor) -> Tensor:
    own = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    weights = (-2 * distance).masked_fill(own, -math.inf).softmax(1)
    return -(weights * distance).sum(1).mean()


def plain_cacr(views: Tensor) -> Tensor:
    """Distances from matrix products, each pair of views held as a whole."""
    z = torch.nn.functional.normalize(views, dim=-1)
    pairs = [(a, b) for a in range(len(z)) for b in range(a + 1, len(z))]
    return attraction(z) + sum(weighted(2 - 2 * z[a] @ z[b].T) for a, b in pairs) / len(pairs)


def explicit_cacr(views: Tensor) -> Tensor:
    """Distances from a (B, B, D) tensor of differences."""
    z = torch.nn.functional.normalize(views, dim=-1)
    pairs = [(a, b) for a in range(len(z)) for b in range(a + 1, len(z))]
    distances = ((z[a][:, None] - z[b]).square().sum(-1) for a, b in pairs)
    return attraction(z) + sum(weighted(d) for d in distances) / len(pairs)


def products(views: Tensor, pairs: int, rows: int) -> None:
    """The three products that any dense form needs, and nothing else."""
    x = views[0, :1].expand(rows, -1).contiguous() if rows > views.shape[1] else views[0, :rows]
    block = min(rows, max(64, 2**19 // rows))
    buffer = x.new_empty(block, rows)
    grad = torch.zeros_like(x)
    for _ in range(pairs):
        for start in range(0, rows, block):
            part = x[start : start + block]
            matrix = torch.mm(part, x.T, out=buffer[: len(part)])
            torch.mm(matrix, x)
            grad.addmm_(matrix.T, part)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    takes, fused.takes = fused.takes, lambda *_: False
    try:
        yield
    finally:
        fused.takes = takes


@contextlib.contextmanager
def with_three_parts() -> Iterator[None]:
    before, fused._FLOAT32 = fused._FLOAT32, "tf32x3"
    try:
        yield
    finally:
        fused._FLOAT32 = before


# Other forms of ours on a GPU; the backward pass is of the form of the forward pass.
FORMS = {"blocks": without_kernels, "tf32x3": with_three_parts}


def parted(name: str) -> tuple[str, str]:
    """Name of an implementation and of its form, which may be empty."""
    first, _, form = name.rpartition(" ")
    return (first, form) if form in FORMS else (name, "")


def loss_step(name: str) -> Step:
    name, form = parted(name)
    if form:
        step = loss_step(name)

        def other(views: Tensor) -> Tensor:
            with FORMS[form]():
                return step(views)

        return other
    makers = {"lightly": lightly_nt_xent, "pytorch-metric-learning": metric_learning_nt_xent}
    if name in makers:
        return makers[name]()
    return {
        "bcl": NTXentLoss(TEMPERATURE),
        "plain": plain_nt_xent,
        "cacr": ours_cacr,
        "Gram matrices": plain_cacr,
        "(B, B, D)": explicit_cacr,
    }[name]


# fmt: off
IMPLEMENTATIONS = {
    "nt_xent": [
        "bcl", "bcl blocks", "bcl tf32x3", "plain", "lightly", "pytorch-metric-learning",
    ],
    "cacr": ["cacr", "cacr blocks", "cacr tf32x3", "Gram matrices", "(B, B, D)"],
}
# fmt: on


def needed_gb(name: str, views: int, batch: int) -> float:
    """Rough peak, to leave out what cannot fit."""
    pairs = views * (views - 1) // 2
    numbers = {
        "bcl": 60 * batch * DIM,
        "cacr": 60 * views * batch * DIM,
        "plain": 4 * (2 * batch) ** 2,
        "lightly": 5 * (2 * batch) ** 2,
        "pytorch-metric-learning": 3 * (2 * batch) ** 3,
        "Gram matrices": 7 * pairs * batch**2,
        "(B, B, D)": (pairs + 3) * batch**2 * DIM,
    }[parted(name)[0]]
    return 4 * numbers / 1e9


def timed(call: Callable[[], object], clock: str, device: torch.device) -> float:
    """Seconds of a call."""
    start = CLOCKS[clock]()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[clock]() - start


def run_once(step: Step, views: Tensor, clock: str = "wall") -> float:
    views.grad = None
    return timed(lambda: step(views).backward(), clock, views.device)


def make_views(views: int, batch: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, batch, DIM, generator=generator)
    z = shared + torch.randn(views, batch, DIM, generator=generator)
    return z.to(device).requires_grad_()


def measure_memory(name: str, views: int, batch: int, device: str) -> float:
    """Peak in MB beyond the inputs and their gradient, at least 0.1; call in a fresh process."""
    z = make_views(views, batch, device)
    step = loss_step(name)
    run_once(step, make_views(views, 4, device))  # one-time loading is not counted
    z.grad = torch.zeros_like(z)
    if z.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(z).backward()
        return max(0.1, (torch.cuda.max_memory_allocated() - before) / 1e6)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status_kb("VmRSS")
    step(z).backward()
    return max(0.1, (status_kb("VmHWM") - before) * 1024 / 1e6)


def status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_in_fresh_process(
    name: str, views: int, batch: int, options: argparse.Namespace
) -> float:
    command = [sys.executable, __file__, "--memory-of", name, str(views), str(batch)]
    command += ["--threads", str(options.threads), "--device", options.device]
    # Every tensor in its own pages, so that freed memory does not hide the next peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return float(result.stdout) if result.returncode == 0 else math.nan


def available(name: str) -> bool:
    try:
        loss_step(name)
    except ImportError:
        return False
    return True


def measure_row(
    loss: str, views: int, batch: int, options: argparse.Namespace
) -> dict[str, object]:
    z = make_views(views, batch, options.device)
    steps: dict[str, Step] = {}
    for name in IMPLEMENTATIONS[loss]:
        same = options.device == "cpu" and parted(name)[1]  # a CPU has no kernels
        if same or name in options.without:
            continue
        if not available(name):
            options.missing[name] = []
        elif name not in ("bcl", "cacr") and needed_gb(name, views, batch) > options.max_gb:
            options.too_large.setdefault((loss, name, views), []).append(batch)
        else:
            steps[name] = loss_step(name)
    pairs, rows = (1, 2 * batch) if loss == "nt_xent" else (views * (views - 1) // 2, batch)
    times: dict[str, list[float]] = {name: [] for name in [*steps, "products"]}
    for name, step in list(steps.items()):
        first = min(run_once(step, z, options.clock) for _ in range(2 if batch <= 4096 else 1))
        if first > options.max_seconds:
            times[name] = [first]
            del steps[name]
    longest = max([run_once(step, z, options.clock) for step in steps.values()], default=1.0)
    rounds = max(3, min(options.rounds, int(options.seconds / max(longest, 1e-4))))
    rounds = rounds if steps else 1
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(run_once(step, z, options.clock))
        floor = functools.partial(products, z.detach(), pairs, rows)
        times["products"].append(timed(floor, options.clock, z.device))
    row: dict[str, object] = {"loss": loss, "views": views, "batch": batch, "rounds": rounds}
    options.times.append(times)
    for name, values in times.items():
        if not values:
            continue
        values = sorted(values)
        row[name] = {
            "median_ms": 1e3 * statistics.median(values),
            "quartiles_ms": [1e3 * values[len(values) // 4], 1e3 * values[(3 * len(values)) // 4]],
            "minimum_ms": 1e3 * values[0],
        }
        if name != "products" and not options.no_memory:
            in_process = functools.partial(measure_memory, device=options.device)
            fresh = functools.partial(memory_in_fresh_process, options=options)
            memory = (in_process if z.is_cuda else fresh)(name, views, batch)
            row[name]["extra_mb"] = memory  # type: ignore[index]
    return row


def show(row: dict[str, object]) -> None:
    cells = []
    for name, result in row.items():
        if isinstance(result, dict):
            low, high = result["quartiles_ms"]
            memory = f", {result['extra_mb']:.0f} MB" if "extra_mb" in result else ""
            cells.append(f"{name} {result['median_ms']:.4g} ms ({low:.4g}-{high:.4g}){memory}")
    print(f"{row['loss']} V={row['views']} B={row['batch']}: " + "; ".join(cells), flush=True)


def exponent(rows: list[dict[str, object]], name: str, field: str) -> float:
    """Slope of log cost over log B by least squares."""
    points = [(math.log(r["batch"]), math.log(r[name][field])) for r in rows]  # type: ignore
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    over = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return over / sum((x - x_mean) ** 2 for x, _ in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loss", choices=["nt_xent", "cacr"], help="only this one")
    parser.add_argument("--sizes", type=int, nargs="+", help="batch sizes")
    parser.add_argument("--views", type=int, nargs="+", help="views, for CACR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--rounds", type=int, default=30, help="at most")
    parser.add_argument("--seconds", type=float, default=10, help="aim for each implementation")
    parser.add_argument(
        "--max-seconds", type=float, default=40, help="one pass; slower ones run once"
    )
    parser.add_argument("--max-gb", type=float, default=8)
    others = [name for names in IMPLEMENTATIONS.values() for name in names[1:]]
    parser.add_argument(
        "--without", nargs="*", default=[], choices=others, help="implementations to leave out"
    )
    parser.add_argument("--no-memory", action="store_true")
    results.add_json_option(parser)
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.times, options.missing, options.too_large = [], {}, {}
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and there is no GPU here; give cpu")
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}; give 1 or more")
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, views, batch = options.memory_of
        print(measure_memory(name, int(views), int(batch), options.device))
        return
    cases = [("nt_xent", 2, batch) for batch in NT_XENT_SIZES]
    cases += [("cacr", views, batch) for views, batch in CACR_SIZES]
    cases = [
        (loss, views, batch)
        for loss, views, batch in cases
        if options.loss in (None, loss)
        and batch in (options.sizes or [batch])
        and views in (options.views or [views])
    ]
    if not cases:
        sizes = ", ".join(map(str, NT_XENT_SIZES))
        parser.error(
            f"no case has these --loss, --sizes and --views; sizes are {sizes}, views 2, 5"
        )
    rows = []
    for case in cases:
        rows.append(measure_row(*case, options))
        show(rows[-1])
    fits = {}
    for loss, name, views in (("nt_xent", "bcl", 2), ("cacr", "cacr", 2), ("cacr", "cacr", 5)):
        large = [
            r for r in rows if r["loss"] == loss and r["views"] == views and r["batch"] >= 1024
        ]
        if len(large) >= 2:
            fit = f"time as B^{exponent(large, name, 'minimum_ms'):.2f}"
            if not options.no_memory:
                fit += f", memory as B^{exponent(large, name, 'extra_mb'):.2f}"
            fits["NT-Xent" if loss == "nt_xent" else f"CACR, {views} views,"] = fit
            print(f"{loss} V={views}, B >= 1024: {fit}")
    if options.json:
        common = [
            r
            for row, times in zip(rows, options.times, strict=True)
            for r in shared(row, times, options.device)
        ]
        notes = [
            f"{name} from 1,024 samples on, by least squares: {fit}" for name, fit in fits.items()
        ]
        notes += results.left_out(options.missing, results.NOT_INSTALLED)
        for (loss, name, views), sizes in options.too_large.items():
            which = ", ".join(f"{size:,}" for size in sizes)
            notes.append(
                f"{name} of {loss} with {views} views left out, as it takes more than "
                f"{options.max_gb:g} GB: {which} samples"
            )
        results.save(options.json, "losses", common, clock=options.clock, notes=notes)


def shared(row: dict[str, object], times: dict[str, list[float]], device: str) -> list[results.Row]:
    """A row in the format that all benchmarks share."""
    where = "" if device == "cpu" else ", GPU"
    title = "NT-Xent" if row["loss"] == "nt_xent" else f"CACR, {row['views']} views"
    memory = {
        name: f"{found['extra_mb']:.0f} MB"
        for name, found in row.items()
        if isinstance(found, dict) and "extra_mb" in found
    }
    milliseconds = {name: [1e3 * value for value in values] for name, values in times.items()}
    return results.compare(
        f"{title}, {row['batch']:,} samples{where}",
        "ms",
        milliseconds,
        ours=IMPLEMENTATIONS[str(row["loss"])][0],
        extra=memory,
    )


if __name__ == "__main__":
    main()
