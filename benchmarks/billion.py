"""The constants behind the estimate for a billion images, measured on a twentieth of them.

python benchmarks/billion.py
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from loading import BATCH, photographs, say

import bcl
from datamodules.images.decode import shrink
from datamodules.images.loader import WindowOrder


def peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of JPEG files")
    args = parser.parse_args()
    if args.root is not None and not any(args.root.rglob("*.jpg")):
        parser.error(f"--root is {args.root}, which holds no .jpg file")
    samples, batch = 50_000_000, 4096
    before = peak()
    tracker = bcl.MemorizationTracker(samples)
    held = sum(buffer.nbytes for buffer in tracker.buffers())
    say("loss memory per sample", f"{held / samples:.1f} bytes")
    ids = torch.randint(samples, (batch,))
    losses = torch.rand(batch)

    def update() -> float:
        start = time.perf_counter()
        tracker.update(ids, losses)
        return time.perf_counter() - start

    steps = statistics.median(update() for _ in range(20))
    say(f"loss memory: a step of {batch:,}", f"{steps * 1e3:.2f} ms")
    tracker.updated_in.zero_()
    start = time.perf_counter()
    tracker.refresh()
    seconds = time.perf_counter() - start
    say("loss memory: end of an epoch, per sample", f"{seconds / samples * 1e9:.1f} ns")
    say("loss memory: peak at epoch's end, per sample", f"{(peak() - before) / samples:.1f} bytes")

    sizes = [38_000] * 26_000
    start = time.perf_counter()
    order = WindowOrder(sizes, 16, 0, 0)
    order[500_000_000 : 500_000_000 + batch]
    say("order of 26,000 files: first batch in the middle", f"{time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    for first in range(500_000_000, 500_000_000 + 400 * batch, batch):
        order[first : first + batch]
    each = (time.perf_counter() - start) / 400
    say("order of 26,000 files: a batch, windows' changes included", f"{each * 1e3:.2f} ms")
    held = sum(ids.nbytes for ids in order._held.values())
    say("order of 26,000 files: windows held", f"{held / 2**20:.1f} MiB")

    with tempfile.TemporaryDirectory() as name:
        root = args.root or photographs(Path(name), BATCH, 500, 375)
        raw = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))[:BATCH]]
    small = [len(shrink(data, 256)) for data in raw]
    say("an image with a shorter side of 256 px", f"{np.mean(small) / 1024:.1f} KiB")


if __name__ == "__main__":
    main()
