"""All that is found in a collection from its embedding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcl.core.checks import check_choice, check_count, check_positive
from bcl.core.errors import InputError
from bcl.discovery.clusters import Clusters, cluster
from bcl.discovery.duplicates import SHARE, duplicate_distance, duplicate_groups
from bcl.discovery.projection import PROJECTIONS, project
from bcl.discovery.quality import MEASURES, quality_flags
from bcl.discovery.rarity import neighbor_distance
from bcl.discovery.selection import label_first
from bcl.discovery.table import Table
from bcl.evaluation.neighbors import Neighbors, nearest_neighbors
from bcl.evaluation.shots import shot_groups
from bcl.evaluation.tail import TailDiscovery, tail_discovery

K = 10  # neighbors
MAIN = "neighbor_distance_10"  # what "label these first" goes by
RESAMPLES = 200  # of the intervals
FLAGS = ("dark", "blurred", "low_information")
Step = Callable[[str], None]


@dataclass(frozen=True)
class DiscoverOptions:
    """What is looked for.

    Attributes:
        clusters: their number; chosen by silhouette if not given.
        projection: the map: ``"tsne"``, ``"pca"`` or ``"umap"``.
        rarest: images shown for each signal.
        label_first: images proposed for labeling.
        duplicate_share: images nearer than this share of their distance to the 10th neighbor are
            copies.
        seed: of samples, clusters and the map.
        progress: called with the name of each step before it starts.
    """

    clusters: int | None = None
    projection: str = "tsne"
    rarest: int = 24
    label_first: int = 50
    duplicate_share: float = SHARE
    seed: int = 0
    progress: Step | None = None

    def __post_init__(self) -> None:
        check_choice("map", self.projection, PROJECTIONS)
        check_count("rarest", self.rarest)
        check_count("label_first", self.label_first)
        check_positive("duplicate_share", self.duplicate_share)
        if self.clusters is not None:
            check_count("clusters", self.clusters)


@dataclass
class Findings:
    """What was found; all tensors have one row per image.

    Attributes:
        table: the embedding that it was found in.
        neighbors: the ten nearest of each image.
        scores: signals of rarity by name, larger is rarer.
        flags: dark, blurred and low_information, bool, where the table says.
        groups: of near duplicates, -1 for none.
        clusters: the partition.
        places: (N, 2) in [0, 1], the map.
        chosen: (n,) positions to label first.
        labels: one per image, "" where unknown; none if none were given.
        classes: what the labels say about the tail.
    """

    table: Table
    neighbors: Neighbors
    scores: dict[str, Tensor]
    flags: dict[str, Tensor]
    groups: Tensor
    clusters: Clusters
    places: Tensor
    chosen: Tensor
    labels: list[str] = field(default_factory=list)
    classes: "Classes | None" = None

    def __len__(self) -> int:
        return len(self.table)

    def rarest(self, signal: str, n: int) -> list[int]:
        """The n rarest images by a signal; equal ones in the order of their ids."""
        return _first(self.scores[signal], n)

    def columns(self) -> dict[str, Any]:
        """The findings as columns of a table."""
        order = torch.full((len(self),), -1)
        order[self.chosen] = torch.arange(len(self.chosen))
        found = {"id": self.table.columns["id"], "path": self.table.columns["path"]}
        if self.labels:
            found["label"] = np.array(self.labels)
        scores = {name: x.numpy() for name, x in self.scores.items()}
        flags = {name: x.numpy() for name, x in self.flags.items()}
        return found | scores | flags | {
            "duplicate_group": self.groups.numpy(),
            "cluster": self.clusters.of.numpy(),
            "cluster_distance": self.clusters.distances.numpy(),
            "label_first": order.numpy(),
            "x": self.places[:, 0].contiguous().numpy(),
            "y": self.places[:, 1].contiguous().numpy(),
        }  # fmt: skip


@dataclass
class Classes:
    """Labeled images by class, and how well signals tell the classes of the tail.

    Attributes:
        counts: labeled images by class, descending.
        group: Many, Medium or Few by class; none of a single class.
        found: by signal, how well it tells Few from Many.
    """

    counts: dict[str, int]
    group: dict[str, str]
    found: dict[str, TailDiscovery]


def find(
    table: Table,
    options: DiscoverOptions = DiscoverOptions(),
    labels: Sequence[str] | None = None,
) -> Findings:
    """Find what is rare, doubled, dark, blurred or empty; cluster it and draw a map.

    Args:
        table: an embedding (see `bcl.discovery.table.read_table`).
        options: what is looked for.
        labels: one per image, "" where unknown; they change nothing but `Findings.classes`.

    Raises:
        InputError: fewer than two images, embeddings that are not finite, or more clusters than
            images.
    """
    step = options.progress or (lambda _: None)
    features = table.features()
    if options.clusters is not None and options.clusters > len(features):
        raise InputError(f"{options.clusters} clusters of {len(features)} images; ask for fewer.")
    step("neighbors")
    neighbors = nearest_neighbors(features, K)
    measurements = table.measurements
    scores = {
        f"neighbor_distance_{k}": neighbor_distance(neighbors, min(k, neighbors.ids.shape[1]))
        for k in (K, 1)
    }
    for name, values in measurements.items():
        if name not in MEASURES:  # images never seen are the least rare
            lowest = values[values.isfinite()].min() if bool(values.isfinite().any()) else 0.0
            scores[name] = torch.where(values.isfinite(), values, lowest)
    flags = quality_flags(measurements) if set(MEASURES) <= measurements.keys() else {}
    usable = torch.ones(len(features), dtype=torch.bool)
    for bad in flags.values():
        usable &= ~bad
    groups = duplicate_groups(neighbors, duplicate_distance(neighbors, options.duplicate_share))
    step("clusters")
    clusters = cluster(features, options.clusters, options.seed)
    step("map")
    places = project(features, options.projection, options.seed)
    chosen = label_first(features, scores[MAIN], options.label_first, usable)
    given = list(labels or ())
    classes = describe_classes(given, scores) if any(given) else None
    return Findings(
        table, neighbors, scores, flags, groups, clusters, places, chosen, given, classes
    )


def describe_classes(labels: Sequence[str], scores: dict[str, Tensor]) -> Classes:
    """Count classes, group them and measure how well each signal tells Few from Many."""
    names, numbers = np.unique([label for label in labels if label], return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    counts = {str(names[i]): int(numbers[i]) for i in order}
    if len(counts) < 2:
        return Classes(counts, {}, {})
    two = ["many", "few"]
    groups = two if len(counts) == 2 else shot_groups(list(counts.values())).of_class()
    group = dict(zip(counts, groups, strict=True))
    place = {name: number for number, name in enumerate(counts)}
    rows = torch.tensor([i for i, label in enumerate(labels) if label])
    classes = torch.tensor([place[label] for label in labels if label])
    found = {
        name: tail_discovery(x[rows], classes, resamples=RESAMPLES)
        for name, x in scores.items()
        if len({*counts.values()}) > 1 and bool((x[rows] != x[rows[0]]).any())
    }
    return Classes(counts, group, found)


def _first(scores: Tensor, n: int) -> list[int]:
    """Positions of the n largest scores."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return [int(i) for i in order[:n]]
