"""The memory: a momentum loss and a score per sample, and their history on disk."""

from bcl.memorization.history import TrackerHistory as TrackerHistory
from bcl.memorization.scores import memorization_scores as memorization_scores
from bcl.memorization.tracker import MemorizationTracker as MemorizationTracker
from bcl.memorization.tracker import update_together as update_together
