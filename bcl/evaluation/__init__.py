"""Linear probes, nearest neighbours, representation measures and reports."""

from typing import TYPE_CHECKING

from bcl._lazy import lazy_names

if TYPE_CHECKING:
    from bcl.evaluation.linear import ProbeResult as ProbeResult
    from bcl.evaluation.linear import fit_linear_probe as fit_linear_probe
    from bcl.evaluation.report import render_report as render_report
    from bcl.evaluation.results import ProbeReport as ProbeReport
    from bcl.evaluation.suite import evaluate as evaluate
    from bcl.evaluation.text import text_table as text_table
    from bcl.features import extract_features as extract_features

_HOMES = {
    "ProbeReport": "bcl.evaluation.results",
    "ProbeResult": "bcl.evaluation.linear",
    "evaluate": "bcl.evaluation.suite",
    "extract_features": "bcl.features",
    "fit_linear_probe": "bcl.evaluation.linear",
    "render_report": "bcl.evaluation.report",
    "text_table": "bcl.evaluation.text",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
