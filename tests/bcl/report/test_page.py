"""The page: self-contained, accessible, and clicked in a real browser where there is one."""

import base64
import html.parser
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from fakes import FakeData, encode

import bcl
from bcl.core.errors import InputError
from bcl.evaluation import ProbeReport
from bcl.report import render_report
from bcl.report.charts import _signed, _whole
from bcl.report.figures import COLORS, Chart, log_ticks, nice_ticks, smooth

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def made(name, seed, strength):
    data = FakeData()
    tracker = bcl.MemorizationTracker(128)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for epoch in range(4):
        tracker.update(torch.arange(128), 3 + torch.rand(128, generator=generator))
        tracker.refresh()
        bins = torch.histc(tracker.scores, 20, 0, 1).int().tolist()
        history.append(
            {
                "epoch": epoch, "loss": 3 - epoch / 4, "score_mean": 0.5, "score_histogram": bins,
                "online_linear/all": 0.2 + epoch / 10, "online_linear/few": 0.1,
                "online_knn/all": 0.3 if epoch else None, "online_linear/strange": 0.5,
            }
        )  # fmt: skip

    def noisy(images):
        x = encode(images)
        return x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    return bcl.evaluate(
        noisy,
        data,
        protocols="full,10-shot,knn",
        record={
            "name": name, "seed": seed, "history": history, "config": {"x": "</script>"},
            "versions": {"torch": "2"}, "wall_seconds": 1.0, "commit": "abc", "hardware": "cpu",
        },
        tracker=tracker,
        earlier_scores=torch.rand(128, generator=generator),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    reports = [
        made(name, seed, s) for name, s in (("base", 0.3), ("better", 0.1)) for seed in (0, 1)
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
            if target and not target.startswith(("#", "data:image/png;base64,")):
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


def test_page_is_well_formed_self_contained_and_labeled(page):
    outline = Outline()
    text = page.read_text()
    outline.feed(text)
    assert outline.problems == []
    assert outline.stack == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert text.count("<script") == 1  # a config cannot smuggle in another
    assert 'lang="en"' in text
    assert 'name="viewport"' in text
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in text


def test_page_holds_all_sections(page):
    text = page.read_text()
    for words in (
        "Few-shot curve", "Gain over the baseline", "What tail classes are taken for",
        "over training", "scores that rose most", "Measures without a classifier",
        "Spearman", "2 seeds", "population", "thirds of the classes", "Tables to copy",
    ):  # fmt: skip
        assert words in text, words


def test_a_difference_that_proves_nothing_is_said(tmp_path):
    text = render_report([made("a", 0, 0.3), made("b", 0, 0.31)], tmp_path / "a.html").read_text()
    words = re.findall(r"(No tested difference from a has p &lt; 0.05: [^<]*)</p>", text)
    assert words
    assert all("test" in each and "Holm" in each for each in words)


def test_accuracies_of_the_history_are_drawn(page):
    text = page.read_text()
    titles = re.findall(r"<title>(Online [^<]*)</title>", text)
    assert titles == [
        "Online knn, All", "Online linear, All", "Online linear, Few", "Online linear, strange",
    ]  # fmt: skip
    section = text[text.index('id="training"') : text.index('id="tracker"')]
    assert section.count("Online linear, Few") >= 2  # in the chart and below it


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
    assert json.loads(page.with_suffix(".json").read_text())["schema_version"] == 1


def test_colors_have_the_contrast_of_wcag_aa():
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    css = Path(bcl.__file__).with_name("report").joinpath("report.css").read_text()
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", css.split("}")[0]))
    light = {k: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for k, v in light.items()}
    for color in (*COLORS, light["ink"], light["soft"], light["accent"]):
        ratio = (luminance(light["paper"]) + 0.05) / (luminance(color) + 0.05)
        assert ratio >= 4.5, color


def test_ticks_and_lines():
    assert nice_ticks(3.1, 6.4) == [4, 5, 6]
    assert nice_ticks(1, 1) == [1]
    assert [_signed(tick) for tick in nice_ticks(-0.055, 0.055)] == [
        "-5",
        "-2.5",
        "0",
        "+2.5",
        "+5",
    ]
    assert [_whole(tick) for tick in (0.475, 0.5, 0.07)] == ["47.5", "50", "7"]
    assert log_ticks(4, 520) == [5, 10, 20, 50, 100, 200, 500]
    assert log_ticks(1, 10000) == [1, 10, 100, 1000, 10000]
    assert smooth([1, 1, 2], [0, 1, 2]) == []
    chart = Chart("<a>", "b & c", "x", "y", (1, 10), (0, 1), x_log=True)
    chart.point(3, 0.5, "#000000", "diamond", "<tip>")
    assert "&lt;tip&gt;" in chart.svg()
    assert "<a>" not in chart.svg()


def test_bad_output(page, tmp_path):
    report = made("one", 0, 0.1)
    with pytest.raises(InputError, match="is a folder"):
        render_report(report, tmp_path)
    with pytest.raises(InputError, match="did you mean 'md'"):
        render_report(report, tmp_path / "a.html", formats=["mdx"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not writable"):
        render_report(report, tmp_path / "file" / "a.html")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError, match=r"a\.csv exists"):
        render_report(report, tmp_path / "a.html", formats=["csv"], overwrite=False)
    assert not (tmp_path / "a.html").exists()
    with pytest.raises(InputError, match="at least one"):
        render_report([], tmp_path / "a.html")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "schema version 0, this release reads 1; run 'bcl probe'"),
        ({"schema_version": 99}, "update bcl-cacr"),
        ({"schema": "other"}, "not a probe report"),
        ({"groups": None, "protocols": "gone"}, "lacks 'protocols'"),
    ],
)
def test_old_and_foreign_reports(change, message, tmp_path):
    path = made("one", 0, 0.1).save(tmp_path)
    values = json.loads(path.read_text())
    values.update(change)
    if change.get("protocols") == "gone":
        del values["protocols"]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        ProbeReport.load(tmp_path)


def test_missing_and_broken_reports(tmp_path):
    folder = tmp_path / "whole"
    made("one", 0, 0.1).save(folder)
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


class DevTools:
    """The few messages of Chromium's remote protocol that a click needs, over one web socket."""

    def __init__(self, address):
        match = re.match(r"ws://([^:/]+):(\d+)(/.*)", address)
        self.socket = socket.create_connection((match[1], int(match[2])), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {match[3]} HTTP/1.1\r\nHost: {match[1]}\r\nUpgrade: websocket\r\nConnection: "
            f"Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.socket.recv(1)
        assert b"101" in answer.split(b"\r\n")[0]
        self.count = 0

    def call(self, method, **parameters):
        self.count += 1
        text = json.dumps({"id": self.count, "method": method, "params": parameters}).encode()
        size = struct.pack("!H", len(text)) if len(text) < 65536 else struct.pack("!Q", len(text))
        head = bytes([0x81, 0x80 | (126 if len(size) == 2 else 127)])
        self.socket.sendall(head + size + b"\0\0\0\0" + text)  # a mask of zeros masks nothing
        while True:
            answer = json.loads(self._frame())
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def _frame(self):
        text = b""
        while True:
            first, second = self._exactly(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
            text += self._exactly(size)
            if first & 0x80:
                return text

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data))
        return data

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@pytest.fixture
def browser(page, tmp_path):
    if CHROMIUM is None:
        assert "REQUIRE_CHROMIUM" not in os.environ, "no chromium is installed"
        pytest.skip("no chromium is installed")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0",
        page.as_uri(),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = tmp_path / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 120
        tabs = []
        while not tabs and time.monotonic() < deadline:
            time.sleep(0.2)
            if port_file.exists() and port_file.read_text().strip():
                port = port_file.read_text().split()[0]
                listing = f"http://127.0.0.1:{port}/json"
                with urllib.request.urlopen(listing, timeout=10) as answer:
                    tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        assert tabs, "chromium opened no page"
        tools = DevTools(tabs[0]["webSocketDebuggerUrl"])
        # The first document is an empty one; it too is "complete".
        ready = "document.readyState === 'complete' && !!document.querySelector('#classes button')"
        while not tools.evaluate(ready):
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.1)
        yield tools
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_clicked_in_a_browser(browser):
    rows = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[1].textContent)"
    button = "document.querySelector('#classes thead th:nth-child(2) button')"
    assert browser.evaluate(f"{rows}.join()") == "60,30,20,10,5,3"
    browser.evaluate(f"{button}.click()")
    heading = f"{button}.parentElement.getAttribute('aria-sort')"
    assert browser.evaluate(heading) == "descending"
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(heading) == "ascending"
    assert browser.evaluate(f"{rows}.join()") == "3,5,10,20,30,60"
    # The keyboard sorts too, and names begin with A.
    browser.evaluate("document.querySelector('#classes thead button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
            windowsVirtualKeyCode=13,
        )  # fmt: skip
    names = "[...document.querySelectorAll('#classes tbody th')].map(r => r.textContent)"
    assert browser.evaluate(f"{names}[0]") == "class <0>"
    assert browser.evaluate(f"{names}[5]") == "class <5>"
    # On paper no heading stands over what is folded.
    shown = "['tables', 'classes'].map(i => getComputedStyle(document.getElementById(i)).display)"
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(f"{shown}.join()") == "none,block"
    browser.call("Emulation.setEmulatedMedia", media="screen")
    assert browser.evaluate(f"{shown}.join()") == "block,block"
    # Nothing was fetched, every image shows, and the page fits a phone's width.
    assert browser.evaluate("performance.getEntriesByType('resource').filter("
                            "e => !e.name.startsWith('data:')).length") == 0  # fmt: skip
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert browser.evaluate("document.images.length") > 0
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1,
        mobile=True,
    )  # fmt: skip
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    # The section links lead somewhere, and details open.
    browser.evaluate("document.querySelector('nav a[href=\"#run\"]').click()")
    assert browser.evaluate("location.hash") == "#run"
    browser.evaluate("document.querySelector('#tables summary').click()")
    assert browser.evaluate("document.querySelector('#tables details').open")
