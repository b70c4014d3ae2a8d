"""Views per second: ours against the same chain one image at a time, torchvision v2 and kornia.

Every contender makes two views of each image with the SimCLR chain (crop 0.1-1, flip, jitter
0.4/0.4/0.4/0.1 with probability 0.8, gray 0.2), then k ops of RandAugment. Ours and the Pillow
chain boost each image by its own score, spread evenly over [0, 1]; torchvision v2 and kornia
cannot, and draw their ops once per call and once per batch. Kornia comes with the extra ``bench``
(pip install -e '.[bench]').

    python benchmarks/views.py --sizes 32 96 224 --threads 1 2 --json views.json
"""

import argparse
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np
import PIL
import results
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from bcl.augment import OPS, BoostedRandAugment, ContrastiveViews

SOURCE = {32: 32, 64: 64, 96: 96, 224: 256}  # side of the images that views are cut from
BATCH = {32: 512, 64: 256, 96: 256, 224: 64}
JITTER = (0.4, 0.4, 0.4, 0.1)
SCHEMES = {1: "bcl-i", 2: "bcl-d"}


def random_images(count: int, side: int) -> Tensor:
    """Smooth random images with some noise, (B, 3, side, side) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.rand(count, 3, side, side, generator=generator) - 0.5
    return ((smooth + 0.1 * noise).clamp(0, 1) * 255).to(torch.uint8)


# --- the same chain, one image at a time in Pillow --------------------------------------------


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _cutout(image: Image.Image, value: float) -> Image.Image:
    width, height = image.size
    side = value * width
    left = int(max(0, random.uniform(0, width) - side / 2))
    top = int(max(0, random.uniform(0, height) - side / 2))
    image = image.copy()
    box = (left, top, min(width, left + side), min(height, top + side))
    ImageDraw.Draw(image).rectangle(box, (125, 123, 114))
    return image


PILLOW_OPS: dict[str, tuple[float, float, Callable[[Image.Image, float], Image.Image]]] = {
    "ShearX": (0, 0.6, lambda i, v: _affine(i, 1, v, 0, 0, 1, 0)),
    "ShearY": (0, 0.6, lambda i, v: _affine(i, 1, 0, 0, v, 1, 0)),
    "TranslateX": (0, 0.66, lambda i, v: _affine(i, 1, 0, v * i.size[0], 0, 1, 0)),
    "TranslateY": (0, 0.66, lambda i, v: _affine(i, 1, 0, 0, 0, 1, v * i.size[1])),
    "Rotate": (0, 60, lambda i, v: i.rotate(v)),
    "AutoContrast": (0, 1, lambda i, _: ImageOps.autocontrast(i)),
    "Invert": (0, 1, lambda i, _: ImageOps.invert(i)),
    "Equalize": (0, 1, lambda i, _: ImageOps.equalize(i)),
    "Solarize": (0, 110, lambda i, v: ImageOps.solarize(i, math.ceil(v))),
    "Posterize": (4, 8, lambda i, v: ImageOps.posterize(i, int(v))),
    "Contrast": (0.1, 1.9, lambda i, v: ImageEnhance.Contrast(i).enhance(v)),
    "Color": (0.1, 1.9, lambda i, v: ImageEnhance.Color(i).enhance(v)),
    "Brightness": (0.1, 1.9, lambda i, v: ImageEnhance.Brightness(i).enhance(v)),
    "Sharpness": (0.1, 1.9, lambda i, v: ImageEnhance.Sharpness(i).enhance(v)),
    "Cutout": (0, 0.4, _cutout),
}


def pillow_boost(image: Image.Image, score: float, zeta: float, k: int) -> Image.Image:
    magnitude = 10 + 20 * score if k == 1 else 5 + 25 * score * zeta
    for name in random.choices(OPS, k=k):
        low, high, op = PILLOW_OPS[name]
        value = magnitude / 30 * (high - low) + low
        if low == 0 and name in OPS[:5] and random.random() > 0.5:
            value = -value
        if random.random() < score:
            image = op(image, value)
    return image


def pillow_views(arrays: np.ndarray, scores: list[float], size: int, k: int) -> int:
    """Two views of each (H, W, 3) array; returns how many were made."""
    from torchvision import transforms

    base = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, scale=(0.1, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(*JITTER)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
        ]
    )
    to_tensor = transforms.ToTensor()
    views = []
    for array, score in zip(arrays, scores, strict=True):
        image = Image.fromarray(array)
        zeta = random.random()
        views += [to_tensor(pillow_boost(base(image), score, zeta, k)) for _ in range(2)]
    return len(torch.stack(views))


# --- contenders: each returns a function that makes the views of the batch once -----------------


def ours(arithmetic: str) -> Callable[..., Callable[[], object]]:
    def prepare(images: Tensor, scores: Tensor, size: int, k: int) -> Callable[[], object]:
        boost = BoostedRandAugment(SCHEMES[k])  # type: ignore[arg-type]
        views = ContrastiveViews(size, boost=boost, arithmetic=arithmetic)  # type: ignore[arg-type]
        ids = torch.arange(len(images), device=images.device)
        state = {"epoch": 0}

        def step() -> object:
            state["epoch"] += 1
            return views(images, scores, ids, epoch=state["epoch"])

        return step

    return prepare


def torchvision_batch(images: Tensor, _: Tensor, size: int, k: int) -> Callable[[], object]:
    from torchvision.transforms import InterpolationMode, v2

    chain = v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=(0.1, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandAugment(num_ops=k, magnitude=20),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda: (chain(images), chain(images))


def kornia_batch(images: Tensor, _: Tensor, size: int, k: int) -> Callable[[], object]:
    from kornia import augmentation as ka
    from kornia.constants import Resample

    chain = torch.nn.Sequential(
        ka.RandomResizedCrop((size, size), scale=(0.1, 1.0), resample=Resample.BICUBIC),
        ka.RandomHorizontalFlip(),
        ka.ColorJitter(*JITTER, p=0.8),
        ka.RandomGrayscale(p=0.2),
        ka.auto.RandAugment(n=k, m=20),
    )

    def step() -> object:
        x = images.to(torch.float32) / 255
        return chain(x), chain(x)

    return step


def rounds(
    steps: dict[str, Callable[[], int]], at_least: float
) -> dict[str, list[tuple[float, float]]]:
    """Views per second in rounds of one call each, by wall clock and by this process's clock.

    Contenders take turns, so a machine that speeds up or slows down affects all of them equally.
    """
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    spent = 0.0
    while spent < at_least * len(steps) or len(next(iter(rates.values()))) < 5:
        for name, step in steps.items():
            start, busy = time.perf_counter(), time.process_time()
            made = step()
            took, busy = time.perf_counter() - start, time.process_time() - busy
            rates[name].append((made / took, made / busy))
            spent += took
    return rates


class Pillow:
    """The chain in Pillow, in this process or in several."""

    def __init__(self, images: Tensor, scores: Tensor, size: int, k: int, workers: int) -> None:
        arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        marks = scores.tolist()
        self.parts = [(arrays[i::workers], marks[i::workers], size, k) for i in range(workers)]
        self.pool = None
        if workers > 1:
            context = get_context("spawn")
            self.pool = ProcessPoolExecutor(workers, context, initializer=_one_thread)

    def __call__(self) -> int:
        """Make the views once; returns how many."""
        if self.pool is None:
            return sum(pillow_views(*part) for part in self.parts)
        return sum(
            future.result()
            for future in [self.pool.submit(pillow_views, *part) for part in self.parts]
        )

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown()


def _one_thread() -> None:
    torch.set_num_threads(1)


CONTENDERS: dict[str, Callable[..., Callable[[], object]]] = {
    "ours, exact": ours("exact"),
    "ours, fast": ours("fast"),
    "torchvision v2, one draw a batch": torchvision_batch,
    "kornia, ops drawn once a batch": kornia_batch,
}


def counted(step: Callable[[], object], views: int, device: str) -> Callable[[], int]:
    """Wait for the device, and return the number of views."""

    def run() -> int:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        return views

    return run


def kernels(step: Callable[[], object]) -> int:
    """Number of device kernels of one call; the host's calls that launch them are traced too."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    rows = trace.key_averages()
    return sum(row.count for row in rows if row.device_type == DeviceType.CUDA)


def step_of_resnet18(views: Tensor) -> Callable[[], int]:
    """A training step of a ResNet-18 in bf16 on views (2, B, 3, S, S), without making them."""
    from bcl import NTXentLoss, Projector, create_encoder

    model = torch.nn.Sequential(create_encoder("resnet18", views.shape[-1]), Projector(512, 128))
    model = model.to(views.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = NTXentLoss()
    inputs = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(views.device.type, dtype=torch.bfloat16):
            z = model(inputs)
        loss(z.float().view(2, -1, z.shape[1])).backward()
        optimizer.step()
        optimizer.zero_grad()

    return counted(step, inputs.shape[0], views.device.type)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 96, 224], choices=SOURCE)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num-ops", type=int, nargs="+", default=[1, 2], choices=SCHEMES)
    parser.add_argument("--only", nargs="+", help="parts of the contenders' names")
    parser.add_argument("--batch", type=int, help="images per batch, instead of the default")
    parser.add_argument("--seconds", type=float, default=2.0, help="minimum time of a measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="without Pillow, which is slow")
    parser.add_argument("--step", action="store_true", help="share of a ResNet-18 step in bf16")
    results.add_json_option(parser)
    args = parser.parse_args()
    chosen = [n for n in CONTENDERS if not args.only or any(part in n for part in args.only)]
    if not any("ours" in name for name in chosen):
        given, known = " ".join(args.only), "; ".join(CONTENDERS)
        parser.error(f"--only is {given}, which chooses none of ours; there are {known}")
    if args.batch is not None and args.batch < 1:
        parser.error(f"--batch is {args.batch}; give 1 or more")
    smallest = args.batch or min(BATCH[size] for size in args.sizes)
    if not 1 <= min(args.threads) <= max(args.threads) <= smallest:
        given = " ".join(map(str, args.threads))
        parser.error(f"--threads is {given}; give from 1 to {smallest}, the images of a batch")
    rows: list[results.Row] = []
    missing: dict[str, list[float]] = {}
    device = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(
        f"torch {torch.__version__}, Pillow {PIL.__version__}, {platform.machine()}, "
        f"device {device}"
    )
    print("ms: per step; x: ratio to the first one's rate by wall clock; cpu x: by processor time")
    print(
        f"{'size':>4} {'k':>2} {'threads':>7}  {'contender':34} {'views/s':>10} {'ms':>8} {'x':>6} "
        f"{'cpu x':>6}"
    )
    for size, k, threads in product(args.sizes, args.num_ops, args.threads):
        torch.set_num_threads(threads)
        batch = args.batch or BATCH[size]
        images, scores = random_images(batch, SOURCE[size]), torch.linspace(0, 1, batch)
        there = images.to(args.device), scores.to(args.device)
        steps: dict[str, Callable[[], int]] = {}
        if not args.alone:
            pillow = Pillow(images, scores, size, k, threads)
            steps["Pillow, one image at a time"] = pillow
        for name in chosen:
            try:
                step = CONTENDERS[name](*there, size, k)
            except ImportError as error:
                print(f"  {name} left out: {error}")
                missing[name] = []
                continue
            steps[name] = counted(step, 2 * batch, args.device)
            if args.device == "cuda":
                print(f"  {name}: {kernels(step)} kernels per step")
        if args.step:
            made = ours("exact")(*there, size, k)()
            assert isinstance(made, Tensor)
            steps["(ResNet-18 step in bf16, views made before)"] = step_of_resnet18(made)
        rates = rounds(steps, args.seconds)
        if not args.alone:
            pillow.close()
        base = next(iter(rates.values()))
        extra: dict[str, str] = {}
        for name, each in rates.items():
            wall, busy = (
                statistics.median(a[i] / b[i] for a, b in zip(each, base, strict=True))
                for i in (0, 1)
            )
            rate = statistics.median(a[0] for a in each)
            # Several Pillow workers have their own process clocks.
            one_clock = threads == 1 and args.device == "cpu" and not args.alone
            extra[name] = f"{busy:.1f}× Pillow by processor time" if one_clock else ""
            print(
                f"{size:4} {k:2} {threads:7}  {name:34} {rate:10.0f} {2000 * batch / rate:8.2f} "
                f"{wall:6.2f} {f'{busy:6.2f}' if one_clock else ''}",
                flush=True,
            )
        # The others are compared with the default, if it takes part.
        own = min((name for name in rates if "ours" in name), key=lambda n: n != "ours, exact")
        where = "GPU" if args.device == "cuda" else f"{threads} thread(s)"
        case = f"two views of {size} px, k = {k}, {batch} images, {where}"
        walls = {name: [pair[0] for pair in each] for name, each in rates.items()}
        rows += results.compare(case, "views/s", walls, ours=own, better="higher", extra=extra)
    if args.json:
        notes = results.left_out(missing, results.NOT_INSTALLED)
        results.save(args.json, "views", rows, clock="wall", notes=notes, device=device)


if __name__ == "__main__":
    main()
