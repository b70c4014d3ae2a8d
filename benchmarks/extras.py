"""Does each extra bring what its features need? A clean installation of each alone.

For each extra, a new environment sees the packages that bcl-cacr needs without extras (from this
one, so that PyTorch is not downloaded again) and gets ``bcl-cacr[EXTRA]`` from pip. Then the
extra's features run. Without any extra, the same features must work or name that extra.

    python benchmarks/extras.py [--only report,hub]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

RUN = """
from bcl.training.fit import fit, make_trainer
from bcl import SimCLR
from datamodules import DigitsLT
def train(**options):
    settings = {"max_epochs": 1, "accelerator": "cpu"}
    trainer = make_trainer({"name": "run"}, "run", settings, **options)
    fit(trainer, SimCLR("resnet8", views=16), DigitsLT())
"""
# What each extra is for.
FEATURES = {
    "cli": ["main(['fit', '--config', 'digits_lt/simclr', '--epochs', '1', '--out', 'run'])"],
    "report": ["main(['quickstart', '--epochs', '1', '--out', 'quickstart'])"],
    "tensorboard": [RUN + "train(log='tensorboard')"],
    "wandb": [RUN + "train(log='wandb')"],
    "hub": [
        "from bcl.models.exported import save_encoder\n"
        "save_encoder(bcl.create_encoder('resnet8'), 'encoder', [0.5] * 3, [0.5] * 3)\n"
        "bcl.load_encoder('encoder')\n"
        "import huggingface_hub"
    ],
    "datasets": [
        "from datamodules.huggingface import import_datasets\n"
        "import_datasets('x').Dataset.from_dict({'path': ['a.png']}).to_parquet('list.parquet')",
        "import pathlib; pathlib.Path('list.parquet').touch()\n"
        "from datamodules.images.collected import _parquet\n"
        "try: _parquet(pathlib.Path('list.parquet'))\n"
        "except bcl.InputError as error: assert 'not an intact' in str(error), error",
    ],
}
FEATURES["all"] = [code for codes in FEATURES.values() for code in codes]
START = """
import os, sys, torch, bcl, cacr, datamodules
assert "/bcl-env/" in bcl.__file__, bcl.__file__
from bcl.cli import main as command
def main(words):
    assert command(words) == 0, words
"""


def closure(name: str) -> set[str]:
    """The installed distributions that one needs, without its extras."""
    found: set[str] = set()
    waiting = [Requirement(name)]
    while waiting:
        asked = waiting.pop()
        try:
            distribution = metadata.distribution(asked.name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        key = f"{asked.name.lower()}[{','.join(sorted(asked.extras))}]"
        if key in found:
            continue
        found.add(key)
        for text in distribution.requires or ():
            needed = Requirement(text)
            extras = asked.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return {each.partition("[")[0] for each in found} - {name}


def link(names: set[str], folder: Path) -> None:
    """Link the files of distributions into a folder."""
    folder.mkdir()
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def install(wheel: Path, extra: str, base: Path, folder: Path) -> Path:
    """Make an environment with an extra; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python3*/site-packages")
    (site / "base.pth").write_text(f"{base}\n")  # outside the environment: pip removes none of it
    what = f"bcl-cacr[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", what]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)
    return python


def try_feature(python: Path, code: str, place: Path) -> str:
    """Run code in an environment; returns "" or what it said last."""
    place.mkdir(exist_ok=True)
    settings = {"WANDB_MODE": "offline", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-c", START + code], cwd=place, env={**os.environ, **settings},
        capture_output=True, text=True,
    )  # fmt: skip
    return "" if done.returncode == 0 else (done.stderr.strip() or "failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="extras, comma-separated")
    chosen = parser.parse_args().only
    wrong = 0
    with tempfile.TemporaryDirectory() as made:
        work = Path(made, "bcl-env")
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work)]
        subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
        (wheel,) = work.glob("*.whl")
        link(closure("bcl-cacr"), work / "base")
        bare = install(wheel, "", work / "base", work / "none")
        for extra in chosen.split(",") if chosen else FEATURES:
            python = install(wheel, extra, work / "base", work / extra)
            for number, code in enumerate(FEATURES[extra]):
                said = try_feature(python, code, work / f"{extra}-{number}")
                # `all` names no extra of its own.
                without = "" if extra == "all" else try_feature(bare, code, work / f"{extra}-bare")
                named = not without or f"[{extra}]" in without
                wrong += bool(said) + (not named)
                print(f"{extra:<12} works: {said[-600:] or 'yes'}")
                lines = [line for line in without.splitlines() if f"[{extra}]" in line]
                print(f"{'':<12} without: {(lines or [without or 'works too'])[0][-600:]}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
