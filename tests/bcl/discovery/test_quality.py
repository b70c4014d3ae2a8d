import math
from collections import Counter

import pytest
import torch

from bcl.discovery.quality import image_quality, quality_flags


def by_loop(image):
    """One image, pixel by pixel."""
    red, green, blue = (image[c].double() / 255 for c in range(3))
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    flat = sorted(gray.flatten().tolist())
    counts = Counter(min(int(32 * value), 31) for value in flat)
    shares = [count / len(flat) for count in counts.values()]
    edges = []
    for y in range(1, gray.shape[0] - 1):
        for x in range(1, gray.shape[1] - 1):
            around = gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1]
            edges.append(float(around - 4 * gray[y, x]))
    spread = torch.tensor(edges).double().var(correction=0) / gray.var(correction=0)
    return {
        "brightness": flat[round(0.95 * len(flat)) - 1],
        "entropy": -sum(p * math.log2(p) for p in shares),
        "sharpness": float(spread),
    }


def test_measures_as_by_loop():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 9, 7), generator=generator, dtype=torch.uint8)
    images[1] //= 8
    found = image_quality(images)
    for row, image in enumerate(images):
        for name, value in by_loop(image).items():
            assert found[name][row].item() == pytest.approx(value, abs=1e-4, rel=1e-4)


def test_noise_is_sharp_and_contrast_does_not_matter():
    noise = torch.rand(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    noise = (noise.expand(1, 3, -1, -1) * 255).to(torch.uint8)
    sharp = image_quality(torch.cat([noise, noise // 2 + 60]))["sharpness"]
    assert sharp.tolist() == pytest.approx([20, 20], rel=0.05)


def test_flags_tell_dark_blurred_and_empty_images_from_others():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images[1] //= 10  # dark
    images[2] = 200  # empty
    ramp = torch.linspace(0, 255, 32).to(torch.uint8)
    images[3] = ramp  # blurred
    flags = quality_flags(image_quality(images))
    assert {name: found.nonzero().flatten().tolist() for name, found in flags.items()} == {
        "dark": [1],
        "low_information": [1, 2],
        "blurred": [3],
    }
