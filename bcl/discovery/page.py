"""``discover``: the findings as a page, a table and a list of what to label first."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcl.core.files import atomic_write, check_writable, write_text
from bcl.discovery.findings import FLAGS, MAIN, DiscoverOptions, Findings, find
from bcl.discovery.html import chart, encode, folder_url, map_data, script_data, templates
from bcl.discovery.projection import LANDMARKS
from bcl.discovery.table import Table, check_format, read_table
from bcl.evaluation.neighbors import EXACT_ROWS
from bcl.evaluation.thumbnails import thumbnails

PAGE_BYTES = 28 << 20  # a page's data; thumbnails fill what is left
SHOWN = 5  # neighbors beside an image
GROUPS, MEMBERS = 24, 12  # groups of duplicates, and images of each, that are shown
TYPICAL = 6  # most and least typical images of a cluster
TITLES = {
    "neighbor_distance_10": "Distance to the 10 nearest",
    "neighbor_distance_1": "Distance to the nearest",
    "momentum_loss": "Momentum loss",
    "score": "Memorization score",
}
FLAG_TITLES = {"dark": "Dark", "blurred": "Blurred", "low_information": "Low information"}
Read = Callable[[Tensor], Tensor]  # ids to uint8 images


def discover(
    table: Table | str | Path,
    out: str | Path,
    options: DiscoverOptions = DiscoverOptions(),
    labels: Sequence[str] | None = None,
    read: Read | None = None,
    title: str | None = None,
) -> Path:
    """Find what is rare in a collection; write ``discover.html``, ``.parquet`` and a list.

    The page needs no network and no other file. Thumbnails are the table's, or made with ``read``;
    as many as a page of 30 MB can hold, those that the page names first.

    Args:
        table: an embedding, or a .parquet or .npz file of `bcl embed`.
        out: a folder; ``discover.html``, ``discover.parquet`` and ``label_first.csv`` in it are
            replaced.
        options: what is looked for.
        labels: one per image, "" where unknown.
        read: images by id, where the table has no thumbnails.
        title: heading; the name of the collection's folder if not given.

    Returns:
        The page.

    Raises:
        InputError: what `find` refuses, or a missing package (the extra ``report``).

    Example:
        >>> import tempfile
        >>> from bcl import embed
        >>> from datamodules import DigitsLT
        >>> folder = Path(tempfile.mkdtemp())
        >>> digits = DigitsLT().test_set()
        >>> file = embed(lambda x: x.float().mean(3).flatten(1), digits, folder / "digits.npz")
        >>> discover(file, folder, DiscoverOptions(projection="pca")).name
        'discover.html'
    """
    folder = Path(out)
    check_folder(folder)
    found = table if isinstance(table, Table) else read_table(table)
    findings = find(found, options, labels)
    root = str(found.about.get("root", ""))
    page = render(findings, options, title or Path(root).name or "Collection", read)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".discover.") as work:  # all or none
        atomic_write(Path(work, "discover.parquet"), lambda file: _write_columns(file, findings))
        write_text(Path(work, "label_first.csv"), label_list(findings))
        write_text(Path(work, "discover.html"), page)
        for part in Path(work).iterdir():
            part.replace(folder / part.name)
    return folder / "discover.html"


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written, and missing packages, before any work."""
    check_format("discover.parquet")
    templates("bcl.discovery")
    chart({})
    check_writable(folder, "--out")


def _write_columns(file: Any, findings: Findings) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = findings.columns()
    names = np.asarray(findings.table.columns["path"])[findings.neighbors.ids[:, :SHOWN].numpy()]
    columns["neighbors"] = list(names)
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")


def label_list(findings: Findings) -> str:
    """The images to label first as CSV: order, id, path, rarity and an empty label."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["order", "id", "path", MAIN, "label"])
    ids, paths = findings.table.columns["id"], findings.table.paths
    for order, row in enumerate(findings.chosen.tolist(), 1):
        rows.writerow([order, int(ids[row]), paths[row], f"{findings.scores[MAIN][row]:.6g}", ""])
    return text.getvalue()


def render(findings: Findings, options: DiscoverOptions, title: str, read: Read | None) -> str:
    """The page as text."""
    sections = _sections(findings, options)
    named = dict.fromkeys(row for rows in sections.pop("named") for row in rows)
    page: str = (
        templates("bcl.discovery")
        .get_template("discover.html.j2")
        .render(
            title=title,
            findings=findings,
            options=options,
            titles={name: TITLES.get(name, _words(name)) for name in findings.scores},
            approximate=len(findings) > EXACT_ROWS and findings.table.embedding.shape[1] > 128,
            sampled=options.projection == "tsne" and len(findings) > LANDMARKS,
            landmarks=LANDMARKS,
            curve=_curve(findings.clusters.sizes.tolist()),
            data=_data(findings, list(named), read),
            **sections,
        )
    )
    return page


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _sections(findings: Findings, options: DiscoverOptions) -> dict[str, Any]:
    """Which images each section shows, and all that are named anywhere, the first ones first."""
    near = findings.neighbors.ids[:, :SHOWN]
    rarest = {name: findings.rarest(name, options.rarest) for name in findings.scores}
    flagged = {
        name: _worst(findings, name)[: options.rarest] for name in FLAGS if name in findings.flags
    }
    duplicates = [
        (findings.groups == group).nonzero()[:, 0].tolist()
        for group in range(min(GROUPS, int(findings.groups.max()) + 1))
    ]
    clusters = [_members(findings, number) for number in range(len(findings.clusters.sizes))]
    shown = [rows for each in clusters for rows in (each["typical"], each["least"])]
    beside = [near[rows].flatten().tolist() for rows in rarest.values()]
    return {
        "rarest": {
            name: [(row, near[row].tolist()) for row in rows] for name, rows in rarest.items()
        },
        "flagged": flagged,
        "flag_titles": FLAG_TITLES,
        "duplicates": [(len(rows), rows[:MEMBERS]) for rows in duplicates],
        "clusters": clusters,
        "named": [
            findings.chosen.tolist(),
            *rarest.values(),
            *beside,
            *shown,
            *(rows[:MEMBERS] for rows in duplicates),
            *flagged.values(),
        ],
    }


def _worst(findings: Findings, flag: str) -> list[int]:
    """Flagged images, the clearest case first."""
    measure = {"dark": "brightness", "blurred": "sharpness", "low_information": "entropy"}[flag]
    rows = findings.flags[flag].nonzero()[:, 0]
    order = findings.table.measurements[measure][rows].sort(stable=True).indices
    return [int(row) for row in rows[order]]


def _members(findings: Findings, number: int) -> dict[str, Any]:
    """Size, most and least typical images of a cluster."""
    rows = (findings.clusters.of == number).nonzero()[:, 0]
    order = rows[findings.clusters.distances[rows].sort(stable=True).indices].tolist()
    least = order[TYPICAL:][-TYPICAL:][::-1]
    return {"size": len(order), "typical": order[:TYPICAL], "least": least}


def _curve(sizes: list[int]) -> str:
    """The sizes of the clusters as a chart."""
    values = [{"rank": rank, "size": size} for rank, size in enumerate(sizes, 1)]
    axis = {"labelColor": "currentColor", "titleColor": "currentColor", "grid": False,
            "domainColor": "currentColor", "tickColor": "currentColor"}  # fmt: skip
    return chart(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": 620,
            "height": 150,
            "background": "transparent",
            "view": {"stroke": None},
            "config": {"axis": axis, "font": "system-ui, sans-serif"},
            "data": {"values": values},
            "mark": {"type": "bar", "color": "#3b82c4"},
            "encoding": {
                "x": {
                    "field": "rank",
                    "type": "ordinal",
                    "title": "cluster, the largest first",
                    "axis": {"labelAngle": 0, "labelOverlap": True},
                },
                "y": {"field": "size", "type": "quantitative", "title": "images"},
            },
        }
    )


def _data(findings: Findings, named: list[int], read: Read | None) -> str:
    """What the page's script needs, as JSON that can stand in a script element."""
    table = findings.table
    labels = sorted({label for label in findings.labels if label})
    number = {label: place + 1 for place, label in enumerate(labels)}
    data: dict[str, Any] = {
        "paths": table.paths,
        "roots": [folder_url(str(table.about.get("root", "")))],
        "root_of": encode(np.zeros(len(findings)), "u1"),
        "sizes": encode(np.stack([table.columns[c] for c in ("width", "height")], 1), "<u4")
        if {"width", "height"} <= table.columns.keys()
        else "",
        "labels": labels,
        "label_title": "label",
        "label": encode(np.array([number.get(x, 0) for x in findings.labels]), "<u2"),
        "ramp": ["common", "rare"],
        "maps": [
            map_data(
                "",
                findings.places,
                findings.scores,
                findings.neighbors.ids[:, :SHOWN],
                findings.clusters.of,
            )
        ],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    rows, files = _thumbnails(findings, named, read, PAGE_BYTES - len(text.encode()))
    return script_data(data, rows, files)


def _thumbnails(
    findings: Findings, named: list[int], read: Read | None, budget: int
) -> tuple[list[int], list[bytes]]:
    """Small images: those the page names, then a random order of all others, up to a budget."""
    total = len(findings)
    others = torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist()
    rows, files = [], []
    for row, file in _small(findings.table, dict.fromkeys([*named, *others]), read):
        budget -= len(file) * 4 // 3 + 12
        if budget < 0:
            break
        rows.append(row)
        files.append(file)
    return rows, files


def _small(table: Table, rows: Iterable[int], read: Read | None) -> Iterable[tuple[int, bytes]]:
    if table.thumbnails:
        yield from ((row, table.thumbnails[row]) for row in rows)
    elif read is not None:
        ids = torch.from_numpy(np.array(table.columns["id"], np.int64))
        for part in torch.split(torch.tensor(list(rows)), 256):
            yield from zip(part.tolist(), thumbnails(read(ids[part])), strict=True)
