"""Images per second: memory, workers, packed files, ImageFolder.

    python benchmarks/loading.py memory            # gathers of a set that fits, and their share
    python benchmarks/loading.py cache --archive cifar10-jpeg.zip
    python benchmarks/loading.py large             # 224 px views from photographs
    python benchmarks/loading.py cost              # the same as CPU time per image
    python benchmarks/loading.py packed            # needs the extra "datasets"

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
from functools import partial
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
from datamodules.images.decode import decode
from datamodules.images.loader import BatchLoader
from datamodules.packed import pack

BATCH = 64
DECODE = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(256), transforms.PILToTensor()]
)


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
    """`memory` with the small JPEG files for ImageFolder."""
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
        found = {"ours, gathering it": costs}
        for workers, times in plain.items():
            found[f"ImageFolder, the same from JPEG files, {workers} worker(s)"] = times
        found["a ResNet-8 step on it"] = steps
        args.rows += results.compare(
            f"a batch of {batch_size} images of 32 px in memory",
            "ms",
            {title: [1e3 * x for x in times] for title, times in found.items()},
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


def race(
    args: argparse.Namespace,
    case: str,
    contenders: dict[str, Callable[[], tuple[float, float]]],
    views: int = 0,
) -> None:
    """Let the contenders, of which the first is ours, take turns, and keep their rates."""
    unit, factor = ("views/s", views) if views else ("images/s", 1)
    found: dict[str, list[tuple[float, float]]] = {title: [] for title in contenders}
    for _ in range(args.repeat):
        for title, call in contenders.items():
            found[title].append(call())
    for title, pairs in found.items():
        first, rate = (statistics.median(column) for column in zip(*pairs, strict=True))
        say(f"{case}: {title}", f"{rate * factor:7.0f} {unit}, first batch {first:.2f} s")
    args.rows += results.compare(
        case,
        unit,
        {title: [rate * factor for _, rate in pairs] for title, pairs in found.items()},
        ours=next(iter(contenders)),
        better="higher",
    )


def folder_module(root: str, folder: Path, workers: int) -> ImageFolderLT:
    """Photographs decoded in workers, batch by batch."""
    return ImageFolderLT(
        root,
        image_size=256,
        batch_size=BATCH,
        storage="files",
        workers=workers,
        test_share=0.01,
        cache_dir=str(folder / "cache"),
    )


def plain_loader(root: str, transform: Callable[[Any], Any], workers: int) -> DataLoader[Any]:
    """What one would write with torchvision."""
    images = datasets.ImageFolder(root, transform)
    return DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True)


def large(args: argparse.Namespace) -> None:
    """Two views of 224 px from photographs in files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = args.root or str(photographs(folder / "set", args.images, 500, 375))
        size = np.mean([path.stat().st_size for path in Path(root).rglob("*.jpg")][:500]) / 1024
        say("images, mean size", f"{args.images:,}, {size:.0f} KiB")
        in_workers = TwoViews(simclr_transform(args.blur))
        views = bcl.ContrastiveViews(
            224,
            chain=ChainSettings(blur_probability=0.5 if args.blur else 0.0),
            arithmetic=args.arithmetic,
        )

        def make_views(batch: Any) -> None:
            views(batch["image"].to(args.device), ids=batch["id"])

        blank = {"image": torch.zeros(BATCH, 3, 256, 256, dtype=torch.uint8)}
        make_views(blank | {"id": torch.arange(BATCH)})  # compilation, if any, is not loading
        folder_module(root, folder, 2).train_dataloader()  # the scan, once

        for workers in (1, 2):

            def ours(work: Any = None, count: int = workers) -> tuple[float, float]:
                return drain(folder_module(root, folder, count).train_dataloader(), work)

            def theirs(transform: Any, count: int = workers) -> tuple[float, float]:
                return drain(plain_loader(root, transform, count))

            race(
                args,
                f"decoding JPEG files to 256 px, {workers} worker(s)",
                {"ours": ours, "ImageFolder": partial(theirs, DECODE)},
            )
            race(
                args,
                f"two views of 224 px from JPEG files, {workers} worker(s)",
                {"ours": partial(ours, make_views), "ImageFolder": partial(theirs, in_workers)},
                views=2,
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
        source = folder_module(root, folder, 2)
        source.setup()
        start = time.perf_counter()
        pack(source, folder / "packed", parts=("train",))
        seconds = time.perf_counter() - start
        say("packing and reading back", f"{source.num_samples / seconds:.0f} images/s")
        for workers in (1, 2):

            def arrow(count: int = workers) -> tuple[float, float]:
                data = PackedLT(
                    str(folder / "packed"), image_size=256, batch_size=BATCH, workers=count
                )
                return drain(data.train_dataloader())

            def files(count: int = workers) -> tuple[float, float]:
                return drain(folder_module(root, folder, count).train_dataloader())

            def plain(count: int = workers) -> tuple[float, float]:
                return drain(plain_loader(root, DECODE, count))

            race(
                args,
                f"decoding JPEG to 256 px, {workers} worker(s)",
                {"ours, packed": arrow, "ours, files": files, "ImageFolder": plain},
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "cache", "large", "cost", "packed"))
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
    jobs = {"memory": memory, "cache": cache, "large": large, "cost": cost, "packed": packed}
    jobs[args.what](args)
    if args.json:
        clock = "cpu" if args.what == "cost" else "wall"
        results.save(args.json, "loading", args.rows, clock=clock, part=args.what)


if __name__ == "__main__":
    main()
