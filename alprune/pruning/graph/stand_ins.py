"""Results of the right shape without the work, for passes that only follow channels."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_PERIOD = 65537  # noise is drawn once and repeated; a prime period lines up with no dimension
_LEAST = 1 << 24  # products below this are computed: finding the shape would take as long
_PRODUCTS = frozenset(
    "linear conv1d conv2d conv3d conv_transpose2d matmul __matmul__ bmm "
    "scaled_dot_product_attention".split()
)


def noise(count: int) -> Tensor:
    """Return `count` numbers of deviation 1, the same every time."""
    return _drawn().repeat(-(-count // _PERIOD))[:count]


@lru_cache(maxsize=1)
def _drawn() -> Tensor:
    return torch.randn(_PERIOD, generator=torch.Generator("cpu").manual_seed(1), device="cpu")


def stand_in(
    name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Return noise in place of a large product; None for all that is worth computing.

    Args:
        name: Of the operation.
        func: What would compute it.
        args: Its arguments.
        kwargs: Those by name.
    """
    if name not in _PRODUCTS or len(args) < 2:
        return None
    x, y = args[:2]
    if not x.is_floating_point() or y.dim() < 2 or torch.is_autocast_enabled(x.device.type):
        return None
    wide = y.shape[0] if name[:4] in ("line", "conv") else y.shape[-1]
    if x.numel() * (y.shape[-2] if name.startswith("scaled") else wide) < _LEAST:
        return None
    # On the meta device, where PyTorch's own counter counts it.
    shaped = func(*tree_map(_bare, tuple(args)), **tree_map(_bare, dict(kwargs)))
    out = torch.empty_strided(shaped.shape, shaped.stride(), dtype=x.dtype, device=x.device)
    if out.is_contiguous():
        whole, pool = out.view(-1), _drawn().to(out)
        many = len(whole) // _PERIOD
        whole[: many * _PERIOD].view(many, _PERIOD).copy_(pool)
        whole[many * _PERIOD :].copy_(pool[: len(whole) % _PERIOD])
        return out
    return out.copy_(noise(out.numel()).view(out.shape))


def _bare(value: Any) -> Any:
    """Return a tensor of the same layout without data."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
