"""A loop with a DataLoader, ids, pretrained statistics, mixed precision, and a resume."""

# --8<-- [start:data]
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class WithIds(Dataset):
    """Images as uint8 tensors of one size, each with its position in the training set."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], i  # (3, H, W) uint8: views are made later, from the whole batch


images = torch.randint(0, 256, (200, 3, 40, 40), dtype=torch.uint8)  # your images
loader = DataLoader(WithIds(images), batch_size=64, shuffle=True, drop_last=True)
# --8<-- [end:data]

# --8<-- [start:parts]
from bcl import BoostedRandAugment, ContrastiveViews, MemorizationTracker, NTXentLoss

device = "cuda" if torch.cuda.is_available() else "cpu"
encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
network = nn.Sequential(encoder, nn.Linear(16, 64)).to(device)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

# With pretrained weights, the mean and std that they were trained with; these are ImageNet's.
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
views = ContrastiveViews(32, mean=mean, std=std, boost=BoostedRandAugment())
loss_of = NTXentLoss(temperature=0.2, reduction="none")
tracker = MemorizationTracker(num_samples=len(images)).to(device)
# --8<-- [end:parts]


# --8<-- [start:epoch]
def train(epoch):
    """One pass over all images."""
    for batch, ids in loader:
        batch, ids = batch.to(device), ids.to(device)
        x = views(batch, scores=tracker.scores[ids], ids=ids, epoch=epoch)  # (2, B, 3, 32, 32)
        with torch.autocast(device, torch.bfloat16):  # the network alone
            z = network(x.flatten(0, 1))
        losses = loss_of(z.float().view(2, len(ids), -1))  # (B,), in float32
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        tracker.update(ids, losses)
    tracker.refresh()


# --8<-- [end:epoch]


# --8<-- [start:resume]
def save(path, epoch):
    """Keep what a later process needs to go on."""
    parts = {"network": network, "optimizer": optimizer, "tracker": tracker}
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**state, "epoch": epoch}, path)


def resume(path):
    """Continue after the saved epoch; views are a function of (seed, epoch, id), so no more."""
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    tracker.load_state_dict(state["tracker"])
    return state["epoch"] + 1


for epoch in range(2):
    train(epoch)
    save("last.pt", epoch)
# --8<-- [end:resume]

scores = tracker.scores.clone()
train(2)
assert not torch.equal(tracker.scores, scores)
assert resume("last.pt") == 2
assert torch.equal(tracker.scores, scores)
