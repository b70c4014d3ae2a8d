"""Labels from elsewhere: class folders, lists and tables, or labels of a run's own images."""

import pytest
import torch
from folders import make_folder

from bcl import InputError, evaluate
from bcl.cli.labeled import LabeledImages
from datamodules import ImageCollection


@pytest.fixture
def options(tmp_path):
    return {"image_size": 12, "workers": 0, "cache_dir": str(tmp_path / "cache")}


def rows(folder, name, *entries):
    path = folder / name
    text = "".join(
        f"{image}{',' if name.endswith('csv') else ' '}{label}\n" for image, label in entries
    )
    path.write_text(("path,label\n" if name.endswith("csv") else "") + text)
    return str(path)


def entries(sizes, label=str):
    return [(f"{c}/{n:03}.png", label(c)) for c, size in sizes.items() for n in range(size)]


def classes_of(data):
    """Class name of every training image, by file name."""
    train = data.train_set()
    return dict(zip(train.names(), [data.class_names[c] for c in train.labels], strict=True))


SIZES = {"ant": 10, "bee": 5, "cat": 2}


def test_class_folders_hold_out_a_fifth_of_each_class(tmp_path, options):
    root = make_folder(tmp_path / "set", SIZES)
    data = LabeledImages(str(root), None, **options)
    assert data.class_names == ["ant", "bee", "cat"]
    assert data.class_counts.tolist() == [8, 4, 2]
    test = data.test_set()
    assert torch.bincount(test.labels, minlength=3).tolist() == [2, 1, 0]
    assert not set(test.names()) & set(data.train_set().names())
    assert "a fifth of each class held out" in data.recipe
    report = evaluate(lambda x: x.float().mean((2, 3)), data, "full,knn@1")
    assert report.data["train_images"] == 14
    assert any("Many, Medium and Few" in note for note in report.data["notes"])


def test_a_test_source_keeps_the_numbers_of_the_training_classes(tmp_path, options):
    train = make_folder(tmp_path / "train", SIZES)
    test = make_folder(tmp_path / "other", {"cat": 3, "bee": 4})
    table = rows(test, "test.csv", *entries({"cat": 3, "bee": 4}))
    for source in (str(test), table):
        data = LabeledImages(str(train), source, **options)
        assert data.class_counts.tolist() == [10, 5, 2]
        assert torch.bincount(data.test_set().labels).tolist() == [0, 4, 3]
        expected = [data.class_names.index(n.split("/")[0]) for n in data.test_set().names()]
        assert data.test_set().labels.tolist() == expected


def test_its_own_test_folder_is_used(tmp_path, options):
    make_folder(tmp_path / "set" / "train", SIZES)
    make_folder(tmp_path / "set" / "test", SIZES)
    whole = LabeledImages(str(tmp_path / "set"), None, **options)
    assert [len(whole.train_set()), len(whole.test_set())] == [17, 17]
    assert "its own test images" in whole.recipe
    other = make_folder(tmp_path / "other", {"ant": 3, "bee": 4})
    data = LabeledImages(str(tmp_path / "set"), str(other), **options)
    assert [len(data.train_set()), len(data.test_set())] == [17, 7]


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt"])
def test_labels_of_a_part_of_the_collection(tmp_path, options, name):
    root = make_folder(tmp_path / "set", {"x": 30})
    collection = ImageCollection(str(root), **options)
    words = ["owl", "owl", "emu"]
    given = [(f"x/{n:03}.png", words[n % 3]) for n in range(24)]
    data = LabeledImages(None, None, rows(tmp_path, name, *given), collection, **options)
    assert data.class_names == ["emu", "owl"]
    found = classes_of(data)
    assert found.items() <= dict(given).items()
    assert [len(found), len(data.test_set())] == [19, 5]
    assert data.grouping == "thresholds"  # thirds take three classes
    image = data.train_set().images(torch.tensor([3]))
    name = data.train_set().names([3])[0]
    assert image.equal(
        collection.train_set().images(torch.tensor([collection.names().index(name)]))
    )
    assert int(collection.train_set().labels.max()) == -1  # the run's set is as it was


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_without_a_label_and_absolute_paths(tmp_path, options, kind):
    root = make_folder(tmp_path / "set", {"x": 9, "y": 6})
    paths = sorted(str(path) for path in root.rglob("*.png"))
    (tmp_path / "all.txt").write_text("\n".join(paths))
    collection = ImageCollection(str(tmp_path / "all.txt"), image_size=12, cache_dir=str(tmp_path))
    labels = ["van" if "/x/" in path else "car" for path in paths]
    labels[0] = labels[-1] = None
    table = tmp_path / f"labels.{kind}"
    if kind == "csv":
        rows(tmp_path, table.name, *zip(paths, (label or "" for label in labels), strict=True))
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"path": paths, "label": labels}), table)
    data = LabeledImages(None, None, str(table), collection, **options)
    assert data.class_names == ["car", "van"]
    assert data.class_counts.tolist() == [4, 6]
    assert not {paths[0], paths[-1]} & set(classes_of(data))
    (tmp_path / "none.csv").write_text(f"path,label\n{paths[0]},\n")
    with pytest.raises(InputError, match="names no image with its label"):
        LabeledImages(None, None, str(tmp_path / "none.csv"), collection, **options).setup()


def test_numbers_with_gaps_are_class_names(tmp_path, options):
    root = make_folder(tmp_path / "set", SIZES)
    numbers = {"ant": "7", "bee": "2", "cat": "40"}
    table = rows(root, "labels.csv", *entries(SIZES, numbers.get))
    data = LabeledImages(table, table, **options)
    assert data.class_names == ["2", "7", "40"]
    assert data.class_counts.tolist() == [5, 10, 2]
    assert data.test_set().labels.equal(data.train_set().labels)


def test_unreadable_images_are_left_out_and_noted(tmp_path, options):
    root = make_folder(tmp_path / "set", SIZES)
    (root / "ant" / "003.png").write_bytes(b"no image")
    data = LabeledImages(str(root), str(root), **options)
    assert data.class_counts.tolist() == [9, 5, 2]
    assert any("ant/003.png" in note for note in data.notes)


def wrong(tmp_path, case):
    root = make_folder(tmp_path / "set", SIZES)
    good = entries(SIZES)
    if case == "missing source":
        return str(tmp_path / "none"), None
    if case == "no column":
        (root / "a.csv").write_text("path,kind\nant/000.png,ant\n")
        return str(root / "a.csv"), None
    if case == "missing file":
        return rows(root, "a.csv", *good, ("ant/999.png", "ant")), None
    if case == "unknown test class":
        return str(root), str(make_folder(tmp_path / "test", {"ant": 2, "dog": 2}))
    if case == "one class":
        return rows(root, "a.csv", *entries({"ant": 9})), None
    if case == "nothing to hold out":
        return rows(root, "a.csv", *entries({"ant": 2, "bee": 1})), None
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    return str(root), None


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("missing source", "does not exist"),
        ("no column", "column"),
        ("missing file", "a.csv:19: ant/999.png"),
        ("unknown test class", "dog"),
        ("one class", "one class"),
        ("nothing to hold out", "--test"),
        ("unreadable", "none of its 17 images"),
    ],
)
def test_bad_sources_are_one_clear_error(tmp_path, options, case, told):
    with pytest.raises(InputError, match=told):
        LabeledImages(*wrong(tmp_path, case), **options).setup()


def test_labels_of_images_that_are_not_in_the_set(tmp_path, options):
    root = make_folder(tmp_path / "set", {"x": 5})
    (root / "x" / "001.png").write_bytes(b"no image")
    collection = ImageCollection(str(root), **options)
    given = [("x/000.png", "owl"), ("x/001.png", "emu"), ("y/000.png", "emu")]
    labels = rows(tmp_path, "labels.csv", *given)
    told = r"2 image\(s\).*1 of them unreadable.*y/000.png.*images.csv, such as x/000.png"
    with pytest.raises(InputError, match=told):
        LabeledImages(None, None, labels, collection, **options).setup()
