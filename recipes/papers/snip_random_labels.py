"""What a network pruned by SNIP memorises of random labels (SNIP, figures 4 and 7).

    python recipes/papers/snip_random_labels.py mnist.npz

LeNet-300-100, dense and with 90% and 99% of its weights masked, on 10,000 images of MNIST with
their true labels or with the same labels shuffled; scores always use true labels. 40 epochs of SGD
with Nesterov momentum 0.9 and batches of 100, rate 0.05 falling to zero, no weight decay. (The
paper trains LeNet-5-Caffe on MNIST whole and draws curves; `--model` names another network.)

Measured (MNIST, seeds 0 and 1, about 2 minutes on one core of an Intel Xeon with AVX-512):

    labels   masked   accuracy on the training images   mean loss of the last 4 epochs
    true        0%    100.0% (100.0% 100.0%)                 0.000
    true       90%    100.0% (100.0% 100.0%)                 0.001
    true       99%     95.3%  (95.6%  95.0%)                 0.162
    random      0%     96.8%  (96.9%  96.7%)                 0.149
    random     90%     74.6%  (77.5%  71.6%)                 0.920
    random     99%     18.2%  (19.2%  17.3%)                 2.225  (chance: 2.303)

So the paper's claim holds at 99%: the dense network learns shuffled labels nearly by heart, the
sparse one hardly at all, while it learns the true ones. As in the paper's figure 7, the less is
masked the more is memorised; at 90% most of it is. At 99% the true labels aren't fitted to zero
loss as LeNet-5-Caffe's are in the paper: 2,662 weights of this network are left, not 4,305.
"""

import argparse

import torch
from snip_lenet import random_batch
from torch import Tensor

from alprune.data import Dataset, load
from alprune.models import build
from alprune.pruning import prune
from alprune.training import FitSettings, Learner

SETTINGS = FitSettings(
    lr=0.05, batch_size=100, warmup_batches=100, weight_decay=0.0, averaging=0.0, pad=0, flip=False
)


def accuracy(learner: Learner, indices: Tensor, labels: Tensor) -> float:
    right = sum(
        (logits.argmax(1) == labels[part]).sum().item()
        for part, logits in learner.predict(learner.x, indices)
    )
    return right / len(labels)


def fit(
    train: Dataset, name: str, sparsity: float, shuffled: bool, images: int, epochs: int, seed: int
) -> tuple[list[float], float]:
    """Train on `images` random images; return the loss at each tenth and the final accuracy.

    Scores use the true labels, as in the paper. The loss is the mean over that tenth.
    """
    generator = torch.Generator().manual_seed(seed)
    model = build(name, len(train.classes), train.image_shape, seed)
    batch = random_batch(train, 100, seed)
    method = "snip" if sparsity else "dense"
    model = prune(model, method, batch=batch, params_reduction=sparsity).model
    indices = torch.randperm(len(train), generator=generator)[:images]
    labels = train.y[indices]
    if shuffled:
        labels = labels[torch.randperm(images, generator=generator)]
    learner = Learner(model, train, SETTINGS, torch.device("cpu"), torch.float32)
    losses = [
        learner.fit(
            indices,
            labels,
            epochs / 10,
            generator,
            progress=lambda done, tenth=tenth: (tenth + done) / 10,
        ).loss
        for tenth in range(10)
    ]
    return losses, accuracy(learner, indices, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="MNIST as .npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--model", default="lenet-300-100", help="the paper's: lenet-5-caffe")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.0, 0.9, 0.99])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train = load(f"npz:{asked.data}").train
    print(f"{asked.model}, {asked.images} images, {asked.epochs} epochs, seeds {asked.seeds}")
    print("labels   sparsity   accuracy on the training images   loss by tenths of the training")
    for shuffled in (False, True):
        for sparsity in asked.sparsities:
            runs = [
                fit(train, asked.model, sparsity, shuffled, asked.images, asked.epochs, seed)
                for seed in asked.seeds
            ]
            losses = torch.tensor([losses for losses, _ in runs]).mean(0).tolist()
            mean = sum(right for _, right in runs) / len(runs)
            each = " ".join(f"{right:.1%}" for _, right in runs)
            print(
                f"{'random' if shuffled else 'true':7} {sparsity:6.0%}  {mean:6.1%} ({each})  "
                + " ".join(f"{loss:.3f}" for loss in losses),
                flush=True,
            )


if __name__ == "__main__":
    main()
