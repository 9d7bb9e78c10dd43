"""A frozen learner made small: its backbone is pruned, then taught the full one's embeddings."""

import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from alprune.data import Dataset, Splits
from alprune.errors import ConfigError
from alprune.loop.config import RunConfig
from alprune.loop.frozen import embed_pool
from alprune.models.cost import cost
from alprune.pruning import Plan, prune, trace
from alprune.pruning.criteria.output_change import output_change
from alprune.pruning.reconstruct import reconstruct
from alprune.runs.export.evaluate import classes_of, known_test, share, temperature_of
from alprune.runs.export.resumable import BUDGET_S, Progress, key_of
from alprune.runs.export.run_images import config_of, images_of, labels_of
from alprune.runs.load import Learned
from alprune.training.augment import normalise
from alprune.training.classifier import Classifier
from alprune.training.device import pick_device
from alprune.training.distil import Distillation, DistilSettings
from alprune.training.embeddings import last_linear, split
from alprune.training.resize import Resize, seeing

FLOPS_REDUCTION = 0.5
STATE = ".small.state"  # of the teaching, in the run folder
_ASIDE, _ASIDE_SHARE = 500, 10  # images that are not learnt from: at most, and one in N
_SCORED, _FITTED, _BATCH = 128, 384, 32  # images to prune on, and to reconstruct layers on
_SIDES = 32  # what networks shrink images by before the end; a side is a multiple of it
_ROUND_TO = 0  # multiples that processors like, as wide as the layer allows
_MOST = 0.999  # of the FLOPs, removed: no network has that little


@dataclass(frozen=True)
class SmallOptions:
    """How a learner is made small.

    Attributes:
        flops_reduction: Share of the FLOPs to remove, by smaller images and by pruning together.
        budget_s: Seconds of teaching, at most.
        seed: Decides which images are set aside and in what order the others are shown.
        settings: Of the teaching.
        image_size: Side of the images that it sees, in pixels; None: see `_size`.
    """

    flops_reduction: float = FLOPS_REDUCTION
    budget_s: float = BUDGET_S
    seed: int = 0
    settings: DistilSettings = field(default_factory=DistilSettings)
    image_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.flops_reduction < 1:
            raise ConfigError(
                f"flops_reduction must be more than 0 and less than 1, got "
                f"{self.flops_reduction:g}: 0.5 removes half of the FLOPs."
            )
        if not self.budget_s > 0:
            raise ConfigError(f"budget_s must be more than 0, got {self.budget_s:g}.")


@dataclass(frozen=True)
class Shrunk:
    """What making a learner small came to.

    Attributes:
        macs_before: Multiply-accumulates of one image by the full network.
        macs_after: By the small one.
        size_before: `(h, w)` of the images that the full network sees.
        size_after: Of those that the small one sees.
        images: Images that it was taught on.
        passes: Over these images.
        compared: Images of the pool that were set aside before.
        agreement: Share of these to which both networks give the same class.
        tested: Labelled test images; 0 where there are none.
        accuracy_before: Of the full network on these; None without them.
        accuracy_after: Of the small one.
    """

    macs_before: int
    macs_after: int
    size_before: tuple[int, int]
    size_after: tuple[int, int]
    images: int
    passes: float
    compared: int
    agreement: float
    tested: int = 0
    accuracy_before: float | None = None
    accuracy_after: float | None = None


def shrink(path: Path, learned: Learned, options: SmallOptions) -> tuple[Learned, Shrunk]:
    """Prune a frozen learner's backbone and teach it what the full one makes of the pool.

    No label is needed, and the head stays. What was taught is kept in the run folder (`STATE`) for
    the next call with the same options, in case this one is interrupted or what follows fails.

    Args:
        path: The run folder.
        learned: The learner in it.
        options: How.

    Returns:
        The small learner, and what it came to.

    Raises:
        ConfigError: The learner is not frozen.
        DataError: Its images cannot be had, or are too few.
        PruneError: The cut cannot be reached.
        KeyboardInterrupt: Interrupted; the message says what is kept.
    """
    config = config_of(learned, "--small")
    splits = images_of(config, learned, "--small")
    train = splits.train
    device = pick_device(config.device)
    full = copy.deepcopy(learned.classifier.network).to(device).eval()
    body, head = split(full, torch.zeros(2, *train.image_shape, device=device))
    embeddings = _Embeddings(config, train)
    aside, rows = _rows(train, options.seed)
    macs = cost(full, torch.zeros(1, *train.image_shape, device=device)).macs
    left = (1 - options.flops_reduction) * macs
    size = _size(body, head, train, left, options)
    example = torch.zeros(1, train.image_shape[0], *size, device=device)
    here, of_head = cost(body, example).macs, head.in_features * head.out_features
    # What smaller images leave to remove has to come from the backbone: the head stays.
    cut = min(max(0.0, 1 - (left - of_head) / here), _MOST)
    small, plan = _pruned(body, train, rows, cut, options.seed, size)
    student = seeing(small, size)
    teaching = Distillation(
        student, train.x, rows, embeddings, *_scale(train, device), options.seed, options.settings
    )
    key = key_of(learned.classifier.network, plan.to_json(), size, train.digest, options)
    progress = Progress(path / STATE, key)
    progress.run("teaching", teaching, options.budget_s)
    name, _ = last_linear(full)
    small.set_submodule(name, copy.deepcopy(head))
    found = Shrunk(
        macs_before=macs,
        macs_after=cost(small, example).macs,
        size_before=train.image_shape[1:],
        size_after=size,
        images=len(rows),
        passes=round(teaching.done * teaching.size / len(rows), 2),
        compared=len(aside),
        agreement=share(classes_of(student, train, aside) == _heads(head, embeddings(aside))),
    )
    found = _tested(found, config, learned, student, head, splits)
    old, temperature = learned.classifier, learned.classifier.temperature
    if temperature is not None:
        known = labels_of(path, config, learned, splits)
        temperature = temperature_of(student, train, known, temperature)
    inputs = replace(old.inputs, image_shape=(train.image_shape[0], *size))
    made = replace(
        learned,
        classifier=Classifier(small.cpu(), inputs, temperature),
        plan=plan,
        state=f"{learned.state}, made small",
        config=replace(config, image_size=size[0]) if size != train.image_shape[1:] else config,
        details={**learned.details, "small": asdict(found)},
    )
    return made, found


def _size(
    body: nn.Module, head: nn.Linear, train: Dataset, left: float, options: SmallOptions
) -> tuple[int, int]:
    """Return the size of the images that the small network sees.

    Unless one is asked for, it is the smallest multiple of `_SIDES` pixels at which the network
    before pruning costs at least what is to be left (`left`, multiply-accumulates); images that are
    not square keep their size.

    Raises:
        ConfigError: The network does not take images of the size that is asked for.
    """
    channels, h, w = train.image_shape
    device = head.weight.device

    def fits(side: int) -> bool:
        try:
            with torch.inference_mode():
                embedded = body(torch.zeros(2, channels, side, side, device=device))
            return tuple(embedded.shape) == (2, head.in_features)
        except (RuntimeError, AssertionError, ValueError):  # what a forward says of a size
            return False

    if options.image_size is not None:
        if h != w or options.image_size > h or not fits(options.image_size):
            raise ConfigError(
                f"the network cannot be made small by images of {options.image_size} pixels: it "
                f"takes square ones up to the learner's {h} x {w}, and not every size. Leave "
                "--image-size out."
            )
        return options.image_size, options.image_size
    if h == w and train.x.dtype == torch.uint8:
        for side in range(_SIDES, h, _SIDES):
            example = torch.zeros(1, channels, side, side, device=device)
            if fits(side) and cost(body, example).macs >= left:
                return side, side
    return h, w


class _Embeddings:
    """What the full network makes of the pool, by row; what was not embedded yet is now."""

    def __init__(self, config: RunConfig, images: Dataset) -> None:
        self._table = embed_pool(config, images)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return embeddings `(k, d)` float16."""
        return torch.from_numpy(self._table.of(rows.numpy()))


def _rows(train: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Return the images to compare the networks on, and those to learn from."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    aside, rows = order.tensor_split([min(_ASIDE, len(train) // _ASIDE_SHARE)])
    return aside.sort().values, rows


def _scale(train: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(train.mean, device=device), torch.tensor(train.std, device=device)


def _pruned(
    body: nn.Module,
    train: Dataset,
    rows: Tensor,
    flops_reduction: float,
    seed: int,
    size: tuple[int, int],
) -> tuple[nn.Module, Plan]:
    """Cut the backbone and refit what is left; its embeddings keep all their dimensions."""
    device = next(body.parameters()).device
    some, resize = rows[:_FITTED], Resize(size)
    batches = [
        resize(normalise(train.x.index_select(0, part).to(device), *_scale(train, device)))
        for part in some.split(_BATCH)
    ]
    scored = [part for part in batches[: _SCORED // _BATCH] if len(part) > 1]
    unused = torch.zeros(_BATCH, dtype=torch.int64, device=device)  # labels
    pruned = prune(
        body,
        output_change,
        batch=[(images, unused[: len(images)]) for images in scored],
        flops_reduction=flops_reduction,
        round_to=_ROUND_TO,
        min_channels=0,
        generator=torch.Generator().manual_seed(seed),
    )
    graph = trace(body, batches[0][:2])
    keep = pruned.plan.keep(graph)
    kept = {name: graph.kept(ids, keep) for name, ids in graph.makers.items()}
    small = pruned.model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reconstruct(small, body, kept, batches)
    return small.requires_grad_(True), pruned.plan


def _heads(head: nn.Module, embeddings: Tensor) -> Tensor:
    with torch.inference_mode():
        device = next(head.parameters()).device
        return torch.cat(
            [head(p.to(device).float()).argmax(1).cpu() for p in embeddings.split(4096)]
        )


def _tested(
    found: Shrunk,
    config: RunConfig,
    learned: Learned,
    small: nn.Module,
    head: nn.Module,
    splits: Splits,
) -> Shrunk:
    """Add the accuracy on test images, if there are some whose class the learner knows."""
    rows, truth = known_test(splits.test, learned.classifier.classes)
    if not len(rows):
        return found
    before = _heads(head, _Embeddings(config, splits.test)(rows))
    after = classes_of(small, splits.test, rows)
    return replace(
        found,
        tested=len(rows),
        accuracy_before=share(before == truth),
        accuracy_after=share(after == truth),
    )
