"""Augmentation of a whole batch on its device, with a strength per sample."""

from bcl.augment.boost import SCHEMES as SCHEMES
from bcl.augment.boost import BoostedRandAugment as BoostedRandAugment
from bcl.augment.grid import op_grid as op_grid
from bcl.augment.grid import score_grid as score_grid
from bcl.augment.grid import tile as tile
from bcl.augment.params import BoostParams as BoostParams
from bcl.augment.params import ViewParams as ViewParams
from bcl.augment.policy import OPS as OPS
from bcl.augment.policy import POLICIES as POLICIES
from bcl.augment.sampling import ChainSettings as ChainSettings
from bcl.augment.views import ContrastiveViews as ContrastiveViews
from bcl.augment.workers import ImageViews as ImageViews
