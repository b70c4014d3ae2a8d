"""Networks and files as the released code of the papers names and saves them."""

import torch
import torchvision
from torch import nn

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def worn(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return module.eval()


def resnet(layers=(1, 1, 1, 1), small=True, block=torchvision.models.resnet.BasicBlock, seed=0):
    """torchvision's network, with the stem that the released code puts in for small images."""
    torch.manual_seed(seed)
    model = torchvision.models.ResNet(block, list(layers))
    if small:
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return worn(model, seed)


class Head(nn.Module):
    def __init__(self, width, layers=2):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, width), nn.BatchNorm1d(width)
        out = 128 if layers == 2 else width
        self.fc2, self.bn2 = nn.Linear(width, out, bias=False), nn.BatchNorm1d(out)
        if layers == 3:
            self.fc3, self.bn3 = nn.Linear(width, 128, bias=False), nn.BatchNorm1d(128)

    def forward(self, x):
        return self.bn2(self.fc2(torch.relu(self.bn1(self.fc1(x)))))


def save(path, state, wrapped=False, **more):
    if wrapped:
        state = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": state, **more} if more else state, path)
    return path


def simclr_state(network, head, backbone="backbone.", top="projector."):
    state = {backbone + name: value for name, value in network.state_dict().items()}
    state |= {f"{backbone}normalize.mean": MEAN, f"{backbone}normalize.std": STD}
    return {**state, **{top + name: value for name, value in head.state_dict().items()}}
