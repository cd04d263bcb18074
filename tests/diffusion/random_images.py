"""Random images and repaints for tests."""

import numpy as np
from PIL import Image


def noise(rng, height, width, mode="L"):
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA").convert(mode)


def equal(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def random_repaint(rng):
    """An image of any mode and size, the same with other content under the mask, and the mask."""
    mode = ["L", "RGB", "RGBA", "LA", "I;16"][rng.integers(5)]
    height, width = (int(side) for side in rng.integers(8, 300 if rng.random() < 0.02 else 70, 2))
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    if rng.random() < 0.2:
        mask = ~mask if not mask.all() else mask
    if rng.random() < 0.2:
        mask |= rng.random((height, width)) < 0.02
    image = noise(rng, height, width, mode)
    pixels, other = np.array(image), np.array(noise(rng, height, width, mode))
    return image, Image.fromarray(np.where(mask.reshape(mask.shape + (1,) * (pixels.ndim - 2)), other, pixels)), mask
