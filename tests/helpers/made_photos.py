"""A folder of small photos of two classes, which a tiny learner tells apart."""

import numpy as np
from PIL import Image

CLASSES = ("blue", "red")


def write_photo(path, name, seed, side=24):
    draws = np.random.default_rng(seed)
    pixels = draws.integers(0, 90, (side, side, 3), dtype=np.uint8)
    pixels[..., 2 if name == "blue" else 0] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_photos(root, train=30, test=10):
    """Write `root/train/<class>/...` and `root/test/<class>/...`; return `root`."""
    for part, count in (("train", train), ("test", test)):
        for offset, name in enumerate(CLASSES):
            for number in range(count):
                seed = (part == "test") * 10_000 + offset * 1000 + number
                write_photo(root / part / name / f"{number:03}.png", name, seed)
    return root
