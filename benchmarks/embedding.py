"""Features of every image of a folder: `bcl embed` beside LightlyTrain's and a plain loop.

    python benchmarks/embedding.py --images 2000
    LIGHTLY_TRAIN=VENV/bin/python python benchmarks/embedding.py     # its own environment

All encode the same JPEG files with a ResNet-18 whose weights are random: ours and LightlyTrain from
a checkpoint of one short epoch, which is not measured. Each call is a process of its own and counts
from its start to its end; ours makes no thumbnails, which the others do not have. Contenders take
turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from loading import photographs
from peers import python_of_lightly_train

TITLES = {
    "ours": "bcl embed",
    "plain": "torchvision and DataLoader",
    "lightly-train": "LightlyTrain's embed",
}
PLAIN = """
import sys, timm, torch
from torchvision import transforms as t
from torchvision.datasets import ImageFolder
root, out, size, batch, workers = sys.argv[1:]
chain = t.Compose([
    t.Resize(int(size)), t.CenterCrop(int(size)), t.ToTensor(),
    t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])
loader = torch.utils.data.DataLoader(
    ImageFolder(root, chain), int(batch), num_workers=int(workers)
)
network = timm.create_model("resnet18", num_classes=0).eval()
with torch.inference_mode():
    torch.save(torch.cat([network(images) for images, _ in loader]), out)
"""
TRAIN = """
import sys, lightly_train
root, out, size = sys.argv[1:]
lightly_train.pretrain(
    out=out, data=root, model="torchvision/resnet18", method="simclr", epochs=1, batch_size=64,
    num_workers=1, accelerator="cpu", transform_args={"image_size": (int(size), int(size))},
)
"""
EMBED = """
import sys, lightly_train
root, out, size, batch, workers, checkpoint = sys.argv[1:]
lightly_train.embed(
    out=out, data=root, checkpoint=checkpoint, format="torch", image_size=int(size),
    batch_size=int(batch), num_workers=int(workers), accelerator="cpu",
)
"""


def call(words: list[str], minutes: float) -> float | None:
    """Seconds of a command; none, and its last line, if it fails or takes too long."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60 * minutes
        )
    except subprocess.TimeoutExpired:
        print(f"not done after {minutes:g} minutes: {words[0]}", file=sys.stderr)
        return None
    if done.returncode:
        print((done.stderr.strip().splitlines() or ["no message"])[-1], file=sys.stderr)
        return None
    return time.perf_counter() - start


def main() -> None:
    """Run the contenders in turn, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="that a call may take")
    parser.add_argument("--only", nargs="+", default=list(TITLES), choices=list(TITLES))
    results.add_json_option(parser)
    args = parser.parse_args()
    for name in ("images", "size", "batch", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; give 1 or more")
    if "ours" not in args.only:
        parser.error("--only needs ours, with which the others are compared")
    python = python_of_lightly_train(parser)
    ours, plain, theirs = TITLES.values()
    usual = [str(each) for each in (args.size, args.batch, args.workers)]
    found: dict[str, list[float]] = {TITLES[name]: [] for name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        stored = round(args.size * 1.6), round(args.size * 1.2)
        root = str(photographs(here / "images", args.images, *stored))
        few = str(photographs(here / "few", 64, *stored))
        bcl = [sys.executable, "-m", "bcl.cli"]
        trained = call(
            [*bcl, "fit", "--config", "images/simclr", "--data.root", few, "--epochs", "1",
             "--encoder", "resnet18", "--model.encoder.args", '{"small_stem": false}',
             "--size", str(args.size), "--batch", "32",
             "--data.cache_dir", str(here / "cache"), "--out", str(here / "run")],
            args.minutes,
        )  # fmt: skip
        if trained is None:
            raise SystemExit("ours could not be trained; the line above says why")
        commands = {ours: [
            *bcl, "embed", str(here / "run"), root, "--out", str(here / "ours.npz"),
            "--overwrite", "--no-thumbnails", "--batch-size", str(args.batch),
            "--workers", str(args.workers), "--device", "cpu", "--size", str(args.size),
        ]}  # fmt: skip
        if "plain" in args.only:
            words = [sys.executable, "-c", PLAIN, root, str(here / "plain.pt"), *usual]
            commands[plain] = words
        if "lightly-train" in args.only and call(
            [python, "-c", TRAIN, few, str(here / "theirs"), str(args.size)], args.minutes
        ):
            checkpoint = str(next((here / "theirs").rglob("last.ckpt")))
            out = str(here / "theirs.pt")
            commands[theirs] = [python, "-c", EMBED, root, out, *usual, checkpoint]
        for _ in range(args.rounds):
            for name, words in list(commands.items()):
                for made in here.glob("theirs.pt"):
                    made.unlink()
                seconds = call(words, args.minutes)
                if seconds is None:
                    commands.pop(name)
                else:
                    found[name].append(args.images / seconds)
    if not found[ours]:
        raise SystemExit("ours did not run; the lines above say why")
    case = f"{args.images:,} JPEG files, ResNet-18 at {args.size} px, from start to end"
    rows = results.compare(case, "images/s", found, ours=ours, better="higher")
    for row in rows:
        ratio = f"  ours is {row['ratio']:.2f} times as fast" if "ratio" in row else ""
        print(f"{row['contender']:<28}{row['median']:>10.4g} images/s{ratio}")
    if args.json:
        results.save(args.json, "embedding", rows, notes=results.left_out(found))


if __name__ == "__main__":
    main()
