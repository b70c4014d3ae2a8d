"""Contrastive losses with one value per sample, exact across ranks."""

from bcl.losses.nt_xent import NTXentLoss as NTXentLoss
from bcl.losses.nt_xent import nt_xent as nt_xent
from bcl.losses.signals import Signals as Signals
from bcl.losses.signals import contrastive_signals as contrastive_signals
