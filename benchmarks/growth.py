"""How time and memory grow with images, classes, batch, views and width, with fitted exponents.

    python benchmarks/growth.py
    python benchmarks/growth.py --only discover --sizes 10000 100000 1000000

Each point is a process of its own on random data; what is measured begins after the data is made.
Memory is the most that the process held beyond that; what it writes is the page of `bcl discover`
and the table of `bcl embed`. The exponents are those of the larger half of the sizes, since small
ones are mostly fixed cost.
"""

import argparse
import contextlib
import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import results
import torch

from bcl.core.machine import keep_freed_memory

Work = Callable[[], Any]


def train(images: int, batch: int, views: int, width: int) -> Work:
    """Ten steps of BCL-I with a ResNet-8, then its memory of all images is refreshed.

    Of more than two views the loss is CACR.
    """
    from bcl import BCL
    from bcl.augment import BoostedRandAugment, ContrastiveViews
    from bcl.methods import ProjectorSettings
    from cacr import CACRLoss

    make = ContrastiveViews(32, num_views=views, boost=BoostedRandAugment())
    loss = CACRLoss(reduction="none") if views > 2 else None
    method = BCL("resnet8", ProjectorSettings(width), make, loss, num_samples=images)
    x = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    draws = [torch.randperm(images)[:batch].clone() for _ in range(10)]

    def work() -> None:
        for ids in draws:
            losses = method.sample_losses(make(x, method.tracker.scores[ids], ids)).losses
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            method.tracker.update(ids, losses)
        method.tracker.refresh()

    return work


def embed(images: int) -> Work:
    """The features of random images of 32 px from a ResNet-8, as a table on disk."""
    from bcl.discovery.embedding import EmbedOptions
    from bcl.discovery.embedding import embed as write
    from bcl.methods.simclr import SimCLR
    from datamodules import ArraysLT

    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    method, chosen = SimCLR("resnet8"), ArraysLT(pixels).train_set()
    out = Path(tempfile.mkdtemp()) / "embedding.parquet"
    return lambda: write(method.encode, chosen, out, EmbedOptions(thumbnails=False))


def discover(images: int, width: int) -> Work:
    """Neighbors, duplicates, clusters, map and page of random features in forty groups."""
    from bcl.discovery.findings import DiscoverOptions
    from bcl.discovery.page import discover as write
    from bcl.discovery.table import Table

    draw = np.random.default_rng(0)
    kind = (40 * draw.random(images) ** 3).astype(int)  # some groups are rare
    rows = draw.standard_normal((40, width))[kind] + 0.5 * draw.standard_normal((images, width))
    columns = {
        "id": np.arange(images),
        "path": np.array([f"{n}.jpg" for n in range(images)]),
    }
    table = Table(columns, rows.astype(np.float32))
    page = Path(tempfile.mkdtemp()) / "page"
    return lambda: write(table, page, DiscoverOptions())


def probe(images: int, classes: int, width: int) -> Work:
    """A linear probe of random features, with the choice of its penalty."""
    from bcl.evaluation import fit_linear_probe

    torch.manual_seed(0)
    labels = torch.arange(images) % classes
    rows = torch.randn(classes, width)[labels] + 2 * torch.randn(images, width)
    return lambda: fit_linear_probe(rows, labels, rows[:1000], labels[:1000])


class Part(NamedTuple):
    """What grows: usual values, and the sizes of each that are tried.

    Of a whole collection's work it is said what more images would take; the exponent of its time
    ends at least at ``final``.
    """

    prepare: Callable[..., Work]
    usual: dict[str, int]
    sizes: dict[str, tuple[int, ...]]
    final: float | None = None


PARTS = {
    "train": Part(
        train,
        {"images": 10_000, "batch": 256, "views": 2, "width": 128},
        {
            "images": (10_000, 100_000, 1_000_000, 10_000_000),
            "batch": (128, 256, 512, 1024, 2048),
            "views": (3, 4, 6),
            "width": (64, 256, 1024),
        },
    ),
    "embed": Part(embed, {"images": 4000}, {"images": (4000, 16_000, 64_000)}, 1.0),
    "discover": Part(
        discover,
        {"images": 10_000, "width": 64},
        {"images": (10_000, 100_000, 1_000_000), "width": (64, 256, 1024)},
        2.0,  # all pairs are compared
    ),
    "probe": Part(
        probe,
        {"images": 10_000, "classes": 10, "width": 64},
        {
            "images": (5000, 20_000, 80_000),
            "classes": (10, 100, 1000),
            "width": (64, 256, 1024),
        },
    ),
}
BEYOND = (10_000_000, 100_000_000)  # images for which the fit says what they would take


def measure(part: str, point: dict[str, int]) -> dict[str, float]:
    """Seconds of wall and processor time and megabytes of one point, in this process.

    With them the size of the file that it wrote, if it wrote one.
    """
    work = PARTS[part].prepare(**point)
    with contextlib.suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)  # what preparation freed would be used again, uncounted
    keep_freed_memory()  # as the commands do
    held, start = _held(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    wall = time.perf_counter()
    made = work()
    found = {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - start + _children(),
        "megabytes": max(_held("VmHWM") - held, 1.0),
    }
    return found | ({"written": made.stat().st_size / 1e6} if isinstance(made, Path) else {})


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _held(field: str = "VmRSS") -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Slope of log value over log size by least squares."""
    slope: float = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    return slope


def rounded(value: float, digits: int = 2) -> str:
    """Write a number with so many significant digits, never as a power of ten below a million."""
    return f"{float(f'{value:.{digits}g}'):,g}"


def in_words(seconds: float) -> str:
    """A time in the unit that suits it.

    Example:
        >>> in_words(50.0), in_words(7200.0), in_words(1e8)
        ('50 s', '2 h', '1,200 days')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{rounded(seconds / size)} {unit}"
    return f"{rounded(seconds)} s"


def grow(part: str, quantity: str, sizes: Sequence[int]) -> tuple[list[results.Row], str]:
    """The rows of one quantity, and in words how it grows."""
    usual = {**PARTS[part].usual}
    rest = ", ".join(f"{key} {n:,}" for key, n in usual.items() if key != quantity)
    case = f"{part}, over {quantity}" + (f" ({rest})" if rest else "")
    rows, found = [], []
    for size in sizes:
        words = [sys.executable, __file__, "--point", part, json.dumps({**usual, quantity: size})]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"{case}, {size:,}: {last}")
        got = json.loads(done.stdout.splitlines()[-1])
        found.append(got)
        about = f"{rounded(got['wall'], 3)} s by the clock, {got['megabytes']:,.0f} MB"
        if "written" in got:
            about += f", writes {rounded(got['written'], 3)} MB"
        extra = {f"{size:,}": about}
        values = {f"{size:,}": [got["processor"]]}
        rows += results.compare(case, "s", values, ours=f"{size:,}", extra=extra)
        print(f"{case}: {size:,}  {rounded(got['processor'], 3)} s  {about}", flush=True)
    final = PARTS[part].final if quantity == "images" else None
    return rows, describe(case, final, sizes, found)


def describe(
    case: str, final: float | None, sizes: Sequence[int], found: Sequence[dict[str, float]]
) -> str:
    """Exponents of the larger half of the sizes, and with a final one what more would take.

    Example:
        >>> found = [{"processor": n**2 / 1e6, "megabytes": 5.0} for n in (10, 100, 1000)]
        >>> describe("pairs", None, (10, 100, 1000), found)
        'pairs: time as n^2.00, memory as n^0.00'
    """
    large = slice(min(len(sizes) // 2, len(sizes) - 2), None)
    last = found[-1]
    powers = {key: exponent(sizes[large], [each[key] for each in found[large]]) for key in last}
    note = f"{case}: time as n^{powers['processor']:.2f}, memory as n^{powers['megabytes']:.2f}"
    if final is None:
        return note
    ends = {"processor": final}
    for more in BEYOND:
        if more <= sizes[-1]:
            continue
        then = {
            key: beyond(more, sizes, [each[key] for each in found], max(power, ends.get(key, 1.0)))
            for key, power in powers.items()
        }
        note += f"; {more:,} would take {in_words(then['processor'])} of processor time"
        note += f" and {rounded(then['megabytes'] / 1000)} GB"
        if "written" in last:
            note += f", and write {rounded(then['written'] / 1000)} GB"
    return note


def beyond(more: int, sizes: Sequence[int], values: Sequence[float], power: float) -> float:
    """What a larger size takes by a + b n^p through the two largest.

    Example:
        >>> beyond(1000, (10, 100), [106.0, 10006.0], 2.0)  # 6 + n^2
        1000006.0
    """
    (n1, n2), (v1, v2) = sizes[-2:], values[-2:]
    return v2 + max(v2 - v1, 0) * (more**power - n2**power) / (n2**power - n1**power)


def main() -> None:
    """Measure each quantity of each part, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="(default: all)")
    parser.add_argument("--over", nargs="+", help="quantities (default: all)")
    parser.add_argument("--sizes", nargs="+", type=int, help="instead of the usual ones")
    parser.add_argument("--point", nargs=2, metavar=("PART", "JSON"), help=argparse.SUPPRESS)
    results.add_json_option(parser)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(args.point[0], json.loads(args.point[1]))))
        return
    if args.sizes and (len(set(args.sizes)) < 2 or min(args.sizes) < 1):
        given = " ".join(map(str, args.sizes))
        parser.error(f"--sizes is {given}; growth needs two different ones or more, from 1 on")
    parts = args.only or list(PARTS)
    known = list(dict.fromkeys(key for part in parts for key in PARTS[part].sizes))
    for quantity in args.over or ():
        if quantity not in known:
            named = " and ".join(parts)
            parser.error(f"--over is {quantity}; {named} can grow over {', '.join(known)}")
    for part in args.only or ():
        if args.over and not {*args.over} & PARTS[part].sizes.keys():
            able = ", ".join(PARTS[part].sizes)
            parser.error(f"--over is {' '.join(args.over)}; {part} can grow over {able}")
    rows, notes = [], []
    for part in parts:
        for quantity, usual in PARTS[part].sizes.items():
            if args.over is None or quantity in args.over:
                more, note = grow(part, quantity, sorted(args.sizes or usual))
                rows += more
                notes.append(note)
                print(note, flush=True)
    if args.json:
        results.save(args.json, "growth", rows, clock="cpu", notes=notes)


if __name__ == "__main__":
    main()
