import csv

import numpy as np
import pytest

from bcl.core.errors import InputError
from bcl.discovery.table import (
    Table,
    labels_in_order,
    read_about,
    read_labels,
    read_table,
    rows_of,
    write_table,
)


def make(n=7, half=False):
    generator = np.random.default_rng(0)
    columns = {
        "id": np.arange(n),
        "path": np.array([f"{'x' * i}/ü{i}.jpg" for i in range(n)]),
        "width": np.full(n, 8, np.int32),
        "height": np.full(n, 9, np.int32),
        "score": generator.random(n, np.float32),
    }
    vectors = generator.random((n, 3)).astype(np.float16 if half else np.float32)
    return Table(columns, vectors, [bytes([i] * (i + 1)) for i in range(n)], {"root": "r"})


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
@pytest.mark.parametrize("half", [False, True])
def test_parts_read_back_as_one(tmp_path, suffix, half):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    table = make(half=half)
    write_table(tmp_path / f"a{suffix}", list(rows_of(table, 3)))
    found = read_table(tmp_path / f"a{suffix}")
    assert found.embedding.dtype == table.embedding.dtype
    np.testing.assert_array_equal(found.embedding, table.embedding)
    assert found.paths == table.paths
    assert found.thumbnails == table.thumbnails
    assert found.about == {"root": "r"}
    assert list(found.measurements) == ["score"]
    np.testing.assert_array_equal(found.columns["score"], table.columns["score"])
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_parquet_holds_a_list_of_fixed_size(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "a.parquet", [make()])
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.names[:4] == ["id", "path", "width", "height"]
    assert schema.field("embedding").type.list_size == 3


def test_csv(tmp_path):
    table = make()
    write_table(tmp_path / "a.csv", list(rows_of(table, 4)))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == table.paths
    vectors = np.array([[row["e0"], row["e1"], row["e2"]] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, table.embedding)


def test_bad_files(tmp_path):
    for name in ("a.parquet", "a.npz"):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(InputError, match="embedding"):
            read_table(tmp_path / name)
    np.savez(tmp_path / "b.npz", embedding=np.zeros((3, 2)))
    with pytest.raises(InputError, match="id"):
        read_table(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"\.parquet"):
        write_table(tmp_path / "a.txt", [make()])
    write_table(tmp_path / "one.npz", [make(1)])
    with pytest.raises(InputError, match="two"):
        read_table(tmp_path / "one.npz")


def test_labels_by_path(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("path,label\nb,fox\n")
    assert labels_in_order(read_labels(file), ["a", "b"]) == ["", "fox"]
    with pytest.raises(InputError, match="'b'"):
        labels_in_order(read_labels(file), ["a"])
    file.write_text("path,name\nb,fox\n")
    with pytest.raises(InputError, match="'label'"):
        read_labels(file)
    with pytest.raises(InputError, match="cannot read"):
        read_labels(tmp_path / "none.csv")


def test_what_an_embedding_is_about_without_its_rows(tmp_path):
    for name in ("a.npz", "a.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        write_table(tmp_path / name, [make()])
        assert read_about(tmp_path / name) == make().about
    np.savez(tmp_path / "b.npz", path=np.zeros(3))
    (tmp_path / "c.npz").write_bytes(b"no table")
    assert read_about(tmp_path / "b.npz") is read_about(tmp_path / "c.npz") is None
    assert read_about(tmp_path) is None
