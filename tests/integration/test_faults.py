"""Disks that are full, read-only or broken: one line, and whatever was there before stays whole."""

import json
import sys

import disks
import pytest
import torch

from bcl import InputError
from bcl.cli import main
from bcl.core.files import save_tensors
from bcl.training.checkpoints import damage
from datamodules import ImageCollection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
FIT = ("fit", "--config", "digits_lt/simclr", "--model.encoder.args.width", "4",
       "--data.batch_size", "200", "--trainer.accelerator", "cpu")  # fmt: skip


def fit(folder, epochs, *more):
    place = ("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", str(epochs))
    return main([*FIT, *place, *more])


def one_line(capsys, *words):
    """The error that was said: one line with these words."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("bcl: error")]
    for word in words:
        assert word in line
    return line


def test_a_file_that_cannot_grow_is_an_os_error_at_every_size(tmp_path):
    """Whatever torch makes of it: its archive ends in a RuntimeError at some of the sizes."""
    content = {"a": torch.arange(3000), "b": {"c": torch.ones(500), "text": "x" * 300}}
    target = tmp_path / "a.pt"
    save_tensors(target, content)
    before = target.read_bytes()
    for size in range(0, len(before), len(before) // 28):
        with disks.file_limit(size), pytest.raises(OSError, match="File too large") as error:
            save_tensors(target, content)
        assert error.value.filename == str(target)
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
        assert target.read_bytes() == before


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_one_line(tmp_path, capsys):
    with disks.small_disk(tmp_path / "disk", 4000) as disk:
        assert fit(disk / "run", 1) == 0
        last = disk / "run" / "checkpoints" / "last.ckpt"
        before = last.read_bytes()
        for leave in (0, len(before) // 2, len(before) - 2000):
            disks.fill(disk, leave)
            capsys.readouterr()
            assert fit(disk / "run", 2, "--ckpt_path", "last") == 2
            one_line(capsys, "No space left on device", str(disk / "run"))
            assert last.read_bytes() == before
            (disk / "filler").unlink()
        assert fit(disk / "run", 2, "--ckpt_path", "last") == 0
        assert damage(last) is None
        assert torch.load(last, weights_only=True)["epoch"] == 1


@pytest.mark.slow
def test_features_that_cannot_be_kept_are_not_lost(tmp_path, capsys):
    with disks.small_disk(tmp_path / "disk", 1000) as disk:
        assert fit(tmp_path / "run", 1) == 0
        disks.fill(disk, 4096)
        words = ["--protocol", "knn", "--cache", str(disk), "--out", str(tmp_path / "report")]
        assert main(["probe", str(tmp_path / "run"), *words]) == 0
        assert "are not kept" in capsys.readouterr().err
        assert json.loads((tmp_path / "report" / "report.json").read_text())["protocols"]
        assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.slow
def test_a_read_only_disk_is_said_before_any_work(tmp_path, capsys):
    with disks.small_disk(tmp_path / "disk", 4000) as disk:
        assert fit(disk / "run", 1) == 0
        before = sorted(disk.rglob("*"))
        with disks.read_only(disk):
            capsys.readouterr()
            for words in (
                ["probe", str(disk / "run"), "--out", str(disk / "report")],
                ["export", str(disk / "run"), "--out", str(disk / "encoder")],
            ):
                assert main(words) == 2
                one_line(capsys, str(disk))
            assert fit(disk / "run", 2, "--ckpt_path", "last") == 2
            one_line(capsys, str(disk))
        assert sorted(disk.rglob("*")) == before


def test_an_io_error_names_the_image(tmp_path):
    """Linux gives EIO for the first page of a process's memory, which is a regular file."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match="Input/output error"):
        ImageCollection(str(tmp_path / "images"), cache_dir=str(tmp_path)).setup()
