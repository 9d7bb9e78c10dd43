"""What is measured: a learner of each method, and bare loops of the same network as the limit."""

import copy
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alprune.acquisition import ACQUISITIONS, Evidence, acquire
from alprune.data import Splits
from alprune.errors import ConfigError
from alprune.loop.config import RunConfig
from alprune.loop.learner import fit_settings, prune_learner
from alprune.loop.pool import LabelPool
from alprune.loop.setup import complete, first_labels
from alprune.pruning import Pruned, find_method
from alprune.runs.bench.rounds import Work
from alprune.training import Learner
from alprune.training.budget import Budget
from alprune.training.device import autocast, pick_device, pick_precision

BATCHES = 4  # of a training turn
SCORED = 512  # candidates of a scoring turn
_CHUNKS = (32, 64, 128, 512)


@dataclass(frozen=True)
class Subject:
    """A learner whose speed is measured.

    Attributes:
        method: How it was pruned.
        pruned: What pruning did.
        learner: Ready to train.
        pool: The labels it may see.
    """

    method: str
    pruned: Pruned
    learner: Learner
    pool: LabelPool


def subject(config: RunConfig, splits: Splits, method: str) -> Subject:
    """Prune the learner of one method as a run would, by as much as its paper does.

    Raises:
        ConfigError: A method that prunes during training: there is no one network to measure.
    """
    if find_method(method).early:
        raise ConfigError(
            f"method {method!r} prunes during training, so it has no one speed. Take another."
        )
    published = find_method(method).reductions
    asked = {f"{quantity}_reduction": share for quantity, share in published.items()}
    paper = {"smoothing": 0.05, "channel_cost": "made", "method": method}
    config = complete(RunConfig.from_mapping(asdict(config) | asked | paper), new=False)
    device = pick_device(config.device)
    pool, first = first_labels(config, splits.train)
    pruned = prune_learner(config, splits.train, first, pool.label_of(first))
    learner = Learner(
        pruned.model,
        splits.train,
        fit_settings(config, splits.train),
        device,
        pick_precision(config.precision, device),
    )
    return Subject(method, pruned, learner, pool)


def fitting(it: Subject) -> Work:
    """Train through `Learner.fit`, with augmentation, deadline and averaged weights."""
    size, labelled = _batch_size(it), it.pool.labelled
    labels = it.pool.label_of(labelled)
    generator = torch.Generator(it.learner.device).manual_seed(0)
    budget = Budget(1e9)
    epochs = BATCHES * size / labelled.numel()

    def work() -> int:
        report = it.learner.fit(labelled, labels, epochs, generator, budget)
        return report.batches * size

    return work


def bare_fitting(it: Subject) -> Work:
    """Train the same network on a batch that lies ready, and do nothing else."""
    learner = it.learner
    inputs, labels = _ready(it, _batch_size(it))
    model = copy.deepcopy(learner.model).train()
    settings = learner.settings
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=True,
        fused=True,
    )

    def work() -> int:
        for _ in range(BATCHES):
            with autocast(learner.device, learner.precision):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        _wait(learner.device)
        return BATCHES * len(inputs)

    return work


def scoring(it: Subject) -> Work:
    """Score candidates as a step does: from stored images to the points with the most entropy."""
    labelled, candidates = it.pool.labelled, it.pool.unlabelled[:SCORED]
    generator = torch.Generator().manual_seed(0)

    def work() -> int:
        evidence = Evidence(
            it.learner,
            candidates,
            labelled,
            it.pool.label_of(labelled),
            it.pool.classes,
            Budget(1e9),
        )
        acquire(ACQUISITIONS["entropy"], evidence, 50, generator)
        return candidates.numel()

    return work


def bare_scoring(it: Subject) -> Work:
    """Run the folded network over inputs that lie ready, in the chunks that suit it best."""
    learner = it.learner
    inputs, _ = _ready(it, SCORED)
    network = learner.network

    def run(chunk: int) -> int:
        with torch.inference_mode(), autocast(learner.device, learner.precision):
            for begin in range(0, len(inputs), chunk):
                network(inputs[begin : begin + chunk])
        _wait(learner.device)
        return len(inputs)

    times = {}
    for chunk in _CHUNKS:
        begin = time.perf_counter()
        run(chunk)
        times[chunk] = time.perf_counter() - begin
    best = min(_CHUNKS, key=times.__getitem__)
    return lambda: run(best)


def one_image(it: Subject, folded: bool) -> Work:
    """Classify single images, with BatchNorm folded or with the network as it is."""
    learner = it.learner
    image, _ = _ready(it, 1)
    network = learner.network if folded else copy.deepcopy(learner.averaged).eval()

    def work() -> int:
        with torch.inference_mode(), autocast(learner.device, learner.precision):
            for _ in range(10):
                network(image)
        _wait(learner.device)
        return 10

    return work


def _batch_size(it: Subject) -> int:
    return min(it.learner.settings.batch_size, it.pool.labelled_count)


def _ready(it: Subject, count: int) -> tuple[Tensor, Tensor]:
    """Return augmented inputs and labels of `count` points, on the device."""
    learner = it.learner
    rows = torch.arange(count, device=learner.device) % len(learner.x)
    labels = (rows % it.pool.classes).to(learner.device)
    generator = torch.Generator(learner.device).manual_seed(0)
    return learner.augment(learner.x.index_select(0, rows), generator), labels


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
