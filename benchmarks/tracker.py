"""Time and memory of the memorization tracker.

    python benchmarks/tracker.py
    python benchmarks/tracker.py --device cuda --samples 10000000 --batch 4096

Per number of samples: an update of one batch (random ids, median of many), the refresh at an
epoch's end for both normalizations, bytes per sample, and the history's file. For comparison, the
update as a loop over the batch's samples, as in the released code.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import results
import torch

from bcl import MemorizationTracker, TrackerHistory
from bcl.memorization.history import write_epoch
from bcl.memorization.scores import NORMALIZATIONS


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def loop(memory: list[float], ids: torch.Tensor, losses: torch.Tensor) -> None:
    """The update sample by sample."""
    for i, loss in zip(ids, losses, strict=True):
        index = int(i)
        memory[index] = 0.97 * memory[index] + 0.03 * float(loss)


def measure(
    samples: int, batch: int, repeats: int, device: torch.device, rows: list[results.Row]
) -> dict[str, float]:
    """One row of the table."""
    row: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)
    tracker = MemorizationTracker(samples).to(device)
    row["bytes"] = sum(b.nbytes for b in tracker.buffers()) / samples
    for start in range(0, samples, 1 << 20):  # every sample seen, one epoch
        ids = torch.arange(start, min(start + (1 << 20), samples))
        tracker.update(ids, torch.rand(len(ids), generator=generator))
    tracker.refresh()
    steps = [
        (
            torch.randint(0, samples, (batch,), generator=generator).unique().to(device),
            torch.rand(batch, generator=generator).to(device),
        )
        for _ in range(repeats)
    ]
    steps = [(ids, losses[: len(ids)]) for ids, losses in steps]
    for ids, losses in steps[:20]:
        tracker.update(ids, losses)
    times = sorted(timed(lambda s=step: tracker.update(*s), device) for step in steps)  # type: ignore[misc]
    row["update"] = statistics.median(times)
    row["update p90"] = times[int(0.9 * len(times))]
    memory = [0.0] * samples
    few = steps[: max(repeats // 20, 3)]
    loops = [timed(lambda s=step: loop(memory, *s), device) for step in few]  # type: ignore[misc]
    row["loop"] = statistics.median(loops)
    rows += results.compare(
        f"update of a batch of {batch}, {samples:,} samples tracked"
        + (", GPU" if device.type == "cuda" else ""),
        "ms",
        {"ours": times, "a loop over the samples, as released": loops},
        ours="ours",
    )
    for normalization in NORMALIZATIONS:
        tracker.normalization = normalization
        row[normalization] = statistics.median(timed(tracker.refresh, device) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        row["write"] = timed(lambda: write_epoch(folder, 0, tracker), device)
        row["MB"] = Path(folder, "epoch000000.npy").stat().st_size / 1e6
        row["read"] = timed(lambda: TrackerHistory(folder).scores(range(32)), device)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 1_281_167, 10_000_000])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    results.add_json_option(parser)
    args = parser.parse_args()
    rows: list[results.Row] = []
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}, {args.threads} thread(s), batch {args.batch}; ms")
    columns = ("update", "update p90", "loop", "max", "rank", "write", "read", "MB", "bytes")
    heads = {"max": "refresh max", "rank": "refresh rank", "write": "history write",
             "read": "read 32 ids", "MB": "file MB", "bytes": "bytes/sample",
             "loop": "update by a loop"}  # fmt: skip
    print("| samples | " + " | ".join(heads.get(name, name) for name in columns) + " |")
    print("|---:" * (len(columns) + 1) + "|")
    for samples in args.samples:
        row = measure(samples, args.batch, args.repeats, device, rows)
        print(
            f"| {samples:,} | " + " | ".join(f"{row[name]:.3f}" for name in columns) + " |",
            flush=True,
        )
    if args.json:
        results.save(args.json, "tracker", rows, device=args.device)


if __name__ == "__main__":
    main()
