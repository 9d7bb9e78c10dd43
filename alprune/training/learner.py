"""Fit under a deadline with a warm start, predict in a stream, evaluate."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.data import Dataset
from alprune.errors import TrainError
from alprune.models.copies import copy_network
from alprune.models.init import forked_rng
from alprune.models.memory import out_of_memory
from alprune.pruning.epi import EarlyPruner
from alprune.pruning.graph.rebase import narrow_optimiser
from alprune.pruning.graph.surgery import narrow
from alprune.training.augment import Augment, normalise
from alprune.training.batch_statistics import estimate_statistics, updated_norms, young_batches
from alprune.training.budget import Budget
from alprune.training.cuda_graphs import Recordings, hooked, recorder
from alprune.training.device import autocast, gpu_index, scaler_for
from alprune.training.distributed import ALONE, Team
from alprune.training.fold_batchnorm import Folded, fold
from alprune.training.metrics import Metrics, measure
from alprune.training.optimiser import floats, follow, new_optimiser
from alprune.training.predict import BudgetSpent, Pace, Predictor, good_chunk, moved
from alprune.training.settings import SCHEDULES, Diverged, FitReport, FitSettings
from alprune.training.state import learner_state, restore_learner

_STATISTICS_IMAGES = 128  # that a young network's statistics are computed from


class Learner:
    """A network with its optimiser and averaged weights, over one training set on its device.

    Args:
        model: Pruned or dense network; moved to `device`, in channels-last memory format.
        train: The training set; its images are moved to the device whole, except those that are
            decoded when they are needed. Its labels are not read.
        settings: How to train.
        device: Where to compute.
        precision: Type of the matrix products, float32, bfloat16 or float16.
        early: Prunes the network while it is trained; None for a network that stays.
        team: The processes that train it together, each with its own copy.
        graphs: On a GPU, record training and scoring steps as CUDA graphs; those of a network
            that is pruned during training, or trained by several processes, are not.

    Attributes:
        lr: Peak learning rate; that of the settings, until someone lowers it.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Dataset,
        settings: FitSettings,
        device: torch.device,
        precision: torch.dtype,
        early: EarlyPruner | None = None,
        team: Team = ALONE,
        graphs: bool = True,
    ) -> None:
        self.early, self.team = early, team
        self.device, self.precision, self.settings = device, precision, settings
        self.model = model.to(device).to(memory_format=torch.channels_last)
        team.align(self.model)
        self._young = young_batches(self.model)
        self.averaged = copy_network(self.model) if settings.averaging else self.model
        self.x = moved(train.x, device)
        self.mean = torch.tensor(train.mean, device=device)
        self.std = torch.tensor(train.std, device=device)
        self.augment = Augment(self.mean, self.std, flip=settings.flip, pad=settings.pad)
        self.optimiser = new_optimiser(self.model, settings)
        self.scaler = scaler_for(device, precision)
        self.lr = settings.lr
        self.batches = 0
        alone = graphs and early is None and team.size == 1
        record = recorder(device) if alone else None
        self._recordings = Recordings(record, device) if record else None
        # What changes from batch to batch stands in tensors where a recording must see it.
        self._rate, self._pull = (torch.zeros((), device=device) for _ in "ab")
        self._as_is = True
        chunk = good_chunk(device, train.image_shape)
        self._predictor = Predictor(self.mean, self.std, device, precision, chunk, record)
        example = normalise(self._images(torch.arange(2)), self.mean, self.std)
        self._folded = fold(self.averaged, example)
        self._wrapped: tuple[nn.Module, nn.Module] | None = None  # the network, and what to call
        self.snapshots: deque[nn.Module] = deque(maxlen=0)
        # Reading the loss makes a GPU wait; on a CPU it costs nothing.
        self._check_every = 1 if device.type == "cpu" else 50

    def keep_snapshots(self, count: int) -> None:
        """Keep copies of the averaged network as it was after each of the last `count` fits."""
        self.snapshots = deque(self.snapshots, maxlen=count)

    def fit(
        self,
        indices: Tensor,
        labels: Tensor,
        epochs: float,
        generator: torch.Generator,
        budget: Budget | None = None,
        progress: Callable[[float], float] = lambda done: 0.0,
        tick: Callable[[int, int], None] | None = None,
    ) -> FitReport:
        """Go on training from the present weights.

        Args:
            indices: Absolute indices of the labelled points, `(n,)`.
            labels: Their classes, `(n,)`.
            epochs: Passes over the points; need not be whole.
            generator: Draws order and augmentation, on the learner's device.
            budget: Checked before every batch; the fit ends when it is spent.
            progress: Share of the run that is over, 0 to 1, from the share of this fit that is
                done; the learning rate follows it.
            tick: Told the batches done and planned after each.

        Returns:
            What was done.

        Raises:
            Diverged: The loss or the weights are not finite.
            TrainError: There is not the memory for a batch.
        """
        indices, labels = indices.to(self.device), labels.to(self.device)
        size = min(self.settings.batch_size, indices.numel())
        if size < 2 * self.team.size and self.team.size > 1:
            raise TrainError(
                f"a batch of {size} images cannot be divided among {self.team.size} processes, 2 "
                "for each at least. Start fewer, or give a larger --batch-size or --initial."
            )
        planned = max(1, math.ceil(epochs * indices.numel() / size))
        self.model.train()
        lone = indices.numel() == 1
        for norm in updated_norms(self.model) if lone else ():
            norm.eval()  # one image, which may be one value per channel, has no statistics
        self._as_is = self._recordings is None or hooked(self.model)
        total = torch.zeros((), device=self.device)
        pace = Pace(self.device)
        done = 0
        with self._own_randomness(generator):
            for chosen in _batches(indices.numel(), size, planned, generator):
                over = budget is not None and budget.expired
                over, share = self.team.same((over, progress(done / planned)))
                if over:
                    break
                self._set_rate(share)
                total += self._step(indices[chosen], labels[chosen], generator)
                done += 1
                if done % self._check_every == 0:
                    points = indices[chosen] if self._check_every == 1 else None
                    self._check_loss(total, done, points)
                if self.early is not None:
                    self._prune_if_due(self.early, math.ceil(indices.numel() / size))
                pace.wait()
                if tick is not None:
                    tick(done, planned)
        loss = self._check_loss(total, done) if done else None
        if 0 < self.batches <= self._young and not lone:
            self._estimate_statistics(indices, max(2, done), generator)
        self.team.align(self.model)
        self.team.align(self.averaged)
        self._check_weights()
        if self.snapshots.maxlen:
            self.snapshots.append(copy_network(self.averaged))
        return FitReport(loss, done * size / indices.numel(), done, done < planned)

    def _estimate_statistics(self, indices: Tensor, most: int, generator: torch.Generator) -> None:
        """Give a young network the statistics of its weights, from `most` batches at most.

        128 images give as good statistics as 2,000 do. They are augmented, as the images that the
        weights were fitted to: those as they are cost a point of accuracy after 600 batches.
        """
        size = min(self.settings.batch_size, indices.numel())
        count = min(most, math.ceil(_STATISTICS_IMAGES / size), math.ceil(indices.numel() / size))
        images = (
            self.augment(self._images(indices[chosen]), generator)
            for chosen in _batches(indices.numel(), size, count, generator)
        )
        with autocast(self.device, self.precision):
            estimate_statistics(self.averaged, images)

    def _own_randomness(self, generator: torch.Generator) -> AbstractContextManager[None]:
        """Let dropout, which knows only the global generators, follow the run's seed."""
        seed = int(torch.randint(2**31, (), generator=generator, device=self.device))
        devices = [gpu_index(self.device)] if self.device.type == "cuda" else []
        return forked_rng(seed, devices)

    def _check_loss(self, total: Tensor, done: int, points: Tensor | None = None) -> float:
        loss = total.item() / done
        if not math.isfinite(loss):
            raise Diverged(f"the training loss became {loss}", self.batches, self.lr, points)
        return loss

    def _check_weights(self) -> None:
        """Find what the last batch broke, before its scores do; the average holds all of it."""
        norms = torch._foreach_norm(list(floats(self.averaged)))
        if not bool(torch.stack(norms).isfinite().all()):
            raise Diverged("the weights became infinite or NaN", self.batches, self.lr)

    def _step(self, indices: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        try:
            return self._train_on(indices, labels, generator)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                if gone := self.team.lost(error):
                    raise gone from error
                raise
            size = indices.numel()
            less = f"--batch-size {max(2, size // 2)}, " if size > 2 else ""
            raise TrainError(
                f"out of memory while training on a batch of {size} images. Try {less}a smaller "
                "--model or --image-size, or prune more."
            ) from error

    def _train_on(self, indices: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        count = indices.numel()
        draw, mine = self.augment.draw(count, generator), self.team.share(count)
        batch = self._images(indices[mine]), labels[mine], draw[mine]
        # A young average follows closely, or the first weights would linger in it.
        decay = min(self.settings.averaging, (self.batches + 1) / (self.batches + 11))
        if self._recordings is None or self._as_is:
            loss = self._advance(*batch, 1 - decay, len(draw[mine]) * self.team.size / count)
        else:
            key = (self.model, self.averaged, self.optimiser, batch[0].shape)
            step = self._recordings.of(key, self._advance, self._moving)
            loss = step(*batch, self._pull.fill_(1 - decay))
        self.batches += 1
        return self.team.total(loss) / self.team.size

    def _advance(
        self, images: Tensor, labels: Tensor, draw: Tensor, pull: float | Tensor, weight: float = 1
    ) -> Tensor:
        """Do all of a step that happens on the device; nothing in it waits for a value."""
        inputs = self.augment.apply(images, draw)
        with autocast(self.device, self.precision):
            logits = self._network_of_all(inputs)(inputs)
        loss = F.cross_entropy(
            logits.float(), labels, label_smoothing=self.settings.label_smoothing
        )
        if weight != 1:  # processes average their gradients, but shares may differ by an image
            loss = loss * weight
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.early is not None:
            self.scaler.unscale_(self.optimiser)
            self.early.observe(self.model)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.averaged is not self.model:
            follow(self.averaged, self.model, pull)
        return loss.detach()

    def _moving(self) -> list[Tensor]:
        """List the tensors that a step changes."""
        networks = [self.model] if self.averaged is self.model else [self.model, self.averaged]
        tensors = [t for net in networks for t in (*net.parameters(), *net.buffers())]
        memory = [v for kept in self.optimiser.state.values() for v in kept.values()]
        return tensors + [v for v in memory if isinstance(v, Tensor)]

    def _images(self, indices: Tensor) -> Tensor:
        """Return images as they are stored, `(k, h, w, c)`, on the device."""
        return self.x.index_select(0, indices.to(self.x.device)).to(self.device)

    def _network_of_all(self, example: Tensor) -> nn.Module:
        """Return what to call for gradients over the whole batch, wherever its images are."""
        if self._wrapped is None or self._wrapped[0] is not self.model:
            self._wrapped = self.model, self.team.wrap(self.model, example[:2])
        return self._wrapped[1]

    def _prune_if_due(self, early: EarlyPruner, batches_an_epoch: int) -> None:
        removal = early.after_batch(batches_an_epoch)
        if removal is None:
            return
        small = narrow(self.model, removal.graph, removal.keep)
        narrow_optimiser(self.optimiser, self.model, small, removal.graph, removal.keep)
        if self.averaged is self.model:
            self.averaged = small
        else:
            self.averaged = narrow(self.averaged, removal.graph, removal.keep)
        kept = [narrow(old, removal.graph, removal.keep) for old in self.snapshots]
        self.snapshots = deque(kept, maxlen=self.snapshots.maxlen)
        self.model = small

    def _set_rate(self, progress: float) -> None:
        warm = min(1.0, (self.batches + 1) / max(1, self.settings.warmup_batches))
        rate = self.lr * warm * SCHEDULES[self.settings.schedule](min(1.0, progress))
        for group in self.optimiser.param_groups:
            group["lr"] = rate if self._as_is else self._rate.fill_(rate)

    @property
    def network(self) -> nn.Module:
        """What `predict` runs: the averaged network in eval mode, its BatchNorms folded.

        It is a copy that `predict` brings up to date with the averaged weights, and another one
        after the network was pruned. Hook this one to see what passes through its layers.
        """
        if self._folded.source is not self.averaged:
            self._folded = Folded(self.averaged, self._folded.pairs)
        return self._folded.model

    def predict(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        budget: Budget | None = None,
        network: nn.Module | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Stream a network's logits over images.

        Args:
            x: Images `(n, h, w, c)`, uint8 or float, on any device.
            indices: Rows of `x` to take, `(k,)`; all if None.
            budget: Checked before every chunk.
            network: One of `snapshots`; the averaged network if None.

        Yields:
            The slice of `indices` and its logits `(chunk, classes)`, float32, on the device.

        Raises:
            BudgetSpent: The budget ended before the stream did.
            TrainError: There is not the memory for a single image.
        """
        own = network is None
        if network is None:
            network = self.network
            self._folded.refresh()
        else:
            network = Folded(network, self._folded.pairs).model
        yield from self._predictor.stream(network, x, indices, budget, often=own)

    def evaluate(self, test: Dataset, budget: Budget | None = None) -> Metrics:
        """Measure the averaged network's predictions on a test set.

        Raises:
            BudgetSpent: The budget ended before the test did.
        """
        return measure(self.logits(test.x, budget=budget), test.y)

    def logits(
        self, x: Tensor, indices: Tensor | None = None, budget: Budget | None = None
    ) -> Tensor:
        """Return the logits that `predict` streams, in one piece: `(n, classes)`, on the CPU.

        Each process of the team predicts its share.

        Raises:
            BudgetSpent: The budget ended before that, in one of them.
        """
        count = len(x) if indices is None else indices.numel()
        if self.team.size > 1:
            rows = torch.arange(count) if indices is None else indices
            indices = rows[self.team.share(count)]
        try:
            found = torch.cat([part.cpu() for _, part in self.predict(x, indices, budget)])
        except BudgetSpent:
            return self.gathered(None, count)
        return self.gathered(found, count)

    def state(self) -> dict[str, Any]:
        """Return all that training changes, see `alprune.training.state`."""
        return learner_state(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the learner to a state that `state` returned, in place.

        Raises:
            PruneError, RuntimeError, KeyError: The state belongs to another network.
        """
        restore_learner(self, state)

    def gathered(self, rows: Tensor | None, count: int) -> Tensor:
        """Return all processes' rows.

        Args:
            rows: Those of this one's share; None if its time ran out.
            count: Rows of all.

        Raises:
            BudgetSpent: Somebody's time ran out.
        """
        if self.team.any(rows is None):
            raise BudgetSpent
        assert rows is not None
        return self.team.gather(rows, count)


def _batches(count: int, size: int, planned: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Deal full batches from one reshuffled deck after the other."""
    dealt = torch.empty(0, dtype=torch.int64, device=generator.device)
    for _ in range(planned):
        while dealt.numel() < size:
            deck = torch.randperm(count, generator=generator, device=generator.device)
            dealt = torch.cat([dealt, deck])
        yield dealt[:size]
        dealt = dealt[size:]
