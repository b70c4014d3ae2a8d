"""Figures that pages copy from the benchmarks are those of the committed results.

`make bench ARGS=--publish` rewrites `benchmarks/results.json` and its own page; what other pages
repeat is listed here, and a figure of theirs that is not listed fails.
"""

import importlib
import json
import re

import numpy as np
import pytest
import torch
from places import ROOT

from bcl.augment import OPS, op_grid

RESULTS = {
    result["job"]: {(row["case"], row["contender"]): row for row in result["rows"]}
    for result in json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
}
HELD = {
    "augmentation.md": "Speed",
    "data.md": "Measured",
    "evaluation.md": "Speed",
    "losses.md": "Measured",
}
PILLOW = "Pillow, one image at a time"
V2 = "torchvision v2, one draw a batch"
COMPILED = "ours, exact, compiled"
SIMPLE = "decoding JPEG files to 256 px"
VIEWS = "two views of 224 px from JPEG files"
COST = "two views of 224 px{} from a JPEG file, processor time"
PROBE = "linear probes: full, 5 × 50-shot, 5 × 100-shot of 50,000 × 512"
# What these sections say besides: sizes and settings that the command sets, and allowances.
SETTINGS = ("4 MB", "1 MiB", "more than 4 GB")


def number(value):
    """As the benchmarks' own page writes it."""
    return importlib.import_module("page").number(value)


def chain(case, threads, job):
    """How many times as fast as Pillow's chain, by the wall's clock."""
    row = RESULTS[job][f"two views of {case} images, {threads} thread(s)", PILLOW]
    return f"{row['ratio']:.1f}"


def compiled(k):
    """How many times as fast as without compiled parts; the rows divide the other way round."""
    row = RESULTS["views-compiled"][
        f"two views of 32 px, k = {k}, 512 images, 1 thread(s)", COMPILED
    ]
    return f"{1 / row['ratio']:.2f}"


def middle(job, case, contender):
    return RESULTS[job][case, contender]["median"]


def shown(job, case, contender):
    return number(middle(job, case, contender))


def times(job, case, contender):
    return f"{RESULTS[job][case, contender]['ratio']:.1f}"


def workers(job, case, contender):
    """Cells for one and for two workers."""
    rows = [RESULTS[job][f"{case}, {count} worker(s)", contender] for count in (1, 2)]
    return " | ".join(f"{number(row['median'])} {row['unit']}" for row in rows)


def probe(contender):
    row = RESULTS["probe"][PROBE, contender]
    shares = row["extra"].removesuffix(" %").split(" / ")
    return " | ".join([number(row["median"]), *shares])


def augmentation():
    for px, rest, job in (
        ("32 px, k = 1, **exact** (default)", "32 px, k = 1, 512", "views-small"),
        ("32 px, k = 2, **exact**", "32 px, k = 2, 512", "views-small"),
        ("96 px, k = 1, **exact**", "96 px, k = 1, 256", "views-large"),
        ("224 from 256 px, k = 1, **exact**", "224 px, k = 1, 64", "views-large"),
    ):
        yield f"| {px} | {chain(rest, 1, job)} | {chain(rest, 2, job)} |"
    yield (
        f"exact with compiled parts was {compiled(1)} times as fast as exact at 32 px with k = 1, "
        f"and {compiled(2)} times with k = 2"
    )
    for rest, job in (
        ("32 px, k = 1, 512 images", "gpu-views"),
        ("32 px, k = 2, 512 images", "gpu-views"),
        ("32 px, k = 1, 4096 images", "gpu-views-large"),
        ("32 px, k = 2, 4096 images", "gpu-views-large"),
        ("224 px, k = 1, 64 images", "gpu-views"),
        ("224 px, k = 2, 64 images", "gpu-views"),
    ):
        case = f"two views of {rest}, GPU"
        rates = [shown(job, case, name) for name in ("ours, exact", V2)]
        yield f"| {rest} | {' | '.join(rates)} |"
    case = "training step, resnet18, 512 images of 32 px, bf16, channels last, GPU"
    ratio = 1 / RESULTS["gpu-step"][case, "encoder alone"]["ratio"]
    yield f"takes {ratio:.2f} times the encoder's own"


def data():
    files, shards = "loading-files", "decoding JPEG to 256 px"
    yield (
        "| torchvision ImageFolder + DataLoader, two views of 224 px in the workers | "
        f"{workers(files, VIEWS, 'ImageFolder')} |"
    )
    yield (
        "| ours, workers decode to 256 px (each image makes two views) | "
        f"{workers(files, SIMPLE, 'ours')} |"
    )
    yield (
        '| ours, and `ContrastiveViews(224, arithmetic="fast")` after it on the CPU | '
        f"{workers(files, VIEWS, 'ours')} |"
    )
    yield (
        "| torchvision ImageFolder + DataLoader, decode and resize to 256 px | "
        f"{workers(files, SIMPLE, 'ImageFolder')} |"
    )
    theirs = middle(files, f"{VIEWS}, 2 worker(s)", "ImageFolder")
    supply = 2 * middle(files, f"{SIMPLE}, 2 worker(s)", "ours") / theirs
    yield f"the workers' part alone supplies {supply:.1f} times ImageFolder's views"
    one, two = (times(files, f"{VIEWS}, {n} worker(s)", "ImageFolder") for n in (1, 2))
    yield (
        f"Decoding and views together make {one} times as many with one worker (but the main "
        f"process has the other core) and {two} times with two"
    )
    plain, blurred = (
        [
            shown("loading-cost", COST.format(blur), "ImageFolder"),
            shown("loading-cost", COST.format(blur), "ours, both parts"),
            times("loading-cost", COST.format(blur), "ImageFolder"),
        ]
        for blur in ("", " with blur")
    )
    yield (
        f"ImageFolder {plain[0]} ms, ours {plain[1]} ms, {plain[2]} times as fast; with blur "
        f"{blurred[0]} ms, {blurred[1]} ms and {blurred[2]} times"
    )
    case = "a batch of {} images of 32 px in memory"
    small, large = (
        [
            shown("loading-memory", case.format(size), contender)
            for contender in (
                "ours, gathering it",
                "a ResNet-8 step on it",
                "ImageFolder, the same from JPEG files, 2 worker(s)",
            )
        ]
        for size in (256, 512)
    )
    yield (
        f"gathering a batch of 256 takes {small[0]} ms, where a step of ResNet-8 on its two views "
        f"takes {small[1]} ms and torchvision's ImageFolder with two workers {small[2]} ms; a "
        f"batch of 512 takes {large[0]} ms, {large[1]} ms and {large[2]} ms"
    )
    cached = [
        shown("loading-cache", "60,000 small JPEG files", contender)
        for contender in (
            "ours, first batch, decoding and caching",
            "ours, the same from the zip archive",
            "ours, first batch, cached",
            "ImageFolder, each epoch",
        )
    ]
    yield (
        f"the first batch comes after {cached[0]} s, which decode and cache all of them "
        f"({cached[1]} s straight from a zip archive), and after {cached[2]} s once they are "
        f"cached; one epoch of ImageFolder with two workers takes {cached[3]} s"
    )
    for contender in ("files", "shards"):
        yield f"| {contender} | {workers('loading-shards', shards, f'ours, {contender}')} |"
    plain = workers("loading-shards", shards, "ImageFolder")
    yield f"| torchvision ImageFolder + DataLoader | {plain} |"


def evaluation():
    yield f"| `lbfgs`, choice of the penalty included | {probe('ours, lbfgs')} |"
    yield f"| scikit-learn `LogisticRegression`, given our penalty | {probe('scikit-learn')} |"
    seconds = shown("gpu-probe", f"{PROBE}, GPU", "ours, lbfgs")
    yield f"On one H200 the suite takes {seconds} s"
    yield f"| plain loop of BCL's protocol | {probe('plain loop (BCL)')} |"


def losses():
    rows = RESULTS["losses"]
    nt_xent = ("bcl", "plain", "lightly", "products")
    cacr = ("cacr", "Gram matrices", "(B, B, D)", "products")
    for case in dict.fromkeys(case for case, _ in rows):
        pattern = r"(NT-Xent|CACR)(?:, (\d) views)?, (.*) samples"
        kind, views, batch = re.fullmatch(pattern, case).groups()
        cells = [f"{views}, {batch}" if views else batch]
        for name in nt_xent if kind == "NT-Xent" else cacr:
            row = rows.get((case, name))
            memory = f", {row['extra']}" if row and row.get("extra") else ""
            cells.append(f"{number(row['median'])} ms{memory}" if row else "")
        yield re.sub(r" +", " ", f"| {' | '.join(cells)} |")
    device = RESULTS["gpu-losses"]
    for batch in ("512", "2,048", "8,192"):
        found = [
            device[f"NT-Xent, {batch} samples, GPU", name] for name in nt_xent if name != "lightly"
        ]
        yield f"| {batch} | {' | '.join(number(row['median']) + ' ms' for row in found)} |"
    shares = (
        number(rows[f"{kind}, 2,048 samples", "products"]["ratio"])
        for kind in ("NT-Xent", "CACR, 2 views", "CACR, 5 views")
    )
    yield (
        "At 2,048 samples NT-Xent is {} times as fast as the three products, CACR {} times with "
        "two views and {} times with five."
    ).format(*shares)


MAKERS = {
    "augmentation.md": augmentation,
    "data.md": data,
    "evaluation.md": evaluation,
    "losses.md": losses,
}


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


def section(name):
    """What stands below the heading that is held, up to the next one of its level."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    level, rest = re.search(rf"^(#+) {HELD[name]}\n(.*)", text, re.M | re.DOTALL).groups()
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize("name", HELD)
def test_copied_figures_are_those_of_the_results(name):
    text = section(name)
    missing = [phrase for phrase in MAKERS[name]() if phrase not in text]
    assert not missing, f"docs/{name} should say:\n" + "\n".join(missing)


@pytest.mark.parametrize("name", HELD)
def test_no_other_figure_stands_among_them(name):
    text = section(name)
    for phrase in [*MAKERS[name](), *SETTINGS]:
        text = text.replace(phrase, "")
    text = re.sub(r"`[^`\n]*`", "", text)
    text = re.sub(r"^\|.*\n(?=\|[-:|]+$)", "", text, flags=re.M)  # heads of tables
    units = r"(?:ms|s|seconds|minutes|[KMG]i?B|times|(?:views|images)/s)\b"
    found = re.findall(rf"\d[\d.,]* ?(?:{units}|%)|B\^\d[\d.]*", text)
    found += re.findall(r"^\|.*\d.*$", text, re.M)
    assert not found, f"docs/{name} has figures that no result gives: {found}"


def test_distances_of_the_ops_are_those_of_the_images():
    images = np.load(ROOT / "tests" / "golden" / "randaugment.npz")["images"]
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    text = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    means = {}
    for policy in ("reference", "monotone"):
        grids = [op_grid(image, [0, 10, 20, 30], policy) * 255 - image for image in tensors]
        moved = torch.stack([grid.abs().mean(dim=(2, 3, 4)) for grid in grids]).mean(dim=0)
        means[policy] = {
            op: " | ".join(f"{x:.1f}" for x in row)
            for op, row in zip(OPS, moved.tolist(), strict=True)
        }
    for op in ("Invert", "Equalize", "Solarize", "Posterize", "Brightness"):
        row = f"| {op}, reference | {means['reference'][op]} | monotone | {means['monotone'][op]} |"
        assert row in text, f"docs/augmentation.md should say: {row}"
