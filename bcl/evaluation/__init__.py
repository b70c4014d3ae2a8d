"""Linear probes, nearest neighbors, few-shot protocols and measures of a representation."""

from typing import TYPE_CHECKING

from bcl.core.lazy import lazy_names

if TYPE_CHECKING:
    from bcl.evaluation.density import feature_signals as feature_signals
    from bcl.evaluation.features import extract_features as extract_features
    from bcl.evaluation.probe import ProbeOptions as ProbeOptions
    from bcl.evaluation.probe import ProbeResult as ProbeResult
    from bcl.evaluation.probe import fit_linear_probe as fit_linear_probe
    from bcl.evaluation.results import ProbeReport as ProbeReport
    from bcl.evaluation.shots import shot_groups as shot_groups
    from bcl.evaluation.suite import EvaluationOptions as EvaluationOptions
    from bcl.evaluation.suite import evaluate as evaluate
    from bcl.evaluation.tail import tail_discovery as tail_discovery

_HOMES = {
    "EvaluationOptions": "bcl.evaluation.suite",
    "ProbeOptions": "bcl.evaluation.probe",
    "ProbeReport": "bcl.evaluation.results",
    "ProbeResult": "bcl.evaluation.probe",
    "evaluate": "bcl.evaluation.suite",
    "extract_features": "bcl.evaluation.features",
    "feature_signals": "bcl.evaluation.density",
    "fit_linear_probe": "bcl.evaluation.probe",
    "shot_groups": "bcl.evaluation.shots",
    "tail_discovery": "bcl.evaluation.tail",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
