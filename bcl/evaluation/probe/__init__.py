"""Linear probes: exact, by gradient, by ridge regression."""

from bcl.evaluation.probe.linear import fit_linear_probe as fit_linear_probe
from bcl.evaluation.probe.options import ProbeOptions as ProbeOptions
from bcl.evaluation.probe.options import ProbeResult as ProbeResult
