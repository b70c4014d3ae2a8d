"""Linear probes: exact, by gradient, by ridge regression."""

from bcl.evaluation.probe.linear import ProbeResult as ProbeResult
from bcl.evaluation.probe.linear import fit_linear_probe as fit_linear_probe
