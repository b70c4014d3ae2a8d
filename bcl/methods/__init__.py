"""Lightning modules: an encoder, a projector, views, a per-sample loss and a memory, composed."""

from bcl.methods.boosted import BCL as BCL
from bcl.methods.schedule import warmup_cosine as warmup_cosine
from bcl.methods.sdclr import SDCLR as SDCLR
from bcl.methods.simclr import SimCLR as SimCLR
