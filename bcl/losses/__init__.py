"""Contrastive losses with one value per sample, exact across ranks."""

from bcl.losses.domain import DomainLoss as DomainLoss
from bcl.losses.harmonization import GeometricHarmonization as GeometricHarmonization
from bcl.losses.harmonization import simplex_etf as simplex_etf
from bcl.losses.harmonization import sinkhorn as sinkhorn
from bcl.losses.macl import MACLLoss as MACLLoss
from bcl.losses.macl import macl_loss as macl_loss
from bcl.losses.nt_xent import NTXentLoss as NTXentLoss
from bcl.losses.nt_xent import nt_xent as nt_xent
from bcl.losses.sharpness import sam_ascent as sam_ascent
from bcl.losses.sharpness import signal_weights as signal_weights
from bcl.losses.signals import Signals as Signals
from bcl.losses.signals import contrastive_signals as contrastive_signals
from bcl.losses.signals import expected_loss as expected_loss
from bcl.losses.sogclr import SogCLRLoss as SogCLRLoss
from bcl.losses.temperatures import CosineSchedule as CosineSchedule
from bcl.losses.temperatures import SimilarityTemperature as SimilarityTemperature
