import base64
import csv
import json
import re

import numpy as np
import pytest
import torch

from bcl.core.errors import InputError
from bcl.discovery import page as module
from bcl.discovery.embedding import thumbnails
from bcl.discovery.findings import DiscoverOptions
from bcl.discovery.page import discover
from bcl.discovery.table import Table

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")
parquet = pytest.importorskip("pyarrow.parquet")

N = 40
QUICK = DiscoverOptions(projection="pca", clusters=3, label_first=5, rarest=4)


def make(about=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, 8, 8), generator=generator, dtype=torch.uint8)
    columns = {
        "id": np.arange(N),
        "path": np.array([f"</script>{i}.jpg" for i in range(N)]),
        "width": np.full(N, 8),
        "height": np.full(N, 8),
    }
    x = torch.randn(N, 5, generator=generator).numpy()
    return Table(columns, x, thumbnails(images), about or {}), images


def payload(path):
    text = path.read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_three_files(tmp_path):
    table, _ = make({"unreadable": [["bad.jpg", "truncated"]], "root": "/nowhere/photos"})
    labels = ["a"] * 20 + ["b"] * 15 + ["c"] * 5
    path = discover(table, tmp_path / "out", QUICK, labels)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "discover.html",
        "discover.parquet",
        "label_first.csv",
    ]
    rows = parquet.read_table(path.with_suffix(".parquet"))
    assert rows.num_rows == N
    assert {"path", "label", "neighbor_distance_10", "cluster", "x", "neighbors"} <= set(
        rows.column_names
    )
    with (path.parent / "label_first.csv").open(newline="") as file:
        listed = [int(row["id"]) for row in csv.DictReader(file)]
    order = rows.column("label_first").to_pylist()
    assert listed == sorted((i for i in range(N) if order[i] >= 0), key=lambda i: order[i])
    text = path.read_text("utf-8")
    assert "bad.jpg" in text
    assert "bootstrap" in text


def test_the_page_loads_nothing_from_anywhere(tmp_path):
    text = discover(make()[0], tmp_path, QUICK).read_text("utf-8")
    assert not re.search(r"(src|href)=\"?https?:|@import|fetch\(", text)
    assert text.count("</script>") == 2  # paths cannot end a script


def test_what_the_script_reads(tmp_path):
    table, _ = make()
    found = payload(discover(table, tmp_path, QUICK))
    assert found["paths"] == table.paths
    small = found["thumbnails"]
    rows = np.frombuffer(base64.b64decode(small["rows"]), "<u4")
    ends = np.frombuffer(base64.b64decode(small["ends"]), "<u4")
    files = base64.b64decode(small["files"])
    assert sorted(rows) == list(range(N))
    starts = [0, *ends[:-1]]
    assert [files[a:b] for a, b in zip(starts, ends, strict=True)] == [
        table.thumbnails[row] for row in rows
    ]
    near = np.frombuffer(base64.b64decode(found["neighbors"]), "<u4").reshape(N, found["width"])
    assert (near != np.arange(N)[:, None]).all()


def test_a_budget_keeps_the_thumbnails_that_the_page_names(tmp_path, monkeypatch):
    table, _ = make()
    whole = payload(discover(table, tmp_path, QUICK))
    rows = np.frombuffer(base64.b64decode(whole["thumbnails"]["rows"]), "<u4")
    text = json.dumps(whole | {"thumbnails": {}}, ensure_ascii=False, separators=(",", ":"))
    room = sum(len(table.thumbnails[row]) * 4 // 3 + 12 for row in rows[:7])
    monkeypatch.setattr(module, "PAGE_BYTES", len(text.encode()) - len(',"thumbnails":{}') + room)
    less = payload(discover(table, tmp_path, QUICK))
    kept = np.frombuffer(base64.b64decode(less["thumbnails"]["rows"]), "<u4")
    assert kept.tolist() == rows[:7].tolist()


def test_thumbnails_are_read_where_the_table_has_none(tmp_path):
    table, images = make()
    without = Table(table.columns, table.embedding)
    page = discover(without, tmp_path, QUICK, read=lambda ids: images[ids])
    assert len(payload(page)["thumbnails"]["files"]) > 1000
    assert payload(discover(without, tmp_path, QUICK))["thumbnails"]["files"] == ""


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder"):
        discover(make()[0], tmp_path / "file" / "out", QUICK)


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "label_list", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        discover(make()[0], tmp_path / "out", QUICK)
    assert list((tmp_path / "out").iterdir()) == []
