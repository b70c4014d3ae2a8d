"""``bcl pack``: what it writes and what it refuses."""

import argparse
from pathlib import Path

import pytest
import torch
from folders import make_folder

from bcl import InputError
from bcl.cli import pack as command
from datamodules import PackedLT


def run(*words) -> int:
    parser = argparse.ArgumentParser("bcl pack")
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.slow
def test_names_of_the_files_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow as pa

    folder = make_folder(tmp_path / "set", {"ant": 5, "bee": 5})
    assert run(folder, "--out", tmp_path / "out", "--cache-dir", tmp_path / "cache") == 0
    file = next((tmp_path / "out" / "data").glob("train-*.arrow"))
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["image"]["bytes"] == (folder / row["name"]).read_bytes()
        assert row["label"] == ("ant", "bee").index(row["name"].split("/")[0])


def test_command(tmp_path: Path, capsys) -> None:
    pytest.importorskip("datasets")
    folder = make_folder(tmp_path / "set", {"ant": 20, "bee": 20}, side=20)
    words = (folder, "--out", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    assert run(*words, "--imbalance-factor", 4, "--max-side", 10) == 0
    assert "train   20 images in 1 file" in capsys.readouterr().out
    data = PackedLT(str(tmp_path / "out"), image_size=8, batch_size=4, workers=0)
    assert data.class_counts.tolist() == [16, 4]
    with pytest.raises(InputError, match="exists already"):
        run(*words)
    assert run(*words, "--overwrite", "--train-only") == 0
    assert "as it is" in PackedLT(str(tmp_path / "out")).recipe
    with pytest.raises(InputError, match="--train-list"):
        run(*words, "--overwrite", "--test-list", "x.txt")
    with pytest.raises(InputError, match=r"--train-list fixes .*--recipe would"):
        run(*words, "--overwrite", "--train-list", "x.txt", "--recipe", "cifar10/sdclr")
    with pytest.raises(InputError, match=r"--recipe fixes .* --imbalance-factor would have no"):
        run(*words, "--overwrite", "--recipe", "cifar10/sdclr", "--imbalance-factor", 7)
    with pytest.raises(InputError, match=r"--split-file fixes .* --imbalance-factor would have no"):
        run(*words, "--overwrite", "--split-file", "s.npy", "--imbalance-factor", 7)
    for more in ((), ("--split-file", "s.npy")):
        with pytest.raises(InputError, match=r"--split-seed .*no effect"):
            run(*words, "--overwrite", "--split-seed", 0, *more)
    with pytest.raises(InputError, match=r"does not exist.*: bcl pack DIR"):
        run(tmp_path / "nowhere", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_collection_without_labels(tmp_path: Path, capsys) -> None:
    pytest.importorskip("datasets")
    from PIL import Image

    folder = make_folder(tmp_path / "set", {"2021": 5, "2022": 4})
    (folder / "bad.png").write_bytes(b"")
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    turned = Image.new("RGB", (60, 30))
    turned.paste((255, 255, 255), (0, 0, 60, 15))  # the upper half, upright the right one
    turned.save(folder / "turned.jpg", exif=exif)
    words = (folder, "--unlabeled", "--max-side", 12, "--out", tmp_path / "out")
    assert run(*words, "--cache-dir", tmp_path / "cache") == 0
    assert "1 unreadable" in capsys.readouterr().out
    data = PackedLT(str(tmp_path / "out"), image_size=8, batch_size=4, workers=0)
    assert (data.num_samples, data.class_names) == (10, [])
    assert data.names([0, 9]) == ["2021/000.png", "turned.jpg"]
    upright = data.train_set().images(torch.tensor([9]))[0, 0]
    assert upright[:, :3].max() < 100 < 150 < upright[:, 5:].min()
    with pytest.raises(InputError, match="--unlabeled"):
        run(*words, "--recipe", "cifar10/sdclr")
