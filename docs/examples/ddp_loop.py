"""A loop on several ranks; here two processes of one machine, without a GPU.

torchrun --nproc_per_node 2 ddp_loop.py
"""

# --8<-- [start:loop]
import gc
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from bcl import BoostedRandAugment, ContrastiveViews, MemorizationTracker, NTXentLoss


def main():
    """Train on this rank; torchrun starts it on all of them."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(0)  # the same images and first weights on every rank
    images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)
    network = DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 64)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    dataset = TensorDataset(images, torch.arange(len(images)))
    sampler = DistributedSampler(dataset, drop_last=True)
    loader = DataLoader(dataset, batch_size=32, sampler=sampler, drop_last=True)  # 32 of each rank
    views = ContrastiveViews(32, boost=BoostedRandAugment())
    loss_of = NTXentLoss(temperature=0.2, reduction="none")
    tracker = MemorizationTracker(num_samples=len(images))

    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch, ids in loader:
            x = views(batch, scores=tracker.scores[ids], ids=ids, epoch=epoch)
            z = network(x.flatten(0, 1)).view(2, len(ids), -1)
            losses = loss_of(z)  # (32,) of this rank, against the samples of all
            losses.mean().backward()  # DDP averages the gradients
            optimizer.step()
            optimizer.zero_grad()
            tracker.update(ids, losses)  # gathers: the tracker is the same on every rank
        tracker.refresh()

    if dist.get_rank() == 0:  # the same everywhere, so one rank saves
        torch.save(
            {"tracker": tracker.state_dict(), "network": network.module.state_dict()}, "w.pt"
        )
    dist.barrier()  # no rank leaves while another still works
    del network  # it holds the process group, whose threads must end before Python does
    gc.collect()
    dist.destroy_process_group()
    return tracker


# --8<-- [end:loop]


if __name__ == "__main__":
    if "RANK" not in os.environ:  # a run without torchrun is one of a single rank
        defaults = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ |= defaults
    assert main().seen.all()
