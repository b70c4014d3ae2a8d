"""Random features, and what a call allocates."""

import torch


def features(views=3, batch=6, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(views, batch, dim, generator=generator, dtype=torch.float64)
    return z + torch.randn(batch, dim, generator=generator, dtype=torch.float64)


def pair(batch=7, dim=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    views[1] += views[0]
    return (3 * views[0]).to(dtype), (0.5 * views[1]).to(dtype)


def largest_allocation(call):
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    return max(event.self_cpu_memory_usage for event in profile.events())


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def check_features():
    """Two views of four samples, of which published formulas were evaluated independently."""
    i = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    return unit((1 + i).sin()), unit((1 + i).sin() + 0.5 * (2 * i).cos())
