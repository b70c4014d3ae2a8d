"""A made-up data set and method, with the interface of real ones; for test processes too."""

import torch

from bcl.evaluation import EvaluationOptions

QUICK = EvaluationOptions(measures=False)


class FakeSet:
    def __init__(self, labels, seed, size=8):
        self.labels = labels
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, 90, (labels.numel(), 3, size, size), generator=generator)
        base = (labels * 53 % 160)[:, None, None, None]
        self.pixels = (noise + base).clamp(0, 255).to(torch.uint8)
        self.content_hash = f"hash-{seed}-{labels.numel()}"

    def __len__(self):
        return self.pixels.shape[0]

    def images(self, indices):
        return self.pixels[indices]

    def batches(self, batch_size, device):
        for ids in torch.arange(len(self)).split(batch_size):
            yield {"image": self.pixels[ids].to(device), "id": ids, "label": self.labels[ids]}


class FakeData:
    num_classes = 6
    image_size = 8
    recipe = "fake, 6 classes"
    content_hash = "fake"

    def __init__(self, counts=(60, 30, 20, 10, 5, 3), test=120):
        self.class_counts = torch.tensor(counts)
        self.class_names = [f"class <{index}>" for index in range(6)]
        self._train = FakeSet(torch.repeat_interleave(torch.arange(6), self.class_counts), 1)
        self._probe = FakeSet(torch.arange(240) % 6, 2)
        self._test = FakeSet(torch.arange(test) % 6, 3)

    def train_set(self):
        return self._train

    def probe_set(self):
        return self._probe

    def test_set(self):
        return self._test

    def few_shot(self, shots, draw):
        if isinstance(shots, float):
            shots = max(1, round(shots * 40))
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(240, generator=generator)
        return torch.cat([order[order % 6 == c][:shots] for c in range(6)])


class FakeMethod(torch.nn.Module):
    """What the evaluation needs of a method: an encoder, a projector and ``encode``."""

    def __init__(self, encoder, projector=None):
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, images):
        return self.encoder(images.float() / 255)

    def encode(self, images):
        with torch.no_grad():
            return self.eval()(images)


def encode(images):
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :, 0, :3].flatten(1)], 1)
