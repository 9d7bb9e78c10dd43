"""A folder of small pictures whose classes are easy to tell, and answers about them."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12
NAMES = ("dark", "light", "striped")


def picture(name, number):
    """Draw one picture of a class; no two are alike."""
    noise = np.random.default_rng([NAMES.index(name), number]).integers(0, 60, (SIDE, SIDE, 3))
    base = {"dark": 20, "light": 190, "striped": 20}[name]
    pixels = base + noise
    if name == "striped":
        pixels[::2] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def fill(folder, name, numbers):
    """Put pictures of a class into a folder, under names that tell nothing; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in numbers:
        path = folder / f"p{NAMES.index(name)}-{number:03d}.png"
        picture(name, number).save(path)
        paths.append(path)
    return paths


def make(root, each=12, names=NAMES, inside="unlabelled"):
    """Make a folder of pictures without labels."""
    for name in names:
        fill(Path(root) / inside, name, range(each))
    return Path(root)


def truth(path):
    """Return the class of a picture by its path."""
    return NAMES[int(Path(path).name[1])]


def options(root, **changes):
    """Return options of a folder in which asking takes a second."""
    base = {
        "dataset": f"folder:{root}",
        "model": "tiny_learner:build",
        "method": "3sp",
        "device": "cpu",
        "precision": "fp32",
        "image_size": SIDE,
        "query_size": 6,
        "budget": 30.0,
        "initial_epochs": 30.0,
        "epochs": 10.0,
        "batch_size": 8,
        "pad": 1,
    }
    options = base | changes
    if options["method"] != "snip":  # which has no use for it
        options.setdefault("min_channels", 2)
    return options
