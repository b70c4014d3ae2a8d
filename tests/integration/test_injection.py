"""Hostile names on the pages, in a real browser: nothing runs, everything is read as text."""

import json
import os

import numpy as np
import pytest
import torch
from browser import CHROMIUM, browser
from probe_reports import recorded

from bcl.discovery.findings import DiscoverOptions
from bcl.discovery.page import discover
from bcl.discovery.quality import image_quality
from bcl.discovery.table import Table
from bcl.evaluation import ProbeReport
from bcl.evaluation.thumbnails import thumbnails
from bcl.report import render_report

pytestmark = pytest.mark.slow

RUN = "document.ran=1"  # what every payload tries
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"\"><img src=x onerror='{RUN}'>",
    f"'><svg onload={RUN}>",
    f'" onfocus={RUN} autofocus tabindex=0 x="',
    f"</title></style></pre></textarea><svg><style><img src=x onerror={RUN}>",
    f"<!--<script>--><script>{RUN}</script>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f'<a href="javascript:{RUN}">a</a>',
    f"javascript:{RUN}",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    "{{ 7 * 7 }}{% endraw %}",
    "`${document.ran=1}`\\u003cb\\x3e",
    'url("x"); background:red',
    "__proto__",
    "constructor",
)
EVIL = " ".join(PAYLOADS)
SPACED = EVIL.replace("_", " ")  # as the name of a signal
# Everything that markup could have become, and all that the page shows or offers to a reader.
SEEN = """(() => {
  const all = [...document.querySelectorAll("*")];
  const attributes = all.flatMap((each) => [...each.attributes]);
  return {
    ran: document.ran ?? 0,
    scripts: document.scripts.length,
    frames: document.querySelectorAll("iframe, object, embed, base, form").length,
    handlers: attributes.filter((each) => each.name.startsWith("on")).map((each) => each.name),
    links: attributes.filter((each) => /^ *javascript:/i.test(each.value)
      && ["href", "src", "xlink:href", "action"].includes(each.name)).length,
    requests: performance.getEntriesByType("resource").map((each) => each.name)
      .filter((name) => !/^(blob|data):/.test(name)),
    text: document.body.textContent,
    labels: attributes.filter((each) => each.name === "aria-label").map((each) => each.value),
  };
})()"""
CLICK_ALL = """(() => {
  const pressed = "summary, thead button, .legend button, [data-rows]";
  for (const each of document.querySelectorAll(pressed)) each.click();
})()"""


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    if CHROMIUM is None:
        assert not os.environ.get("REQUIRE_CHROMIUM"), "chromium is required here; install it"
        pytest.skip("chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        found.look(1400, 900)
        yield found


def opened(window, page):
    """What a browser has made of a page once everything on it was clicked."""
    window.open(page)
    window.run(CLICK_ALL)
    window.drawn()
    return window.run(SEEN)


def harmless(seen, scripts):
    """Fail where markup came to life."""
    assert not seen["ran"]
    assert seen["scripts"] == scripts
    assert not seen["frames"]
    assert seen["handlers"] == []
    assert not seen["links"]
    assert seen["requests"] == []


@pytest.mark.parametrize("payload", PAYLOADS[:10])
def test_the_payloads_run_where_nothing_is_escaped(window, tmp_path, payload):
    """What the tests below would see if one place of a page were left out."""
    page = tmp_path / "page.html"
    holes = "<script type='application/json'>{0}</script><p>{0}</p><p id=\"{0}\"><p id='{0}'>"
    page.write_text(f"<title>x</title>{holes.format(payload)}")
    window.open(page)
    window.run("document.querySelectorAll('a').forEach((each) => each.click())")
    window.drawn()
    assert window.run("document.ran") == 1


def hostile(values, keys=("config", "versions", "history")):
    """Every text of a report with the payloads behind it; and names, where they are free."""
    if isinstance(values, str):
        return values + EVIL
    if isinstance(values, list):
        return [hostile(each) for each in values]
    if not isinstance(values, dict):
        return values
    fixed = ("schema", "kind", "which", "file")
    found = {key: x if key in fixed else hostile(x) for key, x in values.items()}
    for key in set(keys) & set(found):
        inner = found[key][0] if isinstance(found[key], list) else found[key]
        inner.update({EVIL: EVIL})
    return found


def stranger(name, folder):
    """A report that someone else wrote."""
    path = recorded(name, 0, 0.3).save(folder)
    values = hostile(json.loads(path.read_text()))
    for epoch in values["record"]["history"]:
        epoch |= {f"online_{EVIL}/{EVIL}": 0.5, f"features/{EVIL}": 1.0}
    values["record"] |= dict.fromkeys(
        ("method", "seed", "epochs", "checkpoint", "probe_seed", "online_probe"), EVIL
    )
    values["record"]["notes"] = [f"collapsed {EVIL}"]
    values["data"]["notes"] = [EVIL]
    values["tracker"]["discovery_note"] = EVIL
    signals = values["tracker"]["signals"]
    epochs = [{"epoch": epoch, "auc": 0.5 + epoch / 9} for epoch in range(3)]
    signals[EVIL] = {**signals["loss"], "epochs": epochs}
    path.write_text(json.dumps(values))
    predictions = torch.load(path.with_name("predictions.pt"), weights_only=True)
    named = {key if key == "labels" else key + EVIL: x for key, x in predictions.items()}
    torch.save(named, path.with_name("predictions.pt"))
    return ProbeReport.load(folder)


def test_a_strangers_reports(window, tmp_path):
    runs = [stranger(name, tmp_path / name) for name in ("a", "b")]
    page = render_report(runs, tmp_path / "report.html", title=EVIL)
    seen = opened(window, page)
    harmless(seen, scripts=2)
    assert window.run("document.title") == EVIL
    assert (
        window.run("document.querySelectorAll('section').length") == 11
    )  # all that a page can have
    # As text, whole, wherever it stood: in headings, cells, captions, marks of charts, lists.
    for place in ("h1", "h3", "th", "td", "caption", "dd", "figcaption", "svg title", ".note",
                  "figure h3", ".legend", ".images li", ".verdict strong", ".answer", ".notes li",
                  "summary"):  # fmt: skip
        texts = window.run(
            f"[...document.querySelectorAll({place!r})].map((each) => each.textContent)"
        )
        assert any(EVIL in text for text in texts), place
    assert any(EVIL in label for label in seen["labels"])


def test_a_strangers_collection(window, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    features = torch.randn(40, 5, generator=generator)
    features[1] = features[0]
    paths = [f"{PAYLOADS[row % len(PAYLOADS)]}/{row}.png" for row in range(40)]
    columns = {"id": np.arange(40), "path": np.array(paths), "width": np.full(40, 8),
        "height": np.full(40, 8)}  # fmt: skip
    columns |= dict.fromkeys((EVIL, "__proto__", "constructor"), np.arange(40.0))
    columns |= {name: values.numpy() for name, values in image_quality(images).items()}
    about = {"root": EVIL, "encoder": EVIL, "unreadable": [[EVIL, EVIL]]}
    labels = [EVIL + "ab"[row % 2] for row in range(40)]
    table = Table(columns, features.numpy(), thumbnails(images), about)
    options = DiscoverOptions(projection="pca", clusters=3, label_first=17, rarest=40)
    page = discover(table, tmp_path, options, labels, title=EVIL)
    seen = opened(window, page)
    harmless(seen, scripts=2)
    assert window.run("document.title") == f"{EVIL}: what is rare"
    for place in ("h1", "summary", "td", "dd"):
        texts = window.run(
            f"[...document.querySelectorAll({place!r})].map((each) => each.textContent)"
        )
        assert any(EVIL in text or SPACED in text for text in texts), place
    assert set(paths) <= set(seen["labels"])
    # The panel of an image, each way to color the map with its legend, the lasso's list.
    for row in range(len(PAYLOADS)):
        window.run(f"select({row})")
        assert window.run("inspector.querySelector('.path').textContent") == paths[row]
        assert EVIL in window.run("inspector.querySelector('.facts-of').textContent")
        assert window.run("inspector.querySelector('img').alt") == paths[row]
    names = window.run("[...byId('color').options].map((each) => each.textContent)")
    assert {SPACED, "  proto  ", "constructor"} <= {*names}
    for name in window.run("[...byId('color').options].map((each) => each.value)"):
        window.run(f"byId('color').value = {json.dumps(name)};"
            "byId('color').dispatchEvent(new Event('change'))")  # fmt: skip
        window.drawn()
        if name == "label":
            assert window.run("byId('legend').textContent") == "".join(sorted({*labels}))
    window.run("byId('canvas').scrollIntoView()")
    box = "(({left, top, width, height}) => [left, top, width, height])"
    left, top, width, high = window.run(f"{box}(byId('canvas').getBoundingClientRect())")
    window.run("byId('lasso').click()")
    corners = [(2, 2), (width - 2, 2), (width - 2, high - 2), (2, high - 2)]
    window.drag(*((left + x, top + y) for x, y in corners))
    assert window.run("byId('list').value").split("\n") == paths
    harmless(window.run(SEEN), scripts=2)
