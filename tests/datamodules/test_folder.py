"""Folders and archives of class folders."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import left_out, make_folder, module
from PIL import Image

from bcl import InputError, evaluate
from datamodules import ArraysLT, ImageFolderLT
from datamodules.images.readers import open_reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", {"ant": 20, "bee": 20, "cat": 25})


def test_flat_folder(folder: Path) -> None:
    data = module(folder)
    assert data.class_names == ["ant", "bee", "cat"]
    assert torch.bincount(data.test_set().labels).tolist() == [4, 4, 4]
    assert torch.bincount(data.probe_set().labels).tolist() == [16, 16, 21]
    assert data.class_counts.tolist() == [16, 8, 4]
    assert "28 images" in data.recipe
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 3, 12, 12)
    # Pixels are those of the files.
    names = sorted(folder.glob("*/*.png"))
    train = data.train_set()
    with Image.open(names[int(train.rows[3])]) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert train.images(torch.tensor([3]))[0].equal(expected)


def test_train_and_test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "set" / "train", {"ant": 20, "bee": 20})
    make_folder(tmp_path / "set" / "val", {"ant": 3, "bee": 5})
    data = module(tmp_path / "set")
    assert torch.bincount(data.test_set().labels).tolist() == [3, 5]
    assert data.class_counts.tolist() == [20, 5]
    assert data.notes == ["the test set is not balanced: 3 to 5 images per class"]
    make_folder(tmp_path / "set" / "test", {"ant": 2, "bee": 2})
    natural = module(tmp_path / "set", imbalance_factor=None)
    assert natural.num_samples == 40
    assert torch.bincount(natural.test_set().labels).tolist() == [2, 2]
    assert natural.notes == ["left out 8 images in val/ (not read)"]


def test_archive_gives_the_same(folder: Path) -> None:
    archive = folder.parent / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    one, other = module(folder), module(archive, workers=2)
    assert one.content_hash == other.content_hash
    index = torch.arange(28)
    assert one.train_set().images(index).equal(other.train_set().images(index))


def test_second_run_reads_the_cache(folder: Path, monkeypatch) -> None:
    module(folder).setup()
    files = list((folder.parent / "cache").glob("*.u8"))
    assert len(files) == 1
    monkeypatch.setattr("datamodules.images.cache.decode_all", None)
    module(folder).setup()
    monkeypatch.undo()
    os.utime(folder / "ant" / "000.png", ns=(1, 1))  # a changed file makes another cache
    module(folder).setup()
    assert len(list((folder.parent / "cache").glob("*.u8"))) == 2


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist.*--data\.root"):
        module(tmp_path / "nowhere").setup()


def test_no_class_folders(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="holds no class folders"):
        module(tmp_path / "set").setup()


def test_empty_class_folder(folder: Path) -> None:
    (folder / "dog").mkdir()
    with pytest.raises(InputError, match="class folder without an image: dog"):
        module(folder).setup()


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_all_listed(folder: Path, workers: int) -> None:
    whole = (folder / "ant" / "001.png").read_bytes()
    (folder / "ant" / "001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bee" / "002.png").write_text("no image")
    (folder / "cat" / "003.png").write_bytes(b"")
    with pytest.raises(InputError, match="3 unreadable") as caught:
        module(folder, workers=workers).setup()
    for name in ("ant/001.png", "bee/002.png", "cat/003.png"):
        assert name in str(caught.value)
    skipped = module(folder, workers=workers, on_bad_image="skip", imbalance_factor=1.0)
    assert len(left_out(skipped)) == 3
    assert len(skipped.probe_set()) + len(skipped.test_set()) == 62


def test_sets_that_are_not_balanced_are_told(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_folder(root / "train", {"ant": 8, "bee": 12})
    make_folder(root / "test", {"ant": 2, "bee": 2})
    assert module(root).notes == ["the probe set is not balanced: 8 to 12 images per class"]
    for path in (root / "test" / "bee").iterdir():
        path.write_text("no image")
    data = module(root, on_bad_image="skip")
    assert len(left_out(data)) == 2
    assert "1 class(es) without an image in the test set: bee" in data.notes


def test_other_classes_in_the_test_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "set" / "train", {"ant": 3, "bee": 3})
    make_folder(tmp_path / "set" / "test", {"ant": 3, "fox": 3})
    with pytest.raises(InputError, match=r"different classes \(bee, fox\)"):
        module(tmp_path / "set").setup()


def test_impossible_profiles(folder: Path) -> None:
    with pytest.raises(InputError, match="use at most 16"):
        module(folder, imbalance_factor=100.0).setup()
    for factor in (0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite number of at least 1"):
            module(folder, imbalance_factor=factor, profile="pareto")
    with pytest.raises(InputError, match="'ant' has 16 images, the profile wants 18"):
        module(folder, max_per_class=18).setup()
    with pytest.raises(InputError, match="test_share"):
        module(folder, test_share=1.0)


def test_archive_that_leaves_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../etc/a.png", b"x")
    with pytest.raises(InputError, match=r"leaves its folder.*pack the archive again"):
        module(archive).setup()
    archive.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="not an intact zip archive"):
        module(archive).setup()


def test_hidden_folders_of_an_archive_are_no_classes(folder: Path) -> None:
    """As in a folder, where they are left out."""
    whole = (folder / "ant" / "000.png").read_bytes()
    for name in (".cache/a.png", "ant/.thumbs/a.png", "lost+found/a.png", "bee/.a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(whole)
    archive = folder.parent / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    one, other = module(folder), module(archive)
    assert one.class_names == other.class_names == ["ant", "bee", "cat"]
    assert one.content_hash == other.content_hash
    source = open_reader(archive)  # what a list names is read all the same
    assert source.read(".cache/a.png") == open_reader(folder).read(".cache/a.png") == whole


def test_options_beside_a_recipe_or_a_file(folder: Path) -> None:
    for option, value in {
        "imbalance_factor": 7,
        "profile": "step",
        "max_per_class": 5,
        "class_order": "shuffled",
    }.items():
        with pytest.raises(InputError, match=rf"cifar10/sdclr.*{option} {value} would have no"):
            module(folder, recipe="cifar10/sdclr", **{option: value})
        with pytest.raises(InputError, match=rf"s\.npy.*{option} {value} would have no"):
            module(folder, split_file="s.npy", **{option: value})
    with pytest.raises(InputError, match=r"s\.npy.*split_seed 3 would have no"):
        module(folder, split_file="s.npy", split_seed=3)
    # Configurations write the defaults out, and null.
    module(
        folder, recipe="cifar10/sdclr", split_seed=3, imbalance_factor=100.0, profile="exponential"
    )
    module(folder, split_file="s.npy", imbalance_factor=None, max_per_class=None)


@pytest.mark.slow
def test_images_left_out_are_in_the_runs_record(tmp_path: Path, monkeypatch, capsys) -> None:
    from bcl.cli import main
    from bcl.training.checkpoints import KEY

    root = make_folder(tmp_path / "set", {"ant": 10, "bee": 12})
    for number in range(2):
        (root / "bee" / f"{number:03}.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BCL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(
        f"data: {{init_args: {{root: {root}, imbalance_factor: 2, image_size: 12, batch_size: 4, "
        "on_bad_image: skip}}\n"
        "model: {init_args: {encoder: {args: {width: 8}}, schedule: {warmup_epochs: 0}, "
        "views: {init_args: {size: 12}}}}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, precision: 32-true}\n"
    )
    words = ["fit", "--config", "image_folder/bcl_i", "--config", "small.yaml"]
    assert main(words) == 0
    said = capsys.readouterr()
    run = tmp_path / "outputs" / "small"
    notes = json.loads((run / "run.json").read_text())["notes"]
    assert sum("left out unreadable image bee/00" in note for note in notes) == 2
    for name in ("bee/000.png", "bee/001.png"):
        assert (said.out + said.err).count(f"{name} (cannot identify image file)") == 1
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content[KEY]["record"].pop("notes") == notes
    torch.save(content, last)  # a record of an earlier version has none
    assert main([*words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert json.loads((run / "run.json").read_text())["notes"][: len(notes)] == notes


@pytest.mark.parametrize(
    "names",
    [
        ("2021-05-03", "2021-05-04"),
        ("20210503", "20210504"),
        ("2021", "2022"),
        ("2021-05", "2021-06"),
        ("202105", "202106"),
        ("2021/05", "2021/06", "2022/01"),
        ("2021/05/03", "2022/05/04"),
        ("2021-05-03 lake", "2021_05_04"),
        ("03.05.2021", "04.05.2021"),
        ("2021-05-03", "2021-05-04", "misc"),
        ("May 2021", "03 june 2021", "2021_Aug"),
        ("2021-3-4", "2021-3-5"),
        ("4-3-2021", "12-31-2021", "31.12.2021"),
        ("21-03-04", "04.03.21"),
        ("2021-03-04T12-00", "2021-W12"),
        ("camA/2021-3-4", "camB/2021-3-4"),
        ("March 4, 2021", "3 March 2021"),
        ("DCIM", "100CANON"),
        ("100CANON", "101_PANA"),
        ("north/2021-05-03", "north/2021-05-04", "south/2021-05-03"),
        ("north/2021/05", "south/2022/06"),
        ("CAM01/20210503", "CAM02/20210503", "CAM03/20210504"),
        ("set/2021-05-03",),
        ("cam1", "cam1/2021-05-03", "cam1/2021-05-04", "cam2/2021-05-03", "cam2/2021-05-04"),
        ("train/2021-05-03", "train/2021-05-04", "test/2021-05-03", "test/2021-05-04"),
    ],
)
def test_dates_and_cameras_are_no_classes(tmp_path: Path, names) -> None:
    root = make_folder(tmp_path / "set", dict.fromkeys(names, 3))
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.png")):
            file.write(path, path.relative_to(root))
    for place in (root, archive):
        with pytest.raises(InputError, match=r"are not classes.*ImageListLT") as caught:
            module(place).setup()
        assert "\n" not in str(caught.value)
        assert str(place) in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("0", "1", "2"),
        ("1989", "sunset"),
        ("5000", "5001"),
        ("00001", "00002"),
        ("00000000", "00000001"),
        ("n01440764", "n01443537"),
        ("2021-05-03", "cat"),
        ("1234", "5678"),
        ("ant/2021-05-03", "ant/nest", "bee/2021-05-03"),
        ("May", "June", "may flower 2021"),
        ("2021 Audi A4", "2020 Audi A4 coupe x", "Ford"),
    ],
)
def test_other_numbers_may_be_classes(tmp_path: Path, names) -> None:
    root = make_folder(tmp_path / "set", dict.fromkeys(names, 10))
    data = module(root, imbalance_factor=None)
    assert data.class_names == sorted({name.split("/")[0] for name in names})


def test_what_is_left_out_is_announced(tmp_path: Path, capsys) -> None:
    root = make_folder(tmp_path / "set", {"ant": 20, "bee": 20, "cat": 25})
    module(root).setup()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("set: 65 images in 3 classes; 12 test images (held out, test_share 0.2)")
    assert "training on 28 of the other 53 (exponential, imbalance factor 4" in line
    assert "left out" not in line
    for path in (root / "ant").glob("00*.png"):
        path.write_text("no image")
    (root / "bee" / "notes.txt").write_text("")
    (root / "cat" / "a.heic").write_text("")
    (root / "loose.png").write_bytes((root / "bee" / "000.png").read_bytes())
    data = module(root, on_bad_image="skip", imbalance_factor=None)
    data.setup()
    *notes, line = capsys.readouterr().err.splitlines()
    assert line.startswith("set: 65 images in 3 classes; ")
    assert "left out: 10 unreadable, " in line
    assert line.endswith("ant/002.png (cannot identify image file) ...")
    assert not any("left out" in note for note in notes)  # once is enough
    for reason in ("1 .txt file (not images)", "1 .heic file (not images)"):
        assert reason in line
        assert f"left out {reason}" in data.notes
    assert "1 image outside class folders" in line
    data.setup()  # once
    assert capsys.readouterr().err == ""


def test_images_beside_the_train_folder_are_announced(tmp_path: Path, capsys) -> None:
    for part, count in (("train", 10), ("test", 3), ("extra", 4)):
        make_folder(tmp_path / "set" / part, {"ant": count, "bee": count})
    module(tmp_path / "set").setup()
    line = capsys.readouterr().err.splitlines()[-1]
    assert "set: 26 images in 2 classes; 6 test images (its own); training on 12 of the" in line
    assert line.endswith("left out: 8 images in extra/ (not read)")


def test_only_the_first_rank_announces(tmp_path: Path, capsys, monkeypatch) -> None:
    from pytorch_lightning.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    ArraysLT(np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2, imbalance_factor=4).setup()
    assert capsys.readouterr().err == ""


def test_a_folder_is_taken_as_it_is_unless_a_factor_is_given(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"ant": 20, "bee": 30})
    data = ImageFolderLT(str(root), image_size=12, cache_dir=str(tmp_path / "cache"), workers=0)
    assert data.class_counts.tolist() == [16, 24]
    assert data.recipe == "set, as it is: 40 images"


def test_a_natural_tail_is_tested_on_a_share_of_each_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"ant": 50, "bee": 15, "cow": 4, "dog": 1})
    data = module(root, imbalance_factor=None)
    test = torch.bincount(data.test_set().labels, minlength=4)
    assert test.tolist() == [10, 3, 1, 0]
    assert data.class_counts.tolist() == [40, 12, 3, 1]
    assert any("dog" in note and "test set" in note for note in data.notes)
    tiny = module(make_folder(tmp_path / "tiny", {"ant": 2, "bee": 1}), imbalance_factor=None)
    assert tiny.num_samples == 3
    assert any("nothing can be evaluated" in note for note in tiny.notes)
    with pytest.raises(InputError, match="no test set"):
        tiny.test_set()


def test_two_classes_are_evaluated(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path / "set", {"ant": 30, "bee": 6}), imbalance_factor=None)
    report = evaluate(lambda images: images.flatten(1).float(), data, "knn")
    assert 0 <= report.protocol("knn@1").accuracy.mean <= 1
