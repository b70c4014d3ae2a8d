"""The images of a page, each once, and the maps of them, in the data that page.js reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bcl.discovery.html import encode, folder_url, map_data, script_data
from bcl.discovery.projection import project
from bcl.evaluation.neighbors import nearest_neighbors
from bcl.evaluation.results import ProbeReport, ShownImage
from bcl.report.compare import Method

NEAR = 5  # neighbors beside an image
MAPS = 4  # runs that are mapped


@dataclass
class Images:
    """Rows of images: those of the maps first, then what other sections show."""

    rows: dict[tuple[str, int], int] = field(default_factory=dict)  # by set and id
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)

    def add(self, report: ProbeReport, image: ShownImage) -> int:
        """The row of an image, which is new or known; the larger of two files is kept."""
        tested = image.which == "wrong"
        of = str(report.data["test_hash" if tested else "content_hash"])
        row = self.rows.setdefault((of, image.id), len(self.rows))
        if row == len(self.paths):
            number = f"{image.class_name}, {'test' if tested else 'training'} image {image.id}"
            self.paths.append(number if image.path in ("", str(image.id)) else image.path)
            self.labels.append(image.label)
            self.roots.append(str(report.data.get("test_root" if tested else "root", "")))
            self.files.append(image.content)
        elif len(image.content) > len(self.files[row]):
            self.files[row] = image.content
        return row

    def draw(self, methods: Sequence[Method]) -> None:
        """Map the training images that runs sampled: of runs with a memory, or else of the first.

        Runs that sampled other images than the first one are left out.
        """
        runs = [(run, run.sample) for method in methods if (run := method.first).sample is not None]
        scored = [pair for pair in runs if len(pair[1].scores)]
        for report, sample in (scored or runs[:1])[:MAPS]:
            base, first = (scored or runs)[0]
            same = report.data["content_hash"] == base.data["content_hash"]
            if len(sample.ids) <= NEAR or not (same and sample.ids.equal(first.ids)):
                continue
            rows = zip(sample.ids.tolist(), sample.labels.tolist(), strict=True)
            for (number, label), path, content in zip(
                rows, sample.names, sample.thumbnails, strict=True
            ):
                name = report.data["class_names"][label]
                about = (number, label, name, None, None, "", path, content)
                self.add(report, ShownImage("sample", *about))
            features = sample.features.float()
            signals = {"score": sample.scores} if len(sample.scores) else {}
            near = nearest_neighbors(features, NEAR).ids
            self.maps.append(map_data(report.name, project(features), signals, near))

    def script(self, names: Sequence[str]) -> str:
        """The data, with the names of the classes; "" without images."""
        if not self.paths:
            return ""
        roots = sorted(set(self.roots))
        shown = [row for row, file in enumerate(self.files) if file]
        data = {
            "paths": self.paths,
            "roots": [folder_url(root) for root in roots],
            "root_of": encode(np.array([roots.index(root) for root in self.roots]), "u1"),
            "sizes": "",
            "labels": names,
            "label_title": "class",
            "label": encode(np.array(self.labels) + 1, "<u2"),
            "ramp": ["memorized", "not memorized yet"],
            "maps": self.maps,
        }
        return script_data(data, shown, [self.files[row] for row in shown])
