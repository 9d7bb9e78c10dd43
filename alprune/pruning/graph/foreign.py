"""Refuse forwards whose copy would use tensors of the original network."""

from alprune.errors import ModelError


def refuse_foreign(name: str, where: str) -> None:
    """Refuse a forward that uses a parameter or buffer of the original.

    Args:
        name: Of the tensor.
        where: The module that ran, or the network's class.
    """
    raise ModelError(
        f"layer {name.rpartition('.')[0] or name!r} is called through a function that a copy "
        f"of the network does not take along (one that {where!r} keeps and that finds the layer "
        f"in a global variable, for example): the pruned copy would still use {name!r} of the "
        "original. Write the function as a method, or as an nn.Module that owns the layer."
    )


def refuse_stale(name: str) -> None:
    """Refuse a forward that uses a tensor, an attribute of a module, computed before it."""
    raise ModelError(
        f"{name!r} is a tensor computed from parameters before the forward, so a pruned copy would "
        "use one of the old size. Compute it in the forward, or register it as a buffer."
    )
