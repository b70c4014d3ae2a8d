"""``bcl split``: make, inspect, compare and save."""

import argparse
from pathlib import Path

import pytest
from cifar import fake_cifar
from folders import make_folder, module

from bcl import InputError
from bcl.cli import split as command
from datamodules.tail.profiles import PROFILES
from datamodules.tail.recipes import RECIPES
from datamodules.tail.splits import load_split


def run(*words: str) -> int:
    parser = argparse.ArgumentParser("bcl split")
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def test_profiles_are_those_of_the_data_sets() -> None:
    assert tuple(PROFILES) == command.PROFILES


def test_list(capsys) -> None:
    assert run("--list") == 0
    out = capsys.readouterr().out
    for total in ("10847", "9754", "62500", "115846", "12205", "437513", "7870"):
        assert total in out


def test_make_inspect_compare(tmp_path: Path, capsys) -> None:
    folder = make_folder(tmp_path / "set", {"ant": 20, "bee": 20})
    save, svg = tmp_path / "s.json", tmp_path / "s.svg"
    words = ("--profile", "exponential", "--imbalance-factor", "4", "--root", folder)
    run("make", *words, "--save", save, "--svg", svg)
    out = capsys.readouterr().out
    assert "total      20" in out
    assert "ant  16 ####" in out
    split = load_split(save)
    assert split.content_hash in out
    assert svg.read_text().startswith("<svg")
    run("inspect", save, "--save", tmp_path / "s.npy")
    run("compare", save, tmp_path / "s.npy")
    assert "the same images" in capsys.readouterr().out
    run("inspect", tmp_path / "s.npy", "--root", folder)
    assert "total      20" in capsys.readouterr().out
    # The report of a run on this split carries the same hash.
    make_folder(tmp_path / "set2" / "train", {"ant": 20, "bee": 20})
    make_folder(tmp_path / "set2" / "test", {"ant": 2, "bee": 2})
    run("make", *words[:-1], tmp_path / "set2", "--save", tmp_path / "t.json")
    data = module(tmp_path / "set2", split_file=str(tmp_path / "t.json"))
    assert data.content_hash == load_split(tmp_path / "t.json").content_hash
    assert data.content_hash == module(tmp_path / "set2").content_hash
    assert data.class_counts.tolist() == [20, 5]
    with pytest.raises(InputError, match="was made for the data set"):
        module(folder, split_file=str(tmp_path / "t.json")).setup()


def test_inspect_a_list_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_text("x/a.jpg 0\nx/b.jpg 0\ny/c.jpg 1\n")
    run("inspect", tmp_path / "a.txt")
    assert "total      3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("make",),
        ("make", "cifar10/sdclr", "--profile", "step"),
        ("make", "--profile", "step"),
        ("make", "cifar10/sdclr", "--save", "x.npy"),
        ("make", "cifar10/sdlcr"),
        ("make", "cifar10/sdclr", "--imbalance-factor", "7"),
        ("make", "cifar10/sdclr", "--imbalance-factor", "100"),
        ("make", "cifar10/sdclr", "--max-per-class", "7"),
        ("make", "cifar10/sdclr", "--class-order", "name"),
        ("make", "--profile", "cacr-linear", "--imbalance-factor", "7", "--root", "."),
        ("make", "cifar10/sdclr", "--svg", "x.png"),
        ("inspect", "missing.npy"),
        ("compare", "missing.npy", "missing.npy"),
    ],
)
def test_bad_commands(words) -> None:
    with pytest.raises(InputError):
        run(*words)


def test_options_without_effect_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cifar10/sdclr' fixes .* --imbalance-factor would have"):
        run("make", "cifar10/sdclr", "--imbalance-factor", "7")
    with pytest.raises(InputError, match="'cacr-linear' fixes"):
        run("make", "--profile", "cacr-linear", "--imbalance-factor", "7", "--root", tmp_path)
    with pytest.raises(InputError, match="finite number of at least 1"):
        run("make", "--profile", "step", "--imbalance-factor", "0", "--root", tmp_path)
    with pytest.raises(InputError, match=r"does not exist.*: --root DIR"):
        run("make", "--profile", "step", "--root", tmp_path / "nowhere")


def test_split_of_a_flat_folder_fits_its_datamodule(tmp_path: Path, capsys) -> None:
    """The test images that the datamodule holds out are none of the split's."""
    folder = make_folder(tmp_path / "set", {"ant": 20, "bee": 30})
    words = ("make", "--profile", "exponential", "--imbalance-factor", "4", "--root", folder)
    for share, held_out in ((0.2, 8), (0.3, 12)):
        options = () if share == 0.2 else ("--test-share", share)
        for name in ("s.json", "s.npy"):
            run(*words, *options, "--save", tmp_path / name)
            assert f"held out   {held_out} test images" in capsys.readouterr().out
        split = load_split(tmp_path / "s.json")
        plain = module(folder, test_share=share)
        for name in ("s.json", "s.npy"):
            data = module(folder, test_share=share, split_file=str(tmp_path / name))
            assert data.content_hash == split.content_hash == plain.content_hash
            assert data.train_set().rows.equal(plain.train_set().rows)


def test_list_file_has_one_hash(tmp_path: Path, capsys) -> None:
    """That `bcl split` prints, whatever probe and test lists a run has besides."""
    from datamodules import ImageListLT

    make_folder(tmp_path / "set", {"ant": 5, "bee": 5})
    rows = [
        f"{name}/{i:03}.png {label}" for label, name in enumerate(("ant", "bee")) for i in (1, 2)
    ]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    (tmp_path / "b.txt").write_text("\n".join(rows[::-1]))
    run("inspect", tmp_path / "a.txt")
    out = capsys.readouterr().out
    options = {"image_size": 12, "cache_dir": str(tmp_path / "cache"), "workers": 0}
    for other in ({}, {"test_list": str(tmp_path / "b.txt")}):
        data = ImageListLT(str(tmp_path / "set"), str(tmp_path / "a.txt"), **other, **options)
        assert data.content_hash in out
    assert "4 of the 4 test images are in the train list too" in data.notes
    run("compare", tmp_path / "a.txt", tmp_path / "b.txt")
    assert "the same images, in another order" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"list file \(.txt\) with a list file"):
        run("compare", tmp_path / "a.txt", tmp_path / "b.npy")


def test_output_fits_eighty_columns(tmp_path: Path, capsys) -> None:
    run("--list")
    long = "a class of a name that is much too long to stand beside a bar"
    folder = make_folder(tmp_path / "set", {"ant": 5, long: 5})
    run("make", "--profile", "step", "--imbalance-factor", "2", "--root", folder)
    table = [line for line in capsys.readouterr().out.splitlines() if "held out" not in line]
    assert max(map(len, table)) <= 80


@pytest.fixture
def both_cifars(tmp_path: Path, monkeypatch) -> Path:
    for kind, folder in (("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")):
        fake_cifar(monkeypatch, kind, 5000 if kind == "CIFAR10" else 500)
        (tmp_path / folder).mkdir()
    return tmp_path


def test_split_of_a_root_with_both_cifars(both_cifars: Path, capsys) -> None:
    root = ("--root", both_cifars)
    for name in ("cifar10/sdclr", "cifar100/sdclr"):
        save = both_cifars / "s.json"
        run("make", name, *root, "--save", save)
        assert f"total      {RECIPES[name].total}" in capsys.readouterr().out
        run("inspect", save, *root)  # a saved split says which by its recipe
        assert f"total      {RECIPES[name].total}" in capsys.readouterr().out
    profile = ("make", "--profile", "step", "--save", both_cifars / "s.npy")
    with pytest.raises(InputError, match=r"both cifar10 and cifar100.*--dataset"):
        run(*profile, *root)
    run(*profile, *root, "--dataset", "cifar100")
    assert "classes    100" in capsys.readouterr().out
    with pytest.raises(InputError, match="both cifar10 and cifar100"):
        run("inspect", both_cifars / "s.npy", *root)
    run("inspect", both_cifars / "s.npy", *root, "--dataset", "cifar100")
    assert "classes    100, largest 500, smallest 5" in capsys.readouterr().out
    (both_cifars / "cifar-10-batches-py").rmdir()
    run("inspect", both_cifars / "s.npy", *root)  # the only one
    with pytest.raises(InputError, match=r"--dataset cifar10: .*holds no"):
        run("inspect", both_cifars / "s.npy", *root, "--dataset", "cifar10")
