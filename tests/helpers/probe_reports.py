"""Probe reports of made-up runs: of encoders that see more or less through noise."""

import copy
import functools
from dataclasses import replace

import torch
from fakes import QUICK, FakeData, encode

import bcl

__all__ = ["recorded", "replace", "strong_and_weak"]


def built_once(build):
    """Build for the first caller of a session; each caller gets a copy."""
    kept = functools.cache(build)
    return functools.wraps(build)(lambda *arguments: copy.deepcopy(kept(*arguments)))


def noisy(seed, strength):
    """An encoder with noise on its features."""

    def noisy_encode(images):
        x = encode(images)
        return x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    return noisy_encode


@built_once
def strong_and_weak():
    """Three seeds of two runs, the weaker first."""
    return [
        bcl.evaluate(
            noisy(seed, strength),
            FakeData(),
            "full,10-shot",
            QUICK,
            record={"name": name, "seed": seed},
        )
        for name, strength in (("weak_one", 0.35), ("strong|one", 0.1))
        for seed in range(3)
    ]


@built_once
def recorded(name, seed, strength):
    """A report with all that a page can show: history, tracker, images, configuration."""
    tracker = bcl.MemorizationTracker(128)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for epoch in range(4):
        tracker.update(torch.arange(128), 3 + torch.rand(128, generator=generator))
        tracker.refresh()
        bins = torch.histc(tracker.scores, 20, 0, 1).int().tolist()
        history.append(
            {
                "epoch": epoch, "loss": 3 - epoch / 4, "score_mean": 0.5, "score_histogram": bins,
                "online_linear/all": 0.2 + epoch / 10, "online_linear/few": 0.1,
                "online_knn/all": 0.3 if epoch else None, "online_linear/strange": 0.5,
                "features/effective_rank": 4.0 + epoch if epoch != 1 else None,
                "features/neighbors_kept": epoch / 4 if epoch else None,
            }
        )  # fmt: skip
    record = {
        "name": name, "seed": seed, "history": history, "config": {"x": "</script>"},
        "versions": {"torch": "2"}, "wall_seconds": 1.0, "commit": "abc", "hardware": "cpu",
    }  # fmt: skip
    return bcl.evaluate(
        noisy(seed, strength),
        FakeData(),
        protocols="full,10-shot,knn",
        record=record,
        tracker=tracker,
        earlier_scores=torch.rand(128, generator=generator),
    )
