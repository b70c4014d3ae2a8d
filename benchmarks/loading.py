"""Images per second: memory, workers, packed files, ImageFolder.

    python benchmarks/loading.py memory            # gathers of a set that fits, and their share
    python benchmarks/loading.py cache --archive cifar10-jpeg.zip
    python benchmarks/loading.py large             # 224 px views from photographs
    python benchmarks/loading.py cost              # the same as CPU time per image
    python benchmarks/loading.py packed            # needs the extra "datasets"
    python benchmarks/loading.py billion           # the cost of a billion images, piece by piece

All data is made here from scikit-learn's two photographs, unless --root or --archive names some.
Figures are medians of --repeat runs; the contenders take turns, as machines drift.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import bcl
from bcl.augment import ChainSettings
from datamodules import ImageDataset, ImageFolderLT, PackedLT
from datamodules.images.decode import decode, shrink
from datamodules.images.loader import BatchLoader, WindowOrder
from datamodules.packed import pack

BATCH = 64
DECODE = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(256), transforms.PILToTensor()]
)


def median(call: Callable[[], float], repeat: int) -> float:
    return statistics.median(call() for _ in range(repeat))


def say(what: str, value: str) -> None:
    print(f"{what:<66} {value}", flush=True)


def photographs(folder: Path, count: int, width: int, height: int, classes: int = 4) -> Path:
    """Random crops of two real photographs as JPEG, in class folders."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        source = sources[number % 2]
        share = rng.uniform(0.6, 1.0)
        wide, high = int(source.width * share), int(source.height * share)
        left, top = rng.integers(source.width - wide + 1), rng.integers(source.height - high + 1)
        crop = source.crop((left, top, left + wide, top + high)).resize((width, height))
        path = folder / f"class{number % classes}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=92)
    return folder


def batches_per_second(loader: DataLoader[Any]) -> float:
    """Batches per second from the second batch on, so that starting the workers does not count."""
    count, start = -1, 0.0
    for _ in loader:
        count += 1
        if count == 0:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


def memory(args: argparse.Namespace) -> None:
    """Cost of a batch in memory, ImageFolder's, and a training step of the smallest encoder."""
    with tempfile.TemporaryDirectory() as name:
        root = photographs(Path(name), 4096, 32, 32, 10)
        in_memory(args, datasets.ImageFolder(str(root), transforms.PILToTensor()))


def in_memory(args: argparse.Namespace, files: datasets.ImageFolder) -> None:
    """As `memory`, with the small JPEG files for ImageFolder."""
    images = torch.randint(0, 256, (12_406, 3, 32, 32), dtype=torch.uint8)
    data = ImageDataset(images, torch.arange(12_406) % 10, "random")
    for batch_size in args.batches:

        def gather(size: int = batch_size) -> float:
            loader = BatchLoader(data, size, device=args.device)
            start = time.perf_counter()
            for batch in loader:
                batch["image"].sum().item()  # reads what was gathered, too
            return (time.perf_counter() - start) / len(loader)

        method = nn.Sequential(bcl.create_encoder("resnet8", image_size=32)).to(args.device)

        def step(size: int = batch_size, model: nn.Module = method) -> float:
            views = torch.rand(2 * size, 3, 32, 32, device=args.device)
            start = time.perf_counter()
            model(views).square().mean().backward()
            if args.device != "cpu":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        costs, steps = [], []
        plain: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(args.repeat):
            costs.append(gather())
            steps.append(step())
            for workers, times in plain.items():
                options: dict[str, Any] = {"shuffle": True, "num_workers": workers}
                loader = DataLoader(files, batch_size, drop_last=True, **options)
                times.append(1 / batches_per_second(loader))
        cost, whole = statistics.median(costs), statistics.median(steps)
        args.rows += results.compare(
            f"a batch of {batch_size} images of 32 px in memory",
            "ms",
            {
                "ours, gathering it": [1e3 * x for x in costs],
                **{
                    f"ImageFolder, the same from JPEG files, {workers} worker(s)": [
                        1e3 * x for x in times
                    ]
                    for workers, times in plain.items()
                },
                "a ResNet-8 step on it": [1e3 * x for x in steps],
            },
            ours="ours, gathering it",
        )
        say(
            f"memory, 32 px, batch {batch_size}: a batch, a resnet8 step of two views, the share",
            f"{cost * 1e3:.2f} ms, {whole * 1e3:.0f} ms, {cost / whole:.2%}",
        )


def processor() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def both(seconds: float, work: float) -> str:
    return f"{seconds:.2f} s, of CPU {work:.2f} s"


def cache(args: argparse.Namespace) -> None:
    """Unpacking, decoding and caching small images; first batch cold and warm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = Path(args.archive) if args.archive else folder / "set.zip"
        if not args.archive:
            photographs(folder / "made", args.images, 32, 32, 10)
            with zipfile.ZipFile(archive, "w") as file:
                for path in sorted((folder / "made").rglob("*.jpg")):
                    file.write(path, path.relative_to(folder / "made"))
        start, before = time.perf_counter(), processor()
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder / "unpacked")
            count = len(file.namelist())
        say(f"unpacking {count:,} files", both(time.perf_counter() - start, processor() - before))

        def first(root: Path, where: Path) -> tuple[float, float]:
            start, before = time.perf_counter(), processor()
            data = ImageFolderLT(str(root), cache_dir=str(where))
            next(iter(data.train_dataloader()))
            return time.perf_counter() - start, processor() - before

        cold: dict[str, float] = {}
        for title, root in (("folder", folder / "unpacked"), ("zip archive", archive)):
            where = folder / f"cache of {title}"
            cold[title], work = first(root, where)
            say(
                f"first batch from the {title}, cold: decoding and caching", both(cold[title], work)
            )
            again = [first(root, where) for _ in range(args.repeat)]
            warm = [seconds for seconds, _ in again]
            seconds, work = (statistics.median(column) for column in zip(*again, strict=True))
            say(f"first batch from the {title}, warm: cached", both(seconds, work))

        plain = datasets.ImageFolder(
            str(folder / "unpacked" / ("train" if args.archive else "")), transforms.ToTensor()
        )
        start = time.perf_counter()
        for _ in DataLoader(plain, 256, num_workers=args.workers):
            pass
        seconds = time.perf_counter() - start
        say(
            f"torchvision ImageFolder, {args.workers} workers: each epoch of {len(plain):,}",
            f"{seconds:.1f} s",
        )
        args.rows += results.compare(
            f"{len(plain):,} small JPEG files",
            "s",
            {
                "ours, first batch, cached": warm,
                "ours, first batch, decoding and caching": [cold["folder"]],
                "ours, the same from the zip archive": [cold["zip archive"]],
                "ImageFolder, each epoch": [seconds],
            },
            ours="ours, first batch, cached",
        )


class TwoViews:
    """Two draws of a transform."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> list[Any]:
        """Draw twice."""
        return [self.transform(image), self.transform(image)]


def simclr_transform(blur: bool) -> Callable[[Any], Any]:
    steps: list[Any] = [
        transforms.RandomResizedCrop(224, (0.1, 1), interpolation=Image.Resampling.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        transforms.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(transforms.RandomApply([transforms.GaussianBlur(23, (0.1, 2.0))], 0.5))
    return transforms.Compose([*steps, transforms.ToTensor()])


def drain(loader: Iterable[Any], work: Callable[[Any], Any] | None = None) -> tuple[float, float]:
    """Seconds to the first batch, and images per second after it."""
    start = time.perf_counter()
    first = 0.0
    count = 0
    for batch in loader:
        if work is not None:
            work(batch)
        if not first:
            first = time.perf_counter()
        else:
            count += BATCH
    return first - start, count / (time.perf_counter() - first)


def large(args: argparse.Namespace) -> None:
    """Two views of 224 px from photographs in files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = args.root or str(photographs(folder / "set", args.images, 500, 375))
        size = np.mean([path.stat().st_size for path in Path(root).rglob("*.jpg")][:500]) / 1024
        say("images, mean size", f"{args.images:,}, {size:.0f} KiB")
        plain = datasets.ImageFolder(root, TwoViews(simclr_transform(args.blur)))
        decoding = datasets.ImageFolder(root, DECODE)
        views = bcl.ContrastiveViews(
            224,
            chain=ChainSettings(blur_probability=0.5 if args.blur else 0.0),
            arithmetic=args.arithmetic,
        )

        def ours(workers: int) -> Any:
            return ImageFolderLT(
                root,
                imbalance_factor=None,
                image_size=256,
                batch_size=BATCH,
                storage="files",
                workers=workers,
                test_share=0.01,
                cache_dir=str(folder / "cache"),
            ).train_dataloader()

        def make_views(batch: Any) -> None:
            views(batch["image"].to(args.device), ids=batch["id"])

        blank = {"image": torch.zeros(BATCH, 3, 256, 256, dtype=torch.uint8)}
        make_views(blank | {"id": torch.arange(BATCH)})  # compilation, if any, is not loading

        ours(2)  # the scan, once
        contenders: list[tuple[str, int, Callable[[], tuple[float, float]]]] = []
        for workers in (1, 2):
            options: dict[str, Any] = {
                "batch_size": BATCH,
                "shuffle": True,
                "num_workers": workers,
                "drop_last": True,
            }
            contenders += [
                (
                    f"ImageFolder, decode + resize to 256, {workers} worker(s)",
                    1,
                    lambda o=options: drain(DataLoader(decoding, **o)),
                ),
                (
                    f"ImageFolder, two views of 224 in the workers, {workers} worker(s)",
                    2,
                    lambda o=options: drain(DataLoader(plain, **o)),
                ),
                (
                    f"ours, decode to 256, {workers} worker(s)",
                    1,
                    lambda w=workers: drain(ours(w)),
                ),
                (
                    f"ours, decode to 256, {workers} worker(s), two views of 224 after it",
                    2,
                    lambda w=workers: drain(ours(w), make_views),
                ),
            ]
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(args.repeat):
            for title, _, call in contenders:
                found.setdefault(title, []).append(call())
        for title, factor, _ in contenders:
            first = statistics.median(pair[0] for pair in found[title])
            rate = statistics.median(pair[1] for pair in found[title])
            unit = "images/s" if factor == 1 else "views/s"
            say(title, f"{rate * factor:7.0f} {unit}, first batch {first:.2f} s")
        for workers in (1, 2):
            mine = [t for t, _, _ in contenders if f"{workers} worker" in t and "ours" in t]
            theirs = [t for t, _, _ in contenders if f"{workers} worker" in t and "ours" not in t]
            cases = (
                ("decoding JPEG files to 256 px", "images/s", mine[0], theirs[0], 1),
                ("two views of 224 px from JPEG files", "views/s", mine[1], theirs[1], 2),
            )
            for case, unit, our, their, factor in cases:
                args.rows += results.compare(
                    f"{case}, {workers} worker(s)",
                    unit,
                    {
                        "ours": [pair[1] * factor for pair in found[our]],
                        "ImageFolder": [pair[1] * factor for pair in found[their]],
                    },
                    ours="ours",
                    better="higher",
                )


def cost(args: argparse.Namespace) -> None:
    """CPU time per image of every step, in one thread, which a busy machine does not change."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(args.root) if args.root else photographs(Path(name), BATCH, 500, 375)
        raw = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))[:BATCH]]
    images = torch.randint(0, 256, (BATCH, 3, 256, 256), dtype=torch.uint8)
    ids = torch.arange(BATCH)

    def each(call: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: [call(data) for data in raw]

    def baseline(transform: Callable[[Any], Any]) -> Callable[[], Any]:
        def two(data: bytes) -> None:
            image = Image.open(BytesIO(data)).convert("RGB")
            transform(image)
            transform(image)

        return each(two)

    def device(blur: float) -> Callable[[], Any]:
        views = bcl.ContrastiveViews(
            224, chain=ChainSettings(blur_probability=blur), arithmetic=args.arithmetic
        )
        return lambda: views(images, ids=ids)

    calls = {
        "ImageFolder: decode, two views": baseline(simclr_transform(blur=False)),
        "ImageFolder: decode, two views with blur": baseline(simclr_transform(blur=True)),
        "ours: decode to 256": each(lambda data: decode(data, 256)),
        "ours: two views": device(0.0),
        "ours: two views with blur": device(0.5),
    }
    found: dict[str, list[float]] = {title: [] for title in calls}
    for turn in range(args.repeat + 1):
        for title, call in calls.items():
            start = time.process_time()
            call()
            if turn:  # the first turn compiles and imports
                found[title].append((time.process_time() - start) / len(raw) * 1e3)
    middle = {title: statistics.median(values) for title, values in found.items()}
    for title, value in middle.items():
        say(title, f"{value:.2f} ms an image")
    for blur in ("", " with blur"):
        plain = middle[f"ImageFolder: decode, two views{blur}"]
        ours = middle["ours: decode to 256"]
        whole = ours + middle[f"ours: two views{blur}"]
        say(
            f"two views{blur}: views/s of ours to ImageFolder's, without and with the device part",
            f"{plain / ours:.1f}, {plain / whole:.1f}",
        )
        decoding, viewing = found["ours: decode to 256"], found[f"ours: two views{blur}"]
        args.rows += results.compare(
            f"two views of 224 px{blur} from a JPEG file, processor time",
            "ms",
            {
                "ours, both parts": [a + b for a, b in zip(decoding, viewing, strict=True)],
                "ImageFolder": found[f"ImageFolder: decode, two views{blur}"],
            },
            ours="ours, both parts",
        )


def packed(args: argparse.Namespace) -> None:
    """The same photographs from packed files."""
    if importlib.util.find_spec("datasets") is None:
        raise SystemExit("needs datasets: pip install 'bcl-cacr[datasets]'")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = args.root or str(photographs(folder / "set", args.images, 500, 375))
        source = ImageFolderLT(
            root, None, storage="files", test_share=0.01, cache_dir=str(folder / "cache")
        )
        source.setup()
        start = time.perf_counter()
        pack(source, folder / "packed", parts=("train",))
        seconds = time.perf_counter() - start
        decoding = datasets.ImageFolder(root, DECODE)
        say("packing and reading back", f"{source.num_samples / seconds:.0f} images/s")
        for workers in (1, 2):

            def files(count: int = workers) -> tuple[float, float]:
                data = ImageFolderLT(
                    root,
                    None,
                    storage="files",
                    image_size=256,
                    batch_size=BATCH,
                    test_share=0.01,
                    workers=count,
                    cache_dir=str(folder / "cache"),
                )
                return drain(data.train_dataloader())

            def arrow(count: int = workers) -> tuple[float, float]:
                data = PackedLT(
                    str(folder / "packed"), image_size=256, batch_size=BATCH, workers=count
                )
                return drain(data.train_dataloader())

            def plain(count: int = workers) -> tuple[float, float]:
                loader = DataLoader(
                    decoding, BATCH, shuffle=True, num_workers=count, drop_last=True
                )
                return drain(loader)

            contenders = {"ours, packed": arrow, "ours, files": files, "ImageFolder": plain}
            found: dict[str, list[tuple[float, float]]] = {title: [] for title in contenders}
            for _ in range(args.repeat):
                for title, call in contenders.items():
                    found[title].append(call())
            args.rows += results.compare(
                f"decoding JPEG to 256 px, {workers} worker(s)",
                "images/s",
                {title: [rate for _, rate in pairs] for title, pairs in found.items()},
                ours="ours, packed",
                better="higher",
            )
            for title, pairs in found.items():
                first, rate = (statistics.median(column) for column in zip(*pairs, strict=True))
                say(
                    f"{title}, decode to 256, {workers} worker(s)",
                    f"{rate:7.0f} images/s, first batch {first:.2f} s",
                )


def peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def billion(args: argparse.Namespace) -> None:
    """The constants behind the estimate for a billion images, measured on a twentieth of them."""
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

    steps = median(update, 20)
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
        root = Path(args.root) if args.root else photographs(Path(name), BATCH, 500, 375)
        raw = [path.read_bytes() for path in sorted(root.rglob("*.jpg"))[:BATCH]]
    small = [len(shrink(data, 256)) for data in raw]
    say("an image with a shorter side of 256 px", f"{np.mean(small) / 1024:.1f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "cache", "large", "cost", "packed", "billion"))
    parser.add_argument("--root", help="folder of class folders of JPEG files")
    parser.add_argument("--archive", help="zip archive of class folders of small images")
    parser.add_argument("--images", type=int, default=1024, help="how many to make")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512], help="of memory")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--blur", action="store_true", help="blur half of the views, as ImageNet's")
    parser.add_argument("--arithmetic", choices=("exact", "fast"), default="fast")
    parser.add_argument("--threads", type=int, help="of the main process")
    parser.add_argument("--device", default="cpu")
    results.add_json_option(parser)
    args = parser.parse_args()
    args.rows = []
    if args.threads:
        torch.set_num_threads(args.threads)
    say(
        "torch, threads, cores", f"{torch.__version__}, {torch.get_num_threads()}, {os.cpu_count()}"
    )
    jobs = {"memory": memory, "cache": cache, "large": large, "cost": cost}
    jobs |= {"packed": packed, "billion": billion}
    jobs[args.what](args)
    if args.json:
        clock = "cpu" if args.what == "cost" else "wall"
        results.save(args.json, "loading", args.rows, clock=clock, part=args.what)


if __name__ == "__main__":
    main()
