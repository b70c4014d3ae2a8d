"""List files, and the data sets that are given by them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from folders import make_folder
from places import ROOT

from bcl import InputError
from datamodules import ImageListLT, ImageNet100LT, ImageNetLT, INaturalist18, PlacesLT
from datamodules.lists import read_list


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    make_folder(root / "train", {"n01": 8, "n02": 8})
    make_folder(root / "val", {"n01": 2, "n02": 2})
    write(root / "train.txt", [("n01", range(6)), ("n02", range(2))])
    write(root / "probe.txt", [("n01", range(5, 8)), ("n02", range(5, 8))])
    write(root / "test.txt", [("n01", range(2)), ("n02", range(2))], "val")
    return root


def write(path: Path, parts, folder: str = "train") -> None:
    rows = [
        f"{folder}/{name}/{number:03}.png {label}"
        for label, (name, numbers) in enumerate(parts)
        for number in numbers
    ]
    path.write_text("\n".join(rows) + "\n")


def listed(root: Path, **options) -> ImageListLT:
    settings = {"train_list": "train.txt", "probe_list": "probe.txt", "test_list": "test.txt"}
    settings |= {"image_size": 12, "batch_size": 4, "workers": 0, "cache_dir": str(root / "cache")}
    return ImageListLT(str(root), **(settings | options))


def test_sets(root: Path, capsys) -> None:
    data = listed(root)
    assert data.class_counts.tolist() == [6, 2]
    assert "training on 8 images, 6 for probes, 4 test images" in capsys.readouterr().err
    assert data.class_names == ["n01", "n02"]
    assert (len(data.train_set()), len(data.probe_set()), len(data.test_set())) == (8, 6, 4)
    assert torch.bincount(data.probe_set().labels).tolist() == [3, 3]
    # n01/005.png is in the training and the probe list: one image, decoded once.
    assert (
        data.train_set().images(torch.tensor([5])).equal(data.probe_set().images(torch.tensor([0])))
    )
    assert len(data.train_set().rows) == 8
    assert "train.txt: 8 images" in data.recipe
    assert len(list(data.train_dataloader())) == 2


def test_without_probe_and_test_list(root: Path) -> None:
    data = listed(root, probe_list=None, test_list=None)
    assert len(data.probe_set()) == 8
    assert any("no probe list" in note for note in data.notes)
    with pytest.raises(InputError, match="test_list"):
        data.test_set()


def test_bad_rows_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(
        "a/x.jpg 0\nb/y.jpg\nc/z.jpg one\na/x.jpg 0\nd/w.jpg 7\ne/v.jpg -1\n\n../u.jpg 0\n"
    )
    with pytest.raises(InputError, match="6 bad row") as caught:
        read_list(path, num_classes=5)
    text = str(caught.value)
    for part in (
        f"{path}:2: no label after 'b/y.jpg'",
        f"{path}:3: the label 'one' is not a whole number",
        f"{path}:4: 'a/x.jpg' is on line 1 already",
        f"{path}:5: label 7 is out of range (0 to 4)",
        f"{path}:6: label -1",
        f"{path}:8: '../u.jpg' leaves its folder",
    ):
        assert part in text


def test_path_with_spaces(tmp_path: Path) -> None:
    # The second holds signs at which Python's splitlines would cut.
    (tmp_path / "a.txt").write_text("a b/c d.jpg 3\na\u2028b\x0cc.jpg 3\nd 3\n", "utf-8")
    found = read_list(tmp_path / "a.txt")
    assert found.names == ["a b/c d.jpg", "a\u2028b\x0cc.jpg", "d"]
    assert found.lines == [1, 2, 3]


def test_missing_images_are_listed_with_their_line(root: Path) -> None:
    (root / "train" / "n02" / "001.png").unlink()
    (root / "val" / "n01" / "000.png").unlink()
    with pytest.raises(InputError, match="2 image") as caught:
        listed(root).setup()
    assert f"{root}/train.txt:8: train/n02/001.png" in str(caught.value)
    assert f"{root}/test.txt:1: val/n01/000.png" in str(caught.value)


def test_class_without_images(root: Path) -> None:
    write(root / "train.txt", [("n01", range(6)), ("n02", ()), ("n02", range(2))])
    with pytest.raises(InputError, match=r"1 of 3 classes without an image: 1"):
        listed(root, probe_list=None, test_list=None).setup()
    with pytest.raises(InputError, match=r"2 of 4 classes"):
        listed(root, num_classes=4).setup()


def test_lists_that_disagree(root: Path) -> None:
    write(root / "probe.txt", [("n02", range(3)), ("n01", range(3))])
    with pytest.raises(InputError, match=r"'train/n02/000\.png' has label 0 here and 1 in another"):
        listed(root).setup()


@pytest.mark.parametrize("name", ["/etc/a.png 0", "../a.png 0", "a/../../b.png 0"])
def test_paths_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text(name + "\n")
    with pytest.raises(InputError, match=r"a\.txt:1: .* leaves its folder"):
        read_list(tmp_path / "a.txt")


def test_other_bad_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="names no image"):
        read_list(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a list file"):
        read_list(tmp_path / "binary.txt")


def test_bad_images_are_left_out_of_every_list(root: Path) -> None:
    (root / "train" / "n01" / "005.png").write_text("no image")
    with pytest.raises(InputError, match=r"(?s)1 unreadable image.*train/n01/005\.png"):
        listed(root).setup()
    data = listed(root, on_bad_image="skip")
    assert data.class_counts.tolist() == [5, 2]
    assert len(data.probe_set()) == 5
    assert "train/n01/005.png" in data.notes[0]
    assert "the probe list is not balanced: 2 to 3 images per class" in data.notes
    assert not any("class(es)" in note for note in data.notes)
    for number in range(2):
        (root / "train" / "n02" / f"{number:03}.png").write_text("no image")
    assert (
        "1 class(es) without an image in the train list: 1"
        in listed(root, on_bad_image="skip").notes
    )


@pytest.mark.parametrize("kind", [ImageNetLT, ImageNet100LT, PlacesLT, INaturalist18])
def test_published_totals_are_compared(root: Path, kind) -> None:
    data = kind(
        str(root),
        train_list="train.txt",
        probe_list="probe.txt",
        test_list="test.txt",
        cache_dir=str(root / "cache"),
        workers=0,
        image_size=12,
        batch_size=4,
    )
    assert data.grouping == "thresholds"
    assert any("train has 8, published are" in note for note in data.notes)
    assert any("classes has 2" in note for note in data.notes)


def test_files_path_reads_the_same_images(root: Path) -> None:
    memory, files = listed(root), listed(root, storage="files")
    for one, other in zip(memory.train_dataloader(), files.train_dataloader(), strict=True):
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.slow
def test_real_lists(shared_data: Path, tmp_path: Path) -> None:
    """The archive as it is: its lists lie in it."""
    data = ImageListLT(
        str(shared_data / "tiny-imagenet-lt.zip"),
        train_list="TinyImageNet_LT_train.txt",
        probe_list="TinyImageNet_50shot.txt",
        test_list="TinyImageNet_LT_val.txt",
        cache_dir=str(tmp_path / "cache"),
        image_size=64,
        storage="files",
    )
    assert (data.num_samples, len(data.probe_set()), len(data.test_set())) == (21549, 10000, 10000)
    assert (int(data.class_counts.max()), int(data.class_counts.min())) == (500, 5)
    assert torch.bincount(data.probe_set().labels).unique().tolist() == [50]
    assert next(iter(data.train_dataloader()))["image"].shape == (256, 3, 64, 64)


def test_lists_as_windows_writes_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa b/c.jpg 0\r\n\r\n  d/e.jpg\t1  \r\n")
    found = read_list(tmp_path / "a.txt")
    assert found.names == ["a b/c.jpg", "d/e.jpg"]
    assert found.labels.tolist() == [0, 1]
    assert found.lines == [1, 3]


def test_a_colon_is_a_letter_but_for_a_drive(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12:30.jpg 0\na/b:c.jpg 0\nab:c/d.jpg 1\n")
    assert read_list(tmp_path / "a.txt").names == ["12:30.jpg", "a/b:c.jpg", "ab:c/d.jpg"]
    for name in ("C:/a.jpg", "c:\\a.jpg", "C:a.jpg"):
        (tmp_path / "a.txt").write_text(f"{name} 0\n")
        with pytest.raises(InputError, match="leaves its folder"):
            read_list(tmp_path / "a.txt")


def test_one_image_in_two_spellings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("./a/x.jpg 0\na//x.jpg 1\n")
    with pytest.raises(InputError, match=r"a\.txt:2: 'a/x\.jpg' is on line 1 already"):
        read_list(tmp_path / "a.txt")


@pytest.mark.parametrize("label", ["99999999999", "10" * 20, "1_000", "²", "0x1", "1.0"])
def test_labels_that_are_none(tmp_path: Path, label: str) -> None:
    (tmp_path / "a.txt").write_text(f"a.jpg {label}\n")
    with pytest.raises(InputError, match=r"a\.txt:1: .*(out of range|not a whole number)"):
        read_list(tmp_path / "a.txt")


def test_names_that_the_system_refuses(root: Path) -> None:
    (root / "loop").symlink_to(root / "loop")
    (root / "train.txt").write_text(f"train/n01/000.png 0\n{'x' * 300}.png 1\nloop/a.png 1\n")
    with pytest.raises(InputError, match=r"2 image\(s\)") as caught:
        listed(root).setup()
    assert "train.txt:2: " in str(caught.value)
    assert "train.txt:3: loop/a.png (Too many levels" in str(caught.value)
    with pytest.raises(InputError, match="num_classes"):
        listed(root, num_classes=0)


@pytest.mark.slow
def test_the_guides_file_trains_and_is_probed(root: Path, monkeypatch) -> None:
    from bcl.cli import main

    guide = (ROOT / "docs" / "data.md").read_text("utf-8")
    text = guide.split("```yaml\n")[1].split("```")[0].replace("root: DIR", f"root: {root}")
    monkeypatch.chdir(root)
    monkeypatch.setenv("BCL_CACHE", str(root / "cache"))
    (root / "lists.yaml").write_text(text)
    small = (
        "--data.batch_size",
        "4",
        "--trainer.accelerator",
        "cpu",
        "--model.schedule.warmup_epochs",
        "0",
    )
    words = ["--config", "image_folder/bcl_i", "--config", "lists.yaml", "--trainer.max_epochs"]
    assert main(["fit", *words, "1", *small]) == 0
    checkpoint = "outputs/lists/checkpoints/last.ckpt"
    assert main(["probe", checkpoint, "--protocol", "full", "--out", "probe/lists"]) == 0
    record = json.loads((root / "outputs" / "lists" / "run.json").read_text())
    assert record["recipe"] == "set, list train.txt: 8 images"


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "parquet"])
def test_words_as_labels(root: Path, kind: str) -> None:

    def table(part: str, words: Sequence[str]) -> Path:
        paths = [f"train/n01/{number:03}.png" for number in range(len(words))]
        file = root / f"{part}.{kind}"
        if kind == "parquet":
            pa = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(
                pa.table({"path": paths, "label": list(words)}), file
            )
            return file
        between = {"txt": " ", "csv": ",", "tsv": "\t"}[kind]
        rows = [between.join(row) for row in zip(paths, words, strict=True)]
        file.write_text("\n".join([*([f"path{between}label"] if kind != "txt" else []), *rows]))
        return file

    table("words", ("owl", "ant"))
    options = {"train_list": f"words.{kind}", "probe_list": None, "test_list": None}
    data = listed(root, **options)
    assert data.class_names == ["ant", "owl"]
    assert data.train_set().labels.tolist() == [1, 0]
    table("other", ("owl", "bee"))
    with pytest.raises(InputError, match=r"other.*:(2|3): the label 'bee' is none of"):
        listed(root, **options | {"test_list": f"other.{kind}"}).setup()
    if kind != "txt":
        (root / "none.csv").write_text("file,label\na,b\n")
        with pytest.raises(InputError, match="'path'"):
            listed(root, **options | {"train_list": "none.csv"}).setup()
