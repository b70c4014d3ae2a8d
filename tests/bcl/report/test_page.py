"""The page: self-contained, accessible, and clicked in a real browser where there is one."""

import base64
import csv
import html.parser
import io
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM, browser
from fakes import QUICK, FakeData, encode
from PIL import Image
from probe_reports import by_hand, recorded

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import ProbeReport
from bcl.evaluation.probe.options import SOLVERS
from bcl.report import charts, render_report
from bcl.report.page import check_out, link


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    reports = [
        recorded(name, seed, s) for name, s in (("base", 0.3), ("better", 0.1)) for seed in (0, 1)
    ]
    out = tmp_path_factory.mktemp("page") / "report.html"
    return render_report(reports, out, formats=("md", "tex", "csv", "json"))


class Outline(html.parser.HTMLParser):
    """Collects what accessibility and self-containment ask for."""

    VOID = frozenset(("meta", "link", "img", "br", "hr", "input"))

    def __init__(self):
        super().__init__()
        self.stack, self.ids, self.links, self.problems, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        for name in ("src", "href"):
            target = values.get(name) or ""
            if target and not target.startswith(("#", "./", "https://arxiv.org/")):
                self.problems.append(f"{tag} loads {target}")
        if tag == "img" and not values.get("alt"):
            self.problems.append("image without alt text")
        if tag == "svg" and values.get("aria-hidden") != "true" and not values.get("aria-label"):
            self.problems.append("chart without a label")
        if tag == "th" and "scope" not in values:
            self.problems.append("heading cell without scope")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")


@pytest.mark.slow
def test_page_is_well_formed_self_contained_and_labeled(page):
    outline = Outline()
    text = page.read_text()
    outline.feed(text)
    assert outline.problems == []
    assert outline.stack == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link[1:] for link in outline.links if link[0] == "#"} <= set(outline.ids)
    assert text.count("<script") == 2  # data and code; a config cannot smuggle in another
    assert 'lang="en"' in text
    assert 'name="viewport"' in text
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in text


@pytest.mark.slow
def test_page_holds_all_sections(page):
    text = page.read_text()
    for words in (
        "What was found", "Differences under full", "Few-shot curve", "Gain over the baseline",
        "What test images are taken for", "Map of the training images",
        "over training", "scores that rose most", "Measures without a classifier",
        "Spearman", "2 seeds", "population", "thirds of the classes", "Tables to copy",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.slow
def test_it_links_to_the_run_its_data_and_the_documentation(tmp_path):
    report = recorded("one", 0, 0.1)
    (tmp_path / "data & more").mkdir()
    report.save(tmp_path / "probe")
    report.data["root"] = str(tmp_path / "data & more")
    report.record["checkpoint"] = str(tmp_path / "gone.ckpt")
    text = render_report(report, tmp_path / "pages" / "a.html").read_text()
    section = text[text.index('id="run"') :]
    assert f'<dt>Report</dt><dd><a href="./../probe">{tmp_path / "probe"}</a>' in section
    assert '<a href="./../data%20%26%20more">' in section
    assert f"<dt>Checkpoint</dt><dd>{tmp_path / 'gone.ckpt'}</dd>" in section
    assert re.search(r'<a href="\./[^"]*docs/reports\.md">reports\.md</a>', section)
    for odd in ("a\0b", "javascript:alert(1)", "https://example.com", "x" * 5000):
        assert link(odd, tmp_path) == ""


@pytest.mark.slow
def test_tail_discovery_has_a_row_for_every_seed(page):
    text = page.read_text()
    table = text[text.index('aria-label="Tail discovery"') :].partition("</table>")[0]
    rows = [re.sub("<[^>]+>", "", row) for row in table.split("<tr>")[2:]]
    assert [row.partition("loss")[0] for row in rows] == [
        f"{name}, seed {seed}" for name in ("base", "better") for seed in (0, 1)
    ]
    assert text.count("in the run with seed 0; 0.5 is chance") in (0, 2)  # charts of the first


@pytest.mark.slow
def test_notes_are_folded_with_their_number(tmp_path):
    report = recorded("one", 0, 0.1)
    report.data["notes"] = [f"file {n} cannot be read" for n in range(60)]
    text = render_report(report, tmp_path / "a.html").read_text()
    (notes,) = re.findall(r'<details class="notes">.*?</details>', text, re.DOTALL)
    assert "<summary>63 notes on the data and the runs</summary>" in notes
    assert notes.count("<li>") == 63  # with what an image of each small group is worth
    assert text.count("cannot be read") == 60


@pytest.mark.slow
def test_what_is_constant_by_construction_is_not_shown(tmp_path):
    text = render_report(recorded("one", 0, 0.1), tmp_path / "a.html").read_text()
    assert "Mean score" not in text
    assert "Top-5" in text
    few = by_hand("few", 0, [0.5] * 4, counts=(9, 8, 7, 6))
    assert ">Top-5<" not in render_report(few, tmp_path / "b.html").read_text()


@pytest.mark.slow
def test_a_difference_that_proves_nothing_is_said(tmp_path):
    text = render_report(
        [recorded("a", 0, 0.3), recorded("b", 0, 0.31)], tmp_path / "a.html"
    ).read_text()
    words = re.findall(r"(No tested difference from a has p &lt; 0.05: [^<]*)</p>", text)
    assert words
    assert all("test" in each and "Holm" in each for each in words)


@pytest.mark.slow
def test_accuracies_of_the_history_are_drawn(page):
    text = page.read_text()
    titles = re.findall(r"<title>(Online [^<]*)</title>", text)
    assert titles == [
        "Online knn, All", "Online linear, All", "Online linear, Few", "Online linear, strange",
    ]  # fmt: skip
    section = text[text.index('id="training"') : text.index('id="measures"')]
    assert section.count("Online linear, Few") >= 2  # in the chart and below it


@pytest.mark.slow
def test_measures_without_labels_and_a_collapse_are_shown(tmp_path):
    run = recorded("flat", 0, 0.3)
    run.record["notes"] = ["the features have collapsed in epoch 3: all alike", "no news"]
    text = render_report(run, tmp_path / "a.html").read_text()
    section = text[text.index('id="training"') : text.index('id="measures"')]
    assert "<h3>Effective rank (RankMe)</h3>" in section
    assert '<p class="note">flat: the features have collapsed in epoch 3: all alike</p>' in section
    assert "no news" not in section


class Tables(html.parser.HTMLParser):
    """The sortable tables as the page's script sees them: rows of (data-value, text)."""

    def __init__(self):
        super().__init__()
        self.tables, self.row, self.cell = [], None, None

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "table":
            sortable = "sortable" in (values.get("class") or "")
            self.tables.append({"head": [], "rows": [], "sortable": sortable})
        elif tag == "tr":
            self.row = []
        elif tag in ("td", "th"):
            self.cell = [values.get("data-value"), ""]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.row.append(self.cell)
            self.cell = None
        elif tag == "tr":
            table = self.tables[-1]
            (table["rows"] if table["head"] else table["head"]).append(self.row)

    def handle_data(self, text):
        if self.cell is not None:
            self.cell[1] += text


def test_tables_sort_by_what_they_show(page):
    # What the script sorts by, checked where there is no browser: every row has a cell for every
    # heading, and a number is sorted as the number that is shown.
    parser = Tables()
    parser.feed(page.read_text())
    sortable = [table for table in parser.tables if table["sortable"]]
    assert len(sortable) >= 6
    for table in sortable:
        assert len(table["head"]) == 1
        for row in table["rows"]:
            assert len(row) == len(table["head"][0])
            for value, text in row[1:]:
                shown = re.match(r"[-+]?[\d.,]+", text.strip())
                if shown is None:
                    continue
                number = float(shown[0].rstrip(",").replace(",", ""))
                if value is None:  # the script reads the text itself
                    assert "," not in shown[0], text
                else:
                    assert any(abs(float(value) * scale - number) < 0.06 for scale in (1, 100))


def test_tables_lie_beside_the_page(page):
    assert page.with_suffix(".md").read_text().startswith("### full")
    assert "\\toprule" in page.with_suffix(".tex").read_text()
    assert page.with_suffix(".csv").read_text().startswith("protocol,method")
    assert json.loads(page.with_suffix(".json").read_text())["schema_version"] == 2


def test_colors_have_the_contrast_of_wcag_aa():
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    css = Path(bcl.__file__).with_name("discovery").joinpath("page.css").read_text()
    bright, dark = (
        {k: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for k, v in found}
        for found in (
            re.findall(r"--(\w+): (#[0-9a-f]{3,6});", part) for part in css.split("}")[:2]
        )
    )
    assert charts.DARK[charts.PAPER] == dark["paper"]
    for names, colors in ((bright, charts.COLORS), (dark, charts.DARK_COLORS)):
        for color in (*colors, *(names[name] for name in ("ink", "soft", "accent", "warm"))):
            for paper in (names["paper"], names["wash"]):
                light, faint = sorted((luminance(paper), luminance(color)), reverse=True)
                assert (light + 0.05) / (faint + 0.05) >= 4.5, (color, paper)


@pytest.mark.slow
def test_a_dark_page_has_a_dark_color_for_each_that_charts_use(page):
    text = page.read_text()
    drawn = set(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    used = {c for svg in drawn for c in re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', svg)}
    assert used <= charts.DARK.keys()
    for bright, dark in charts.DARK.items():
        assert f'svg [fill="{bright}"] {{ fill: {dark} }}' in text


@pytest.mark.slow
def test_bad_output(page, tmp_path):
    report = recorded("one", 0, 0.1)
    with pytest.raises(InputError, match="is a folder"):
        render_report(report, tmp_path)
    with pytest.raises(InputError, match="'md'"):
        render_report(report, tmp_path / "a.html", formats=["mdx"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        render_report(report, tmp_path / "file" / "a.html")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError, match=r"a\.csv exists"):
        render_report(report, tmp_path / "a.html", formats=["csv"], overwrite=False)
    assert not (tmp_path / "a.html").exists()
    with pytest.raises(InputError, match="at least one"):
        render_report([], tmp_path / "a.html")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "version 0"),
        ({"schema_version": 99}, "update"),
        ({"schema": "other"}, "not a probe report"),
        ({"groups": None, "protocols": "gone"}, "'protocols'"),
    ],
)
def test_old_and_foreign_reports(change, message, tmp_path):
    path = recorded("one", 0, 0.1).save(tmp_path)
    values = json.loads(path.read_text())
    values.update(change)
    if change.get("protocols") == "gone":
        del values["protocols"]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        ProbeReport.load(tmp_path)


@pytest.mark.slow
def test_missing_and_broken_reports(tmp_path):
    folder = tmp_path / "whole"
    recorded("one", 0, 0.1).save(folder)
    (folder / "predictions.pt").write_bytes(b"short")
    with pytest.raises(InputError, match=r"predictions\.pt is damaged"):
        ProbeReport.load(folder)
    (folder / "predictions.pt").unlink()
    assert ProbeReport.load(folder).predictions == {}
    render_report(ProbeReport.load(folder), tmp_path / "page.html")
    with pytest.raises(InputError, match="no report at"):
        ProbeReport.load(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        ProbeReport.load(tmp_path)


# --- a real browser -------------------------------------------------------------------------

LOADED = "new Promise((done) => setTimeout(done, 300))"  # images come when they are looked at
ALL = "const all = (selector) => [...document.querySelectorAll(selector)];"


@pytest.fixture(scope="module")
def window(page, tmp_path_factory):
    if CHROMIUM is None:
        assert not os.environ.get("REQUIRE_CHROMIUM"), "chromium is required here; install it"
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.look(390, 800)
        found.open(page)
        found.run(ALL)
        yield found


def middle(window, element):
    """Where an element is, once it is in sight."""
    window.run(f"{element}.scrollIntoView({{block: 'center'}})")
    window.drawn()
    box = window.run(f"(({{left, top, width, height}}) => [left, top, width, height])"
        f"({element}.getBoundingClientRect())")  # fmt: skip
    return box[0] + box[2] / 2, box[1] + box[3] / 2


@pytest.mark.slow
def test_it_fits_a_phone_and_loads_nothing(window):
    assert window.run("document.documentElement.scrollWidth") <= 390
    assert (
        window.run("all('figure svg:not(.key)').filter((svg) => svg.clientWidth < 250).length") == 0
    )
    loaded = "performance.getEntriesByType('resource').map((each) => each.name)"
    assert all(name.startswith(("data:", "blob:")) for name in window.run(loaded))
    headings = window.run("all('table.even')[0].tHead.innerText").split()
    assert headings[:2] == ["Run", "All"]


@pytest.mark.slow
def test_headings_sort_their_table(window):
    window.run("const [classes, counts] = all('#classes thead button')")
    column = "all('#classes tbody tr').map((row) => row.cells[{}].textContent)"
    largest = ["60", "30", "20", "10", "5", "3"]
    for order, shown in (("descending", largest), ("ascending", largest[::-1])):
        window.run("counts.click()")
        assert window.run("counts.parentElement.getAttribute('aria-sort')") == order
        assert window.run(column.format(1)) == shown
    window.run("classes.focus()")
    assert window.run("document.activeElement === classes")  # a button, which the keyboard reaches
    window.run("classes.click()")
    assert window.run(column.format(0)) == [f"class <{c}>" for c in range(6)]


@pytest.mark.slow
def test_a_legend_hides_a_run_and_shows_it_again(window):
    window.run("const [legend] = all('.legend [data-run=\"0\"] button')")
    drawn = "all('svg [class*=\"run0x\"]').filter((mark) => mark.style.display !== 'none').length"
    before = window.run(drawn)
    assert before > 8
    window.run("legend.click()")
    pressed = "all('.legend [data-run=\"0\"] button').map((b) => b.getAttribute('aria-pressed'))"
    assert set(window.run(pressed)) == {"false"}
    assert window.run(drawn) == 0
    window.run("legend.click()")
    assert window.run(drawn) == before


@pytest.mark.slow
def test_a_mark_tells_its_values_to_the_mouse_and_to_a_finger(window):
    x, y = middle(window, "document.querySelector('#verdict [data-tip]')")
    window.point(x + 4, y + 3)  # near it
    lines = window.run("all('#tip div').map((line) => line.textContent)")
    assert lines[:2] == ["run: better", "group: All"]
    assert lines[2].startswith("points over base: ")
    window.point(5, 5)
    assert window.run("document.getElementById('tip').hidden")
    spot = [{"x": x + 14, "y": y + 8}]
    window.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=spot)
    window.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    window.drawn()
    assert window.run("document.getElementById('tip').innerText").startswith("run: better")
    window.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}))")


@pytest.mark.slow
def test_a_confusion_leads_to_images_and_they_enlarge(window):
    window.run("const [cell] = all('.matrix [data-rows]')")
    window.run("cell.click()")
    panel = "cell.closest('.matrix').querySelector('.answers')"
    words = window.run(f"{panel}.querySelector('p').textContent")
    assert re.fullmatch(r"class <\d> taken for class <\d>: \d+\.\d %", words)
    shown = window.run(f"[...{panel}.querySelectorAll('.thumb')].length")
    assert shown == len(window.run("cell.dataset.rows").split(","))
    window.run(f"{panel}.querySelector('.thumb').click()")
    # The class that was taken for another, the number of the image, and its pixels.
    path = window.run("inspector.querySelector('.path').textContent")
    assert re.fullmatch(re.escape(words.partition(" taken")[0]) + r", test image \d+", path)
    window.run(LOADED)
    assert window.run("inspector.querySelector('img').naturalWidth") == 8
    window.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert window.run("inspector.hidden")


@pytest.mark.slow
def test_images_of_extreme_scores_show(window):
    window.run("all('.images')[0].scrollIntoView()")
    window.drawn()
    first = "all('.images .thumb')[0]"
    window.run(LOADED)
    assert "blob:" in window.run(f"{first}.style.backgroundImage")
    window.run(f"{first}.click()")
    assert "training image" in window.run("inspector.querySelector('.path').textContent")
    assert "memorization score: above" in window.run(
        "inspector.querySelector('.facts-of').textContent"
    )
    assert window.run("inspector.querySelectorAll('.near .thumb').length") == 5
    window.run("select(-1)")


@pytest.mark.slow
def test_the_map_is_drawn_by_class_and_by_score(window):
    middle(window, "document.getElementById('canvas')")
    pixels = """(() => {
      const canvas = document.getElementById("canvas");
      const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return new Uint32Array(all.buffer).filter((x) => x).reduce((a, b) => (a * 31 + b) | 0, 7);
    })()"""
    assert window.run("[...byId('color').options].map((each) => each.text)") == [
        "class", "memorization score",
    ]  # fmt: skip
    window.run("byId('show-thumbnails').click()")
    looks = []
    for control, value in (("color", "label"), ("color", "score"), ("map-of", "1")):
        window.run(f"byId('{control}').value = '{value}';"
            f"byId('{control}').dispatchEvent(new Event('change'))")  # fmt: skip
        window.drawn()
        looks.append(window.run(pixels))
    assert len({7, *looks}) == 4  # something, and something else each time
    assert window.run("byId('legend').textContent") == "memorizednot memorized yet"


CAUGHT = """(() => {
  window.caught = [];
  HTMLAnchorElement.prototype.click = function () { caught.push([this.download, this.href]); };
})()"""
LAST = """new Promise((done) => setTimeout(async () => {
  const [name, url] = caught.at(-1), bytes = await (await fetch(url)).arrayBuffer();
  done([name, btoa(String.fromCharCode(...new Uint8Array(bytes)))]);
}, 800))"""


def saved(window, button):
    """Name and bytes of the file that a button gives."""
    window.run(f"{button}.click()")
    name, content = window.run(LAST)
    return name, base64.b64decode(content)


@pytest.mark.slow
def test_charts_and_tables_can_be_saved(window, page):
    # A page may not fetch; what it would download is read by other means.
    window.run(CAUGHT)
    window.run("const real = URL.createObjectURL, blobs = new Map()")
    window.run("URL.createObjectURL = (b) => { const u = real(b); blobs.set(u, b); return u; }")
    window.run(
        "window.fetch = async (url) => ({ arrayBuffer: () => blobs.get(url).arrayBuffer() })"
    )
    window.run("const bar = document.querySelector('#verdict .saves').children")
    name, content = saved(window, "bar[0]")
    assert name == "differences-under-full.svg"
    root = ElementTree.fromstring(content)
    assert float(root.get("width")) > 200
    assert root.find("{*}rect").get("fill") == "#fff"
    assert b"data-tip" not in content
    name, content = saved(window, "bar[1]")
    assert name == "differences-under-full.png"
    image = Image.open(io.BytesIO(content))
    assert image.width == pytest.approx(3 * float(root.get("width")), abs=3)
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert len(image.convert("RGB").getcolors(100_000)) > 3
    name, content = saved(window, "bar[2]")
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows[0] == ["run", "group", "points over base", "low", "high", "p"]
    assert [row[1] for row in rows[1:]] == ["All", "Many", "Medium", "Few"]
    _, content = saved(window, "document.querySelector('#training .saves').children[2]")
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows[:2] == [["run", "seed", "epoch", "mean loss"], ["base", "0", "0", "3"]]
    assert len(rows) == 1 + 4 * 4
    name, content = saved(window, "document.querySelector('table.even .saves').children[0]")
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert name == "full.csv"
    assert rows[0][:5] == ["Run", "All", "All, interval", "Many", "Many, interval"]
    assert rows[1][0] == "base 2 seeds"
    assert float(rows[1][1]) == pytest.approx(100 * value_of(page), abs=0.006)
    assert re.fullmatch(r"±\d+\.\d\d", rows[1][2])


def value_of(page):
    (table, *_) = json.loads(page.with_suffix(".json").read_text())["tables"]
    return table["rows"][0]["values"]["all"]["mean"]


@pytest.mark.slow
def test_it_is_dark_where_the_system_is_and_light_on_paper(window):
    colors = """(() => {
      const mark = document.querySelector("#verdict [data-tip]");
      return [getComputedStyle(document.body).backgroundColor, getComputedStyle(mark).stroke];
    })()"""
    rgb = lambda color: "rgb({}, {}, {})".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5)))  # noqa: E731
    light, dark = charts.COLORS[1], charts.DARK[charts.COLORS[1]]
    assert window.run(colors) == ["rgb(255, 255, 255)", rgb(light)]
    window.look(390, 800, dark=True)
    assert window.run(colors) == [rgb(charts.DARK[charts.PAPER]), rgb(dark)]
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    window.send("Emulation.setEmulatedMedia", media="print", features=features)
    assert window.run(colors) == ["rgb(255, 255, 255)", rgb(light)]
    # On paper, no heading stands over what is folded.
    shown = "getComputedStyle(document.getElementById('tables')).display"
    assert window.run(shown) == "none"
    window.run("all('#tables summary')[0].click()")
    assert window.run(shown) == "block"
    window.run("all('#tables summary')[0].click()")
    window.send("Emulation.setEmulatedMedia", media="", features=[])


def test_page_and_table_have_their_own_files(tmp_path):
    with pytest.raises(InputError, match=r"page\.md would be both"):
        check_out(tmp_path / "page.md", True, ["md"])
    assert len(check_out(tmp_path / "page.html", True, ["md", "md"])) == 2


def test_a_report_without_protocols_cannot_be_shown(tmp_path):
    empty = bcl.evaluate(encode, FakeData(), [], QUICK)
    with pytest.raises(InputError, match="has no protocol"):
        render_report(empty, tmp_path / "page.html")


def test_every_solver_has_its_place_on_the_page(tmp_path):
    data = FakeData((600, 300, 200, 100, 50, 30))  # cacr drops what does not fill a batch
    solvers = [f"full:{name}" for name in SOLVERS if name != "lbfgs"]
    report = bcl.evaluate(encode, data, ["full", "long-tailed-knn", *solvers], QUICK)
    text = render_report(report, tmp_path / "page.html").read_text()
    shown = re.findall(r"<dt>(full[^<]*)</dt><dd>(\w+) on", text)
    assert shown == [("full", "lbfgs"), *((each, each[5:]) for each in solvers)]


def test_the_seed_of_the_probe_is_on_the_page(page):
    assert "<dt>Probe seed</dt><dd>0</dd>" in page.read_text()
