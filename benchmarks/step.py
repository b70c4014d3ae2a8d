"""The cost of a BCL-I step over the bare encoder's step on ready tensors.

    python benchmarks/step.py --encoder resnet8 --batch 256
    python benchmarks/step.py --encoder resnet18 --batch 512 --precision bf16 --channels-last

Both steps have the same encoder, projector and optimizer and are timed in turns; the bare step sums
squares instead of making views, loss and tracker updates. Prints the median and spread of the
ratio and where the difference goes: views, loss and tracker timed alone, and with ``--profile`` the
operators in which the BCL-I step spends more time than the bare one. A third step, of the same
parts, also records the signals of ``--watch``.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import results
import torch

from bcl import BCL
from bcl.memorization import update_together
from bcl.memorization.signals import STEP_SIGNALS
from bcl.methods import MemorySettings


def timed(work: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Seconds of a call, the device's queue included.

    Args:
        work: what is timed.
        device: waited for before and after.
        calls: in a row; the host runs ahead of the device, as in training.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def more_time(
    bare: Callable[[], Any], full: Callable[[], Any], device: torch.device, steps: int = 5
) -> tuple[dict[str, float], list[float]]:
    """Extra milliseconds per step of each operator in the full step over the bare one.

    On a GPU these are its kernels, and the second value is their time in either step. If the steps
    take far longer than that, the device waits for the host.
    """
    cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    times: list[dict[str, float]] = []
    for work in (bare, full):
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(steps):
                timed(work, device)
        times.append(
            {
                row.key: (row.self_device_time_total if cuda else row.self_cpu_time_total) / steps
                for row in profile.key_averages()
                if not cuda or row.device_type == torch.autograd.DeviceType.CUDA
            }
        )
    more = {name: (value - times[0].get(name, 0.0)) / 1e3 for name, value in times[1].items()}
    busiest = dict(sorted(more.items(), key=lambda row: -row[1])[:15])
    return busiest, [sum(each.values()) / 1e3 for each in times]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(args.device)
    torch.manual_seed(0)
    method = BCL(
        args.encoder, views=args.size, num_samples=args.samples, channels_last=args.channels_last
    ).to(device)
    if args.compile:
        method.encoder = torch.compile(method.encoder)
    watching = BCL(
        method.encoder, method.projector, method.views, num_samples=args.samples,
        channels_last=args.channels_last, memory=MemorySettings(watch=tuple(args.watch)),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    shape = (args.batch, 3, args.size, args.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    ready = torch.rand(2, *shape, device=device)
    # Scores as in mid-training: spread over [0, 1].
    scores = torch.rand(args.samples).to(device)

    def autocast() -> Any:
        if args.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    epoch = 0

    def descend(loss: torch.Tensor, trackers: Any = ()) -> None:
        optimizer.zero_grad()
        loss.backward()
        for tracker in trackers:  # where the method calls it, too
            tracker.flush()
        optimizer.step()

    def bare() -> None:
        with autocast():
            loss = method.project(ready).float().square().mean()
        descend(loss)

    def full(method: BCL = method) -> None:
        nonlocal epoch
        epoch += 1
        trackers = method.trackers.values()
        for tracker in trackers:
            tracker.epoch += 1
        ids = torch.randint(args.samples, (args.batch,), device=device)
        views = method.views(images, scores[ids], ids, epoch)
        with autocast():
            losses, watched = method.sample_losses(views, ids)
        update_together(list(trackers), ids, torch.stack(list(watched.values())), wait=False)
        descend(losses.mean(), trackers)

    def watch() -> None:
        full(watching)

    ids = torch.randint(args.samples, (args.batch,), device=device)
    z = torch.randn(2, args.batch, 128, device=device, requires_grad=True)
    parts: dict[str, Callable[[], Any]] = {
        "views": lambda: method.views(images, scores[ids], ids, 1),
        "loss": lambda: method.loss(z).mean().backward(),
        "tracker": lambda: method.tracker.update(ids, z.detach()[0, :, 0].abs()),
    }
    for work in (bare, full, watch, *parts.values()):
        for _ in range(args.warmup):
            work()
    calls = args.steps or (10 if device.type == "cuda" else 1)
    rows = [
        tuple(timed(work, device, calls) for work in (bare, full, watch))
        for _ in range(args.rounds)
    ]
    ratios = sorted(f / b for b, f, _ in rows)
    result: dict[str, Any] = {
        "bare_rounds_ms": [1e3 * b for b, *_ in rows],
        "bcl_rounds_ms": [1e3 * f for _, f, _ in rows],
        "bare_ms": 1e3 * statistics.median(b for b, *_ in rows),
        "bcl_ms": 1e3 * statistics.median(f for _, f, _ in rows),
        "ratio": statistics.median(ratios),
        "watching_rounds_ms": [1e3 * w for *_, w in rows],
        "watching": statistics.median(w / f for _, f, w in rows),
        "ratio_spread": [ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]],
    }
    if args.profile:
        result["operators_ms"], result["operators_total_ms"] = more_time(bare, full, device)
    for name, work in parts.items():
        times = [timed(work, device) for _ in range(args.rounds)]
        result[f"{name}_ms"] = 1e3 * statistics.median(times)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet8")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, default=10_000, help="samples that are tracked")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help="steps in a row of a round (1; on a GPU 10)")
    results.add_json_option(parser)
    parser.add_argument(
        "--watch", nargs="+", default=STEP_SIGNALS, choices=STEP_SIGNALS, help="signals to record"
    )
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--profile", action="store_true", help="operators that take the difference")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(args)
    low, high = result["ratio_spread"]
    print(f"bare step {result['bare_ms']:.1f} ms, BCL-I step {result['bcl_ms']:.1f} ms")
    print(f"ratio {result['ratio']:.3f} (10 to 90 %: {low:.3f} to {high:.3f})")
    print(f"recording {', '.join(args.watch)}: {100 * (result['watching'] - 1):+.1f} % of the step")
    print(
        ", ".join(f"{name} {result[name + '_ms']:.2f} ms" for name in ("views", "loss", "tracker"))
    )
    alone = sum(result[f"{name}_ms"] for name in ("views", "loss", "tracker"))
    more = result["bcl_ms"] - result["bare_ms"]
    print(f"the steps differ by {more:.1f} ms; these parts by themselves take {alone:.1f} ms")
    if args.profile:
        first, second = result["operators_total_ms"]
        where = "kernels" if args.device.startswith("cuda") else "operators"
        print(f"{where} take {first:.1f} ms of the bare step, {second:.1f} ms of the BCL-I step")
    for name, value in result.get("operators_ms", {}).items():
        print(f"  {value:8.2f} ms  {name[:90]}")
    if args.json:
        precision = f"{args.precision}, channels last" if args.channels_last else args.precision
        precision += ", compiled" if args.compile else ""
        where = ", GPU" if args.device.startswith("cuda") else ""
        case = (
            f"training step, {args.encoder}, {args.batch} images of {args.size} px, "
            f"{precision}{where}"
        )
        values = {
            "BCL-I step": result["bcl_rounds_ms"],
            "encoder alone": result["bare_rounds_ms"],
            f"recording {len(args.watch)} signals": result["watching_rounds_ms"],
        }
        rows = results.compare(case, "ms", values, ours="BCL-I step")
        options = {name: value for name, value in vars(args).items() if name != "json"}
        results.save(args.json, "step", rows, options=options, **result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
