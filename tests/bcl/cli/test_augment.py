"""`bcl augment`: a grid, or one clear line."""

import argparse

import numpy as np
import pytest
from PIL import Image

from bcl.cli.augment import add_arguments, run
from bcl.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def photo(rows=40, cols=60, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((cols, rows), Image.Resampling.BICUBIC)


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


@pytest.mark.slow
def test_the_command_writes_a_grid(tmp_path, capsys):
    for seed in range(3):
        photo(30, 50, seed).save(tmp_path / f"{seed}.png")
    out = tmp_path / "out" / "grid.png"
    assert command("--images", tmp_path, "--out", out, "--size", 24, "--columns", 4) == 0
    assert Image.open(out).size == (4 * 26 + 2, 3 * 26 + 2 + 14)
    assert "3 rows, 4 columns" in capsys.readouterr().out
    assert command("--images", tmp_path, "--out", out, "--size", 24, "--ops", "--whole") == 0
    assert Image.open(out).size == (90 + 6 * 26 + 2, 15 * 26 + 2 + 14)
    first = out.read_bytes()
    assert command("--images", tmp_path, "--out", out, "--whole", "--scheme", "bcl-d") == 0
    assert out.read_bytes() != first


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--images", "nowhere"], "does not exist"),
        (["--images", "."], "no images"),
        (["--images", ".", "--columns", 1], "--columns"),
        (["--images", ".", "--scheme", "bcl"], "scheme"),
        (["--images", ".", "--policy", "monoton"], "monotone"),
        (["--images", ".", "--ops", "--scheme", "bcl_d"], "did you mean 'bcl-d'"),
        (["--images", ".", "--out", "grid.jpg"], r"\.png file to write, got 'grid\.jpg'"),
        (["--images", ".", "--out", "."], r"\.png file to write"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    if "--scheme" in words or "--policy" in words:
        photo().save("a.png")
    with pytest.raises(InputError, match=text):
        command("--out", "grid.png", *words)
    assert not (tmp_path / "grid.png").exists()


def test_the_command_names_a_file_that_is_no_image(tmp_path):
    (tmp_path / "broken.jpg").write_text("text")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        command("--images", tmp_path, "--out", tmp_path / "grid.png")
