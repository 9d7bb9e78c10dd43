"""Does it matter which channels stay, if each layer keeps as many?

    python recipes/papers/same_structure.py cifar10.npz --model resnet50 --before 10 --after 80

When to Prune, section 4.5. A dense network is trained for `--before` epochs, and half of its
channels are removed by their effect on the loss. From the same weights, the same number of channels
in each layer is kept at random (`--same` times), and networks of other structures are made by
scaling the scores of each group of channels with a random factor (`--other` times; log-normal; a
`--spread` of 3 gives ResNet-20 structures of similarity 0.8, as the paper's others have). All are
trained for `--after` epochs on the same batches. Prints the similarity of structures (equation 5)
and by how many points the test accuracies differ from the first's. The rate falls linearly to zero
in each of the two trainings; the paper's is one training with one schedule.
"""

import copy
import statistics

import torch
from epi_stability import parser_of
from snip_lenet import random_batch
from torch import Tensor, nn

from alprune.data import Splits, load
from alprune.models import INITS, build
from alprune.pruning import prune, trace
from alprune.pruning.criteria.base import ScoreOptions, channel_scores
from alprune.pruning.criteria.taylor import taylor
from alprune.pruning.epi.indicator import similarity
from alprune.pruning.graph.channels import ChannelGraph
from alprune.training import FitSettings, Learner


def shuffled(scores: Tensor, graph: ChannelGraph, generator: torch.Generator) -> Tensor:
    """Permute scores `(channels,)` within each group, so that each keeps as many channels."""
    found = scores.clone()
    for group in graph.groups:
        order = torch.randperm(len(group.channels), generator=generator)
        found[group.channels] = scores[group.channels[order]]
    return found


def rescaled(
    scores: Tensor, graph: ChannelGraph, generator: torch.Generator, spread: float
) -> Tensor:
    """Multiply the scores of each group by one random factor."""
    found = scores.clone()
    for group in graph.groups:
        found[group.channels] *= (spread * torch.randn((), generator=generator)).exp()
    return found


def trained(
    model: nn.Module, splits: Splits, chosen: Tensor, epochs: float, lr: float, seed: int
) -> tuple[nn.Module, float]:
    """Train a network; return it and its test accuracy in percent."""
    train, generator = splits.train, torch.Generator().manual_seed(seed)
    settings = FitSettings(lr=lr, batch_size=128, warmup_batches=50, averaging=0.0)
    learner = Learner(model, train, settings, torch.device("cpu"), torch.float32)
    learner.fit(chosen, train.y[chosen], epochs, generator, progress=lambda done: done)
    return learner.model, 100 * learner.evaluate(splits.test).accuracy


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--channels", type=float, default=0.5, help="share to remove")
    parser.add_argument("--before", type=float, default=10, help="epochs of the dense network")
    parser.add_argument("--after", type=float, default=80, help="epochs of each pruned one")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--same", type=int, default=10)
    parser.add_argument("--other", type=int, default=5)
    parser.add_argument("--spread", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = load(f"npz:{asked.data}", size=(asked.size, asked.size))
    train, generator = splits.train, torch.Generator().manual_seed(asked.seed)
    chosen = torch.randperm(len(train), generator=generator)[: asked.points]
    dense = build(asked.model, len(train.classes), train.image_shape, asked.seed)
    INITS["he"](dense, generator)
    dense, _ = trained(dense, splits, chosen, asked.before, asked.lr, asked.seed)
    batch = random_batch(train, 128, asked.seed)
    graph = trace(dense, batch[0][:2])
    scores = channel_scores(taylor, dense, graph, batch, ScoreOptions())

    def ended(scores: Tensor) -> tuple[Tensor, float]:
        """Return the widths and the test accuracy of the network that these scores leave."""
        pruned = prune(
            copy.deepcopy(dense),
            lambda model, graph, batch, options: scores,
            batch=batch,
            channels_reduction=asked.channels,
            min_channels=1,
            after="inherit",
        )
        widths = torch.tensor(list(pruned.widths.values()))
        return widths, trained(pruned.model, splits, chosen, asked.after, asked.lr, asked.seed)[1]

    first, best = ended(scores)
    print(f"{asked.model}, {asked.channels:.0%} of the channels removed: {best:.2f}%", flush=True)
    for title, count, change in (
        ("same structure", asked.same, lambda: shuffled(scores, graph, generator)),
        ("other structure", asked.other, lambda: rescaled(scores, graph, generator, asked.spread)),
    ):
        found = [ended(change()) for _ in range(count)]
        if not found:
            continue
        alike = statistics.mean(similarity(first, widths) for widths, _ in found)
        apart = [abs(accuracy - best) for _, accuracy in found]
        spread = f" ± {statistics.stdev(apart):.2f}" if count > 1 else ""
        print(
            f"{title:15} similarity {alike:.3f}  points apart {statistics.mean(apart):.2f}{spread}"
            f"  ({'  '.join(f'{accuracy:.2f}' for _, accuracy in found)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
