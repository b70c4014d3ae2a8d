import base64
import csv
import json
import os
import re

import numpy as np
import pytest
import torch
from browser import CHROMIUM, browser

from bcl.core.errors import InputError
from bcl.discovery import page as module
from bcl.discovery.findings import DiscoverOptions
from bcl.discovery.page import discover
from bcl.discovery.table import Table
from bcl.evaluation.thumbnails import thumbnails

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


@pytest.mark.slow
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
    (drawn,) = found["maps"]
    near = np.frombuffer(base64.b64decode(drawn["neighbors"]), "<u4").reshape(N, drawn["width"])
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


@pytest.mark.slow
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


# --- a real browser, at the size of a desk and of a phone -----------------------------------

SHOWN, DESK, PHONE = 60, (1400, 900), (400, 800)
# Where the image ROW is drawn while the whole map is shown, in the coordinates of the window.
PLACE = """(() => {
  const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
  const raw = maps[0].places, last = [0, 0];
  raw.forEach((value, i) => { last[i % 2] = Math.max(last[i % 2], value); });
  const scale = Math.min((box.width - 60) / last[0], (box.height - 60) / last[1]);
  return [box.left + (box.width - scale * last[0]) / 2 + raw[2 * ROW] * scale,
          box.top + (box.height - scale * last[1]) / 2 + raw[2 * ROW + 1] * scale];
})()"""
PAINTED = """(() => {
  const canvas = document.getElementById("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0;
  return count;
})()"""

BOX = """(() => {
  const box = document.getElementById("canvas").getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
})()"""


def place(row):
    return PLACE.replace("ROW", str(row))


def middle(window):
    left, top, width, height = window.run(BOX)
    return left + width / 2, top + height / 2


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A browser that shows sixty images in three clusters."""
    if CHROMIUM is None:
        assert not os.environ.get("REQUIRE_CHROMIUM"), "chromium is required here; install it"
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("page")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SHOWN, 3, 8, 8), generator=generator, dtype=torch.uint8)
    centers = 4 * torch.eye(3).repeat_interleave(SHOWN // 3, 0)
    columns = {
        "id": np.arange(SHOWN),
        "path": np.array([f"trip/{i:02}.jpg" for i in range(SHOWN)]),
        "width": np.full(SHOWN, 8),
        "height": np.full(SHOWN, 8),
    }
    features = (centers + torch.randn(SHOWN, 3, generator=generator)).numpy()
    table = Table(columns, features, thumbnails(images), {})
    options = DiscoverOptions(projection="pca", clusters=3, label_first=5, rarest=4)
    labels = ["ant"] * 30 + ["bee"] * 20 + ["fox"] * 10
    page = discover(table, folder, options, labels)
    with browser(folder / "profile") as found:
        found.page = page
        yield found


@pytest.fixture
def shown(window):
    window.look(*DESK)
    window.open(window.page)
    window.run('document.getElementById("map").scrollIntoView()')
    return window


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_fits_the_window_and_loads_nothing(window, size, dark):
    window.look(*size, dark)
    window.open(window.page)
    assert window.run("document.documentElement.scrollWidth") <= size[0]
    assert window.run(PAINTED) > SHOWN
    assert window.run('performance.getEntriesByType("resource").map((e) => e.name)'
        '.filter((name) => !/^(blob|data):/.test(name))') == []  # fmt: skip
    paper = window.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 300) == dark


@pytest.mark.slow
def test_the_map_is_drawn_after_every_resize(shown):
    width = "document.getElementById('canvas').width"
    before = shown.run(PAINTED)
    for size in (PHONE, (900, 500), DESK):
        shown.look(*size)
        shown.drawn()
        assert shown.run(PAINTED) > SHOWN
        assert shown.run(width) < size[0]
    assert abs(shown.run(PAINTED) - before) < 0.1 * before


@pytest.mark.slow
def test_what_was_zoomed_in_stays_in_view_after_a_resize(shown):
    x, y = shown.run(place(7))
    for _ in range(2):  # the wheel knows whole pixels only
        shown.wheel(x, y, -400)
    shown.drag((x, y), middle(shown))
    shown.look(*PHONE)
    shown.drawn()
    shown.run('document.getElementById("map").scrollIntoView()')
    shown.drag(middle(shown))
    assert shown.run("document.querySelector('#inspector .path').textContent") == "trip/07.jpg"


@pytest.mark.slow
def test_a_click_shows_the_image_its_path_and_neighbors(shown):
    shown.drag(tuple(shown.run(place(30))))
    panel = "document.getElementById('inspector')"
    assert not shown.run(f"{panel}.hidden")
    assert shown.run(f"{panel}.querySelector('.path').textContent") == "trip/30.jpg"
    assert "bee" in shown.run(f"{panel}.querySelector('.facts-of').textContent")
    assert shown.run(f"{panel}.querySelectorAll('.near .thumb').length") == 5
    shown.run(f"{panel}.querySelector('.near .thumb').click()")
    assert shown.run(f"{panel}.querySelector('.path').textContent") != "trip/30.jpg"
    shown.run("document.getElementById('close').click()")
    assert shown.run(f"{panel}.hidden")


@pytest.mark.slow
def test_pointing_names_an_image(shown):
    shown.point(*shown.run(place(12)))
    assert shown.run("hover.textContent") == "trip/12.jpg"
    assert not shown.run("hover.hidden")


@pytest.mark.slow
def test_the_lasso_lists_the_paths_inside(shown):
    places = [shown.run(place(row)) for row in range(SHOWN)]
    edge = sorted(x for x, _ in places)[20] + 0.5
    wanted = [f"trip/{row:02}.jpg" for row in range(SHOWN) if places[row][0] < edge]
    left, top, _, high = shown.run(BOX)
    left, top, bottom = left + 2, top + 2, top + high - 2
    shown.run("document.getElementById('lasso').click()")
    shown.drag((left, top), (edge, top), (edge, bottom), (left, bottom))
    assert shown.run("document.getElementById('list').value").split("\n") == wanted
    assert shown.run("document.getElementById('count').textContent").startswith(str(len(wanted)))
    shown.run("document.getElementById('clear').click()")
    assert shown.run("document.getElementById('chosen').hidden")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["label", "neighbor_distance_10"])
def test_other_colors_are_explained(shown, kind):
    shown.run(f"color.value = '{kind}'; color.dispatchEvent(new Event('change'))")
    shown.drawn()
    words = "antbeefox" if kind == "label" else "commonrare"
    assert shown.run("legend.textContent") == words
    assert shown.run(PAINTED) > SHOWN
