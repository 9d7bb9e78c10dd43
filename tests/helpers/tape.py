"""Stands in for a CUDA graph on a CPU: repeats the operations of a recording, on the same tensors.

As with a graph, Python does not run again: numbers keep the values they had when the tape was
made, tensors are read anew, and results go where they went at first. Making the tape changes no
tensor.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations, self.made, self.changed = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for place in tensors(written(func, args, kwargs)):
            storage = place.untyped_storage()
            if storage.data_ptr() not in self.made:
                self.changed.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        fresh = [t for t in tensors(out) if t.untyped_storage().data_ptr() not in given]
        self.made |= {t.untyped_storage().data_ptr() for t in fresh}
        self.operations.append((func, args, kwargs, out, fresh))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out, fresh in self.operations:
            again = func(*args, **kwargs)
            kept = {id(t) for t in fresh}
            for old, new in zip(tensors(out), tensors(again), strict=True):
                if id(old) in kept:
                    old.copy_(new)


def written(func, args, kwargs):
    places = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            places.append(args[place] if place < len(args) else kwargs.get(argument.name))
    if "batch_norm" in func.__name__ and "backward" not in func.__name__:
        places.append(args[3:5])  # the schema does not say that statistics are updated
    return places


def tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def record(work):
    draws = torch.get_rng_state()
    with Tape() as tape:
        out = work()
    for storage, old in tape.changed.values():
        storage.copy_(old)
    torch.set_rng_state(draws)

    def replay():
        tape.replay()
        return out

    return replay
