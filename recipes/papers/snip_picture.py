"""Which pixels' weights SNIP keeps for each class (SNIP, figures 2, 5 and 6).

    python recipes/papers/snip_picture.py mnist.npz snip.png
    python recipes/papers/snip_picture.py mnist.npz inverted.png --invert
    python recipes/papers/snip_picture.py mnist.npz gradient.png --gradient

LeNet-300-100 is scored at He's initialisation on 100 images of one class; of the first layer's mask
the share of weights kept is averaged over the 300 hidden units and drawn as a 28x28 image. The
number beside the picture is Pearson's correlation of that map with the mean image of the class,
and of the other classes; "centred" when the average over the ten classes is taken off both first,
so that what all digits share does not count.

Measured (MNIST, seeds 0-2, 6 s on one core of an Intel Xeon with AVX-512):

    pruned   own  others   own, centred  others, centred   found
      10%   0.59    0.27           0.63            -0.07    100%
      30%   0.69    0.33           0.72            -0.08    100%
      50%   0.74    0.37           0.76            -0.08    100%
      70%   0.81    0.42           0.81            -0.09    100%
      90%   0.90    0.50           0.88            -0.10    100%

The picture shows the ten digits, bright on a grey ground that turns black towards 90%, each
readable at every sparsity, the 1 faintest at 10%; so the paper's finding holds. "Found": in all 30
maps a row the centred map correlates best with the class whose images scored it. Each digit has a
dark rim, presumably where pixels that are black in some images and bright in others cancel out.

`--invert` swaps dark and bright (figure 5; correlations are with the images as they were), and
`--gradient` keeps the weights of the largest |dL/dw| instead of the largest |w dL/dw| (figure 6).
What came out is in recipes/papers/README.md.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from snip_lenet import scoring_batch
from torch import Tensor, nn

from alprune.data import Dataset, load
from alprune.models import build
from alprune.pruning.criteria.base import Batch, gradients, loss_on, scoring_state
from alprune.pruning.unstructured.masks import scorable_weights, weight_masks
from alprune.pruning.unstructured.scores import snip

Score = Callable[[nn.Module, Batch], dict[str, Tensor]]
SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)


def gradient(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Score each weight by |dL/dw|, which the paper sets against SNIP's |w dL/dw|."""
    with scoring_state(model):
        found = gradients(loss_on(model, batch), scorable_weights(model))
    return {name: value.abs() for name, value in found.items()}


def kept_by_pixel(train: Dataset, label: int, seed: int, score: Score) -> Tensor:
    """Share of each pixel's weights kept, on 100 images of one class: `(sparsities, pixels)`."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.nonzero(train.y == label)[:, 0]
    chosen = own[torch.randperm(len(own), generator=generator)[:100]]
    model = build("lenet-300-100", len(train.classes), train.image_shape, seed)
    scores = score(model, scoring_batch(train, chosen))
    masks = [weight_masks(scores, sparsity)["fc1.weight"] for sparsity in SPARSITIES]
    return torch.stack([mask.double().mean(0) for mask in masks])


def class_means(train: Dataset) -> Tensor:
    """The mean image of each class, `(classes, pixels)`."""
    labels = range(len(train.classes))
    return torch.stack([train.x[train.y == k].double().mean(0).flatten() for k in labels])


def correlations(maps: Tensor, means: Tensor) -> Tensor:
    """Pearson's r of each map `(k, pixels)` with each mean `(k, pixels)`: `(k, k)`."""
    count = len(maps)
    return torch.corrcoef(torch.cat([maps, means]))[:count, count:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="MNIST as .npz: x_train, y_train, x_test, y_test")
    parser.add_argument("png", help="where to draw the maps: a row a sparsity, a column a class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--invert", action="store_true", help="swap dark and bright")
    parser.add_argument("--gradient", action="store_true", help="keep the largest gradients")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train = load(f"npz:{asked.data}").train
    labels = range(len(train.classes))
    means, score = class_means(train), gradient if asked.gradient else snip
    if asked.invert:
        train = replace(train, x=255 - train.x, mean=tuple(1 - m for m in train.mean))
    by_seed = [
        torch.stack([kept_by_pixel(train, label, seed, score) for label in labels], 1)
        for seed in asked.seeds
    ]  # (sparsities, classes, pixels) each
    print(f"seeds {asked.seeds}; r of a class's map with its mean image, with other classes' mean")
    print("images, the same after taking the average over classes from both; classes found by it")
    print("pruned   own  others   own, centred  others, centred   found")
    for row, sparsity in enumerate(SPARSITIES):
        raw = torch.stack([correlations(maps[row], means) for maps in by_seed])
        centred = torch.stack(
            [correlations(maps[row] - maps[row].mean(0), means - means.mean(0)) for maps in by_seed]
        )
        own = torch.eye(len(train.classes), dtype=torch.bool)
        found = (centred.argmax(2) == torch.tensor(labels)).double().mean()
        print(
            f"{sparsity:5.0%}  {raw[:, own].mean():5.2f} {raw[:, ~own].mean():7.2f} "
            f"{centred[:, own].mean():14.2f} {centred[:, ~own].mean():16.2f} {found:7.0%}"
        )
    draw(by_seed[0].unflatten(2, train.image_shape[1:]), asked.png)


def draw(maps: Tensor, path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(maps.shape[1], maps.shape[0]), layout="constrained")
    for axes, image in zip(figure.subplots(*maps.shape[:2]).flat, maps.flatten(0, 1), strict=True):
        axes.imshow(image, cmap="gray")
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
