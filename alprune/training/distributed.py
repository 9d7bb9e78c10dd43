"""The processes that make one run together, each with a share of the work; mostly just one."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alprune.errors import AlpruneError, ConfigError

Value = TypeVar("Value")

_SILENCE = timedelta(minutes=30)  # of a process that lives; a dead one is noticed at once


class TeamError(AlpruneError):
    """Another process of the run is gone."""


class Team:
    """A single process, which does all of the work itself.

    Attributes:
        rank: Number of this process; 0 keeps the record and decides.
        size: How many there are.
    """

    rank = 0
    size = 1

    def same(self, value: Value) -> Value:
        """Return the first process's value, so that all decide alike."""
        return value

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is up in any process."""
        return flag

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes, of a tensor of the same shape in each."""
        return value

    def share(self, count: int) -> slice:
        """Return which of `count` rows this process works on."""
        return slice(0, count)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """Return all `count` rows from each process's share of them, on every process."""
        return rows

    def align(self, model: nn.Module) -> None:
        """Give all processes the first one's weights and buffers, as BatchNorm's statistics."""

    def wrap(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Return what to call in training, so that gradients are those of all processes.

        Args:
            model: The network that is trained, whose weights agree.
            example: `(b, c, h, w)` inputs, to find parameters that take no part.
        """
        return model

    def lost(self, error: Exception) -> TeamError | None:
        """Return an error of training in our words if it says that another process is gone."""
        return None

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the team."""


ALONE = Team()


class Processes(Team):
    """Several processes, over torch.distributed: gloo between processors, NCCL between GPUs.

    Each holds the whole network and the whole record of labels. Training batches, candidates and
    test images are divided among them.

    Args:
        sync_batchnorm: Normalise by the statistics of the whole batch, not of a process's part.

    Raises:
        TeamError: The others cannot be reached.
    """

    def __init__(self, sync_batchnorm: bool = False) -> None:
        gpu = torch.cuda.is_available()
        self._gpu = torch.device("cuda", torch.cuda.current_device()) if gpu else None
        with _others("start"):
            backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
            torch.distributed.init_process_group(backend, timeout=_SILENCE)
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.sync_batchnorm = sync_batchnorm

    def same(self, value: Value) -> Value:
        """Return the first process's value."""
        shared = [value]
        with _others("agree"):
            torch.distributed.broadcast_object_list(shared, 0, device=torch.device("cpu"))
        return shared[0]

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is up in any process."""
        return bool(self.total(torch.tensor([float(flag)])).item())

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes."""
        with _others("add up"):
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def share(self, count: int) -> slice:
        """Return which of `count` rows this process works on."""
        if count < self.size:  # all of them do it all: none may be without rows
            return slice(0, count)
        return slice(self._begin(count, self.rank), self._begin(count, self.rank + 1))

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """Return all rows, on every process."""
        if count < self.size:
            return rows
        most = -(-count // self.size)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with _others("gather"):
            torch.distributed.all_gather(parts, padded)
        sizes = [self._begin(count, r + 1) - self._begin(count, r) for r in range(self.size)]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def align(self, model: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        with _others("compare weights"):
            for tensor in (*model.parameters(), *model.buffers()):
                torch.distributed.broadcast(tensor.detach(), 0)

    def wrap(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Return the network in DistributedDataParallel."""
        if self.sync_batchnorm:
            _sync(model, example.device)
        devices = [example.device] if example.device.type == "cuda" else None
        unused = _has_unused(model, example)
        with _others("train"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions have another name for an option
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=devices,
                broadcast_buffers=not self.sync_batchnorm,
                find_unused_parameters=unused,
            )

    def lost(self, error: Exception) -> TeamError | None:
        """Return an error in our words if it says that another process is gone."""
        if any(sign in str(error).lower() for sign in ("gloo", "nccl", "connection", "peer")):
            return TeamError(_gone("train", error))
        return None

    def __exit__(self, *_: object) -> None:
        torch.distributed.destroy_process_group()

    def _begin(self, count: int, rank: int) -> int:
        return count * rank // self.size


def join(sync_batchnorm: bool = False) -> Team:
    """Return the team of this process, as `torchrun` says in the environment.

    Raises:
        ConfigError: The environment names a team, but not all of it.
        TeamError: The others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set. Start "
            "with torchrun --nproc-per-node N -m alprune ..., or unset WORLD_SIZE."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return Processes(sync_batchnorm)


def helps() -> bool:
    """Tell whether torchrun started this process to help another, which keeps the record."""
    return int(os.environ.get("RANK", "0")) > 0


class _Summed(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Summed.forward(ctx, gradient)


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes, on a GPU and on processors alike.

    PyTorch's own works on GPUs only. In eval mode it is BatchNorm as ever.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(b, c, ...)` by the statistics of all processes' `b`."""
        if not (self.training and torch.distributed.is_initialized()):
            return super().forward(input)
        over = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        x = input.float()
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums = torch.cat([x.sum(over), count])
        sums = _Summed.apply(sums)
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        # From the mean, not from squares: those would cancel.
        spread = (x - mean.view(shape)).square().sum(over)
        variance = _Summed.apply(spread) / count
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normed = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normed = torch.addcmul(self.bias.view(shape), normed, self.weight.view(shape))
        return normed.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)  # type: ignore[operator,union-attr]
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take whatever BatchNorm1d, 2d and 3d take."""


def _sync(model: nn.Module, device: torch.device) -> None:
    """Let BatchNorms use the statistics of all processes; torch has a layer for that on CUDA."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place, the parameters stay
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncedBatchNorm


def _has_unused(model: nn.Module, example: Tensor) -> bool:
    """Tell whether some parameters take no part in a pass."""
    training = model.training
    wanted = [p for p in model.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        output = model.eval()(example)  # in which BatchNorm's statistics stay as they are
        found = torch.autograd.grad(output.sum(), wanted, allow_unused=True)
    model.train(training)
    return any(gradient is None for gradient in found)


@contextmanager
def _others(what: str) -> Iterator[None]:
    """Say in our words that another process is gone, which shows in whatever all do together."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise TeamError(_gone(what, error)) from error


def _gone(what: str, error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return (
        f"the processes of the run could not {what} together, another one has died or cannot be "
        f"reached: {first}."
    )
