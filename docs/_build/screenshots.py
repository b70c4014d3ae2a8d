"""Screenshots of a discovery page of digits, for the page about it; they need Chromium.

    .venv/bin/python docs/_build/screenshots.py docs/assets
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from browser import Browser, browser  # noqa: E402

MARGIN = 12  # pixels around a section
DESK, PHONE = (1000, 1000), (400, 820)
SELECT = "select(Number(document.querySelector('#rare .thumb.big').dataset.row))"


def section(page: Browser, name: str) -> Image.Image:
    """A section of the page, as much of it as the window shows."""
    page.run(f"document.getElementById('{name}').scrollIntoView()")
    page.run(f"scrollBy(0, -{MARGIN})")
    page.run("new Promise((done) => setTimeout(done, 500))")  # images are decoded when they show
    page.drawn()
    bottom = page.run(f"document.getElementById('{name}').getBoundingClientRect().bottom")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.crop((0, 0, image.width, min(image.height, int(bottom) + MARGIN)))


def digits(folder: str) -> Path:
    """The discovery page of long-tailed digits, embedded by their pixels."""
    import bcl
    from datamodules import DigitsLT

    data = DigitsLT()
    images = data.train_set()
    labels = [data.class_names[label] for label in images.labels.tolist()]
    file = Path(folder) / "embedding.parquet"
    bcl.embed(lambda x: x.float().mean(1).flatten(1), images, file)
    return bcl.discover(file, folder, labels=labels, title="Digits")


def main(folder: str) -> None:
    """Write the screenshots."""
    shots = {
        "discover-rare": (DESK, False, "rare", ""),
        "discover-map": (DESK, False, "map", SELECT),
        "discover-clusters": (DESK, True, "clusters", ""),
        "discover-phone": (PHONE, True, "map", SELECT),
    }
    with tempfile.TemporaryDirectory() as work, browser(Path(work, "profile")) as page:
        source = digits(work)
        for name, (size, dark, part, before) in shots.items():
            page.look(*size, dark)
            page.open(source)
            page.run(f"{before or 0}; 0")
            target = Path(folder) / f"{name}.webp"
            section(page, part).save(target, quality=72, method=6)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
