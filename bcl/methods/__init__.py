"""Lightning modules: an encoder, a projector, views, a per-sample loss and a memory, composed."""

from bcl.methods.boosted import BCL as BCL
from bcl.methods.optimizers import OptimizerSettings as OptimizerSettings
from bcl.methods.pruned import Pruned as Pruned
from bcl.methods.schedule import ScheduleSettings as ScheduleSettings
from bcl.methods.schedule import warmup_cosine as warmup_cosine
from bcl.methods.sdclr import SDCLR as SDCLR
from bcl.methods.settings import EncoderSettings as EncoderSettings
from bcl.methods.settings import MemorySettings as MemorySettings
from bcl.methods.settings import ProjectorSettings as ProjectorSettings
from bcl.methods.sharpness import SharpnessSettings as SharpnessSettings
from bcl.methods.simclr import SampleLosses as SampleLosses
from bcl.methods.simclr import SimCLR as SimCLR
