import torch

from bcl.discovery.selection import label_first


def by_loop(x, rarity, n, usable):
    """The rarest tenth, at least 5n, then the farthest from those chosen."""
    order = sorted((i for i in range(len(x)) if usable[i]), key=lambda i: -rarity[i])
    candidates = order[: max(round(0.1 * len(order)), 5 * n)]
    chosen = [candidates[0]]
    while len(chosen) < min(n, len(candidates)):
        left = [i for i in candidates if i not in chosen]
        far = [min(float(1 - torch.cosine_similarity(x[i], x[j], 0)) for j in chosen) for i in left]
        chosen.append(left[far.index(max(far))])
    return chosen


def test_choice_as_by_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    rarity = torch.rand(120, generator=generator)
    usable = torch.rand(120, generator=generator) > 0.2
    for n in (1, 7):
        assert label_first(x, rarity, n, usable).tolist() == by_loop(x, rarity.tolist(), n, usable)


def test_all_are_chosen_once_and_copies_last():
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    assert label_first(x, torch.tensor([4.0, 3, 2, 1]), 9).tolist() == [0, 3, 2, 1]
    none = torch.zeros(4, dtype=torch.bool)
    assert label_first(x, torch.ones(4), 2, none).tolist() == []
