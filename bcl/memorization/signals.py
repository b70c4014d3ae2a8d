"""Names of the signals that a memory can follow; higher means more likely tail."""

from typing import Literal, get_args

# Of every step: the trained loss, and `bcl.contrastive_signals`.
StepSignal = Literal["loss", "misalignment", "isolation", "tailness"]
# Of all images at once: `bcl.evaluation.feature_signals`, of features and of projections.
FeatureSignal = Literal[
    "neighbors_1",
    "neighbors",
    "neighbors_100",
    "sparseness",
    "projected_neighbors_1",
    "projected_neighbors",
    "projected_neighbors_100",
    "projected_sparseness",
]
Signal = StepSignal | FeatureSignal

STEP_SIGNALS: tuple[StepSignal, ...] = get_args(StepSignal)
FEATURE_SIGNALS: tuple[FeatureSignal, ...] = get_args(FeatureSignal)
SIGNALS: tuple[Signal, ...] = (*STEP_SIGNALS, *FEATURE_SIGNALS)
PROJECTED = "projected_"  # begins the names of signals of projections


def neighbors_of(signal: str) -> int:
    """How many nearest neighbors a signal of features needs, 0 for none.

    Example:
        >>> [neighbors_of(name) for name in ("neighbors", "projected_neighbors_100", "loss")]
        [10, 100, 0]
    """
    kind = signal.removeprefix(PROJECTED)
    return {"neighbors_1": 1, "neighbors": 10, "neighbors_100": 100}.get(kind, 0)
