"""What Fourier transforms, complex numbers and sampling grids do to channel labels."""

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.tracer import Rule, Tracer


def transform(t: Tracer, call: Call) -> None:
    """Transform some dimensions: channels there stay whole, others pass."""
    x, rank = call.args[0], call.args[0].dim()
    shift = call.name.endswith("shift")
    given = call.get(1 if shift else 2, "dim")
    sizes = None if shift else call.get(1, "s" if call.name[-1] in "2n" else "n")
    if given is None and call.name[-1] == "2":
        given = (-2, -1)
    elif given is None and (shift or call.name[-1] == "n"):
        given = range(rank) if not sizes else range(rank - len(sizes), rank)
    elif given is None:
        given = -1
    dims = {int(d) % rank for d in ((given,) if isinstance(given, int) else given)}
    labels = t.labels(x)
    for dim in dims:
        t.nodes.pin(labels[dim], f"{call.name} over channels")
    t.set(call.out, [() if d in dims else axis for d, axis in enumerate(labels)])


def join_parts(t: Tracer, call: Call) -> None:
    """`view_as_complex` reads the last dimension as real and imaginary parts."""
    *labels, parts = t.labels(call.args[0])
    t.nodes.pin(parts, f"{call.name} along channels")
    t.set(call.out, labels)


def split_parts(t: Tracer, call: Call) -> None:
    """`view_as_real` adds a dimension of real and imaginary parts."""
    t.set(call.out, [*t.labels(call.args[0]), ()])


def grid(t: Tracer, call: Call) -> None:
    """`affine_grid` takes only height and width from the size that it is given."""
    for axis in t.labels(call.get(0, "theta")):
        t.nodes.pin(axis, call.name)


def sample(t: Tracer, call: Call) -> None:
    """`grid_sample` reads every channel at the same places."""
    x, places = call.get(0, "input"), call.get(1, "grid")
    labels = t.labels(x)
    for axis in (*labels[2:], *t.labels(places)[1:]):
        t.nodes.pin(axis, f"positions of {call.name}")
    t.set(call.out, [*labels[:2], *[()] * (call.out.dim() - 2)])


_KINDS = "fft ifft rfft irfft hfft ihfft"
RULES: dict[str, Rule] = {
    **{f"fft_{kind}{many}": transform for kind in _KINDS.split() for many in ("", "2", "n")},
    **dict.fromkeys(("fft_fftshift", "fft_ifftshift"), transform),
    "view_as_complex": join_parts,
    "view_as_real": split_parts,
    "affine_grid": grid,
    "grid_sample": sample,
}
