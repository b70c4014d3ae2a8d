"""Time and memory of selecting external images, from random features in groups.

python benchmarks/selection.py --external 300000 --features 512
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loading import say

from bcl.discovery import balanced_order, colt_selection, k_means, mak_selection

PAGE = 4096


class Peak(threading.Thread):
    """The most memory that this process holds, in bytes, looked at every 5 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0, threading.Event()

    @staticmethod
    def held() -> int:
        """Bytes that this process holds now."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    def run(self) -> None:
        """Look until `done`."""
        while not self.done.wait(0.005):
            self.most = max(self.most, self.held())


def measure(name: str, call: Callable[[], Any]) -> None:
    before, peak = Peak.held(), Peak()
    peak.start()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak.done.set()
    peak.join()
    more = max(peak.most - before, 0) / 2**30
    say(name, f"{processor:.1f} s of processor time, {wall:.1f} s, {more:.2f} GiB more")


def groups(images: int, features: int, kinds: int, generator: torch.Generator) -> torch.Tensor:
    centers = torch.randn(30, features, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(images, features, generator=generator).mul_(0.7)
    kind = torch.randint(0, kinds, (images,), generator=generator)
    for part in range(kinds):
        rows[kind == part] += centers[part]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--own", type=int, default=11_165, help="training images")
    parser.add_argument("--external", type=int, default=300_000, help="external images")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    own = groups(args.own, args.features, 10, generator)
    external = groups(args.external, args.features, 30, generator)
    tailness = -torch.rand(args.own, generator=generator)
    losses = torch.rand(args.external, generator=generator)
    say("features of the external images", f"{external.nbytes / 2**30:.2f} GiB")
    measure("COLT's rule", lambda: colt_selection(own, tailness, external, args.budget))
    measure("MAK's rule", lambda: mak_selection(own, external, losses, args.budget))
    measure("k-means of the external images, 10 clusters", lambda: k_means(external, 10))
    of = torch.randint(0, 10, (args.external,), generator=generator)
    measure("a balanced order of them", lambda: balanced_order(of, args.external, 0))


if __name__ == "__main__":
    main()
