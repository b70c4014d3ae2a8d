"""What is rare in a collection without labels: embeddings, rarity, duplicates, clusters, a map."""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names

if TYPE_CHECKING:
    from bcl.discovery.clusters import cluster as cluster
    from bcl.discovery.duplicates import duplicate_groups as duplicate_groups
    from bcl.discovery.embedding import embed as embed
    from bcl.discovery.external import balanced_order as balanced_order
    from bcl.discovery.external import colt_selection as colt_selection
    from bcl.discovery.external import k_means as k_means
    from bcl.discovery.external import mak_scores as mak_scores
    from bcl.discovery.external import mak_selection as mak_selection
    from bcl.discovery.external import tail_budget as tail_budget
    from bcl.discovery.page import discover as discover
    from bcl.discovery.projection import project as project
    from bcl.discovery.quality import image_quality as image_quality
    from bcl.discovery.rarity import neighbor_distance as neighbor_distance
    from bcl.discovery.selection import label_first as label_first
    from bcl.evaluation.neighbors import nearest_neighbors as nearest_neighbors

_HOMES = {
    "balanced_order": "bcl.discovery.external",
    "cluster": "bcl.discovery.clusters",
    "colt_selection": "bcl.discovery.external",
    "discover": "bcl.discovery.page",
    "duplicate_groups": "bcl.discovery.duplicates",
    "embed": "bcl.discovery.embedding",
    "image_quality": "bcl.discovery.quality",
    "k_means": "bcl.discovery.external",
    "label_first": "bcl.discovery.selection",
    "mak_scores": "bcl.discovery.external",
    "mak_selection": "bcl.discovery.external",
    "nearest_neighbors": "bcl.evaluation.neighbors",
    "neighbor_distance": "bcl.discovery.rarity",
    "project": "bcl.discovery.projection",
    "tail_budget": "bcl.discovery.external",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
