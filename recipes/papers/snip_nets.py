"""SNIP on larger networks: parameters and errors before and after (SNIP, tables 2 and 4).

    python recipes/papers/snip_nets.py --counts
    python recipes/papers/snip_nets.py --cifar10 cifar10.npz --mnist mnist.npz \
        --epochs 160 --points 50000 --rows nets.jsonl
    python recipes/papers/snip_nets.py --cifar10 cifar10.npz --nets alexnet-s --points 2500
    python recipes/papers/snip_nets.py --mnist mnist.npz --nets gru-s lstm-s --sgd --epochs 10
    python recipes/papers/snip_nets.py --tiny-imagenet folder:tiny-imagenet --epochs 100 \
        --points 100000 --nets alexnet-s-tiny vgg-like-tiny

Weights are scored on one batch (128 images of CIFAR-10, 100 of MNIST) and masked before training.
Images of CIFAR-10 are trained on by SGD with Nesterov momentum 0.9, weight decay 5e-4, batches of
128 and 4-pixel crops and mirror images; MNIST is read row by row and trained on by Adam at 0.001
in batches of 100, as in `snip_inits.py`, or with `--sgd` as CIFAR-10 is, but in batches of 100 and
as the images are. All are drawn by VS-X (Glorot). `--counts` prints the parameters alone, which
needs no data. `--rows` records each result, so that a run that was cut off resumes.

The networks named `-tiny` are table 4's, for Tiny-ImageNet: 64 pixels and a first convolution of
twice the stride. Their printed parameters are those of 10 classes; 200 have up to 0.4 million more.
The data set comes with its validation images in one folder: sort them by class first.

Measured: the parameters of all twelve, which are the paper's to within 0.3%, but for WRN-16-8's
10.0m (10,954,170 here; the paper's own 548k at 95% needs 11.0m); recipes/papers/README.md has them.
The errors, seed 0, one core: by SGD on 54,000 images LSTM-s 0.86 -> 1.96% after 10 epochs and
0.86 -> 1.52% after 40, GRU-s 0.75 -> 3.83% after 10; by Adam after 2 epochs LSTM-s 1.99 -> 7.12%,
LSTM-b 1.53 -> 3.95%, GRU-s 2.04 -> 26.3%; AlexNet-s, --points 5000 --epochs 8 --lr 0.02: 52.1 ->
53.8%. The others on CIFAR-10 take days on a CPU and were not measured.
"""

import argparse
import statistics
import time
import warnings
from functools import partial

import torch
from snip_inits import adam, test_error
from snip_lenet import Rows, random_batch
from torch import nn

from alprune.data import Splits, load
from alprune.models import INITS, build
from alprune.pruning import prune
from alprune.pruning.unstructured.masks import maskable_weights
from alprune.training import FitSettings, Learner

CIFAR10, MNIST, TINY = "CIFAR-10", "MNIST", "Tiny-ImageNet"
# Data, share masked, the paper's parameters before and after, its errors before and after.
NETS = {
    "alexnet-s": (CIFAR10, 0.90, "5.1m", "507k", 14.12, 14.99),
    "alexnet-b": (CIFAR10, 0.90, "8.5m", "849k", 13.92, 14.50),
    "vgg-c": (CIFAR10, 0.95, "10.5m", "526k", 6.82, 7.27),
    "vgg-d": (CIFAR10, 0.95, "15.2m", "762k", 6.76, 7.09),
    "vgg-like": (CIFAR10, 0.97, "15.0m", "449k", 8.26, 8.00),
    "wrn-16-8": (CIFAR10, 0.95, "10.0m", "548k", 6.21, 6.63),
    "wrn-16-10": (CIFAR10, 0.95, "17.1m", "856k", 5.91, 6.43),
    "wrn-22-8": (CIFAR10, 0.95, "17.2m", "858k", 6.14, 5.85),
    "lstm-s": (MNIST, 0.95, "137k", "6.8k", 1.88, 1.57),
    "lstm-b": (MNIST, 0.95, "535k", "26.8k", 1.15, 1.35),
    "gru-s": (MNIST, 0.95, "104k", "5.2k", 1.87, 2.41),
    "gru-b": (MNIST, 0.95, "404k", "20.2k", 1.71, 1.52),
    "alexnet-s-tiny": (TINY, 0.90, "5.1m", "507k", 62.52, 65.27),
    "alexnet-b-tiny": (TINY, 0.90, "8.5m", "849k", 62.76, 65.54),
    "vgg-c-tiny": (TINY, 0.95, "10.5m", "526k", 56.49, 57.48),
    "vgg-d-tiny": (TINY, 0.95, "15.2m", "762k", 56.85, 57.00),
    "vgg-like-tiny": (TINY, 0.95, "15.0m", "749k", 54.86, 55.73),
}
TABLE2 = [name for name, (data, *_) in NETS.items() if data != TINY]


def network(name: str, classes: int, shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Build a network of `NETS`; AlexNet knows the stride for 64 pixels by itself."""
    if name.startswith("vgg") and name.endswith("-tiny"):
        name = "recipes.networks:" + name.replace("-", "_")
    return build(name.removesuffix("-tiny"), classes, shape, seed)


def counts(name: str) -> tuple[int, int]:
    """Return the weights and biases that train, BatchNorm's left out, and the paper's share."""
    shape = {MNIST: (1, 28, 28), CIFAR10: (3, 32, 32), TINY: (3, 64, 64)}[NETS[name][0]]
    model = network(name, 10, shape)
    norms = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters()
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) - norms
    weights = sum(weight.numel() for weight in maskable_weights(model).values())
    return trained, weights


def error_of(
    splits: Splits,
    name: str,
    sparsity: float,
    points: int,
    epochs: float,
    lr: float,
    seed: int,
    sgd: bool = False,
) -> float:
    """Mask a fresh network, train it on random points and return its test error in percent."""
    train, generator = splits.train, torch.Generator().manual_seed(seed)
    data, size = NETS[name][0], 100 if NETS[name][0] == MNIST else 128
    model = network(name, len(train.classes), train.image_shape, seed)
    INITS["vs-x"](model, generator)
    model = prune(
        model,
        "snip" if sparsity else "dense",
        batch=random_batch(train, size, seed),
        params_reduction=sparsity,
        generator=generator,
    ).model
    if data == MNIST and not sgd:
        adam(model, train, round(epochs * len(train) / 100), seed)
        return test_error(splits, model)
    as_it_is = {"flip": False, "pad": 0} if data == MNIST else {}
    settings = FitSettings(lr=lr, batch_size=size, warmup_batches=50, averaging=0.0, **as_it_is)
    learner = Learner(model, train, settings, torch.device("cpu"), torch.float32)
    chosen = torch.randperm(len(train), generator=generator)[:points]
    learner.fit(chosen, train.y[chosen], epochs, generator, progress=lambda done: done)
    return 100 * (1 - learner.evaluate(splits.test).accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--mnist", help="the same of MNIST")
    parser.add_argument("--tiny-imagenet", help="as for --dataset: folder:DIR or npz:FILE")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=TABLE2, metavar="NAME")
    parser.add_argument("--points", type=int, default=50_000, help="to train on, drawn at random")
    parser.add_argument("--epochs", type=float, default=160)
    parser.add_argument("--lr", type=float, default=0.1, help="of SGD")
    parser.add_argument("--sgd", action="store_true", help="for MNIST, too, in place of Adam")
    parser.add_argument("--size", type=int, default=32, help="of CIFAR-10's images, in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--rows", help="file of results so far, to go on with after an interruption"
    )
    parser.add_argument("--counts", action="store_true", help="count the parameters and end")
    parser.add_argument("--quick", action="store_true", help="one epoch of 256 points")
    asked = parser.parse_args()
    if asked.quick:
        asked.points, asked.epochs, asked.seeds = 256, 1, [0]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # emptied layers show in the error
    for name in asked.nets if asked.counts else ():
        data, sparsity, before, after, _, _ = NETS[name]
        trained, weights = counts(name)
        kept = weights - round(sparsity * weights)
        print(
            f"{name:14} {data:13} {sparsity:4.0%}  {trained:10,} ({before:>5})  {kept:8,} "
            f"weights left, {(1 - sparsity) * trained:9,.0f} by the paper's rule ({after:>5})"
        )
    if asked.counts:
        return
    sources = {
        CIFAR10: asked.cifar10 and f"npz:{asked.cifar10}",
        MNIST: asked.mnist and f"npz:{asked.mnist}",
        TINY: asked.tiny_imagenet,
    }
    results, loaded = Rows(asked.rows), {}
    for name in asked.nets:
        data, sparsity, _, _, *paper = NETS[name]
        if not sources[data]:
            parser.error(f"{name} is trained on {data}: give --{data.lower().replace('-', '')}.")
        if data not in loaded:
            side = {CIFAR10: (asked.size, asked.size), MNIST: None, TINY: (64, 64)}[data]
            loaded = {data: load(sources[data], size=side)}
        began, told = time.process_time(), []
        for share, expected in zip((0.0, sparsity), paper, strict=True):
            errors = []
            for seed in asked.seeds:
                settings = {"points": asked.points, "epochs": asked.epochs, "lr": asked.lr}
                if asked.sgd:
                    settings["sgd"] = True
                measure = partial(error_of, loaded[data], name, share, **settings, seed=seed)
                row = {"net": name, "sparsity": share, "size": asked.size, **settings, "seed": seed}
                errors.append(results.get(measure, **row))
            each = f" ({'  '.join(f'{error:.2f}' for error in errors)})" if errors[1:] else ""
            told.append(f"{statistics.mean(errors):.2f}{each} [{expected:.2f}]")
        spent_s = time.process_time() - began
        print(f"{name:10} {sparsity:4.0%}  {' -> '.join(told)}  {spent_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
