"""What layers do to channel labels: convolutions, normalisation, recurrent layers, embeddings."""

from collections.abc import Sequence

from torch import Tensor

from alprune.pruning.graph.calls import Call
from alprune.pruning.graph.labels import Axis, take
from alprune.pruning.graph.rules_products import computed, owned
from alprune.pruning.graph.tracer import Rule, Tracer


def conv(t: Tracer, call: Call) -> None:
    """Read dimension 1 of the weight, make dimension 0; grouped ones couple both."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    into, dim = _into(t, call, x, weight)
    along = _positions(t, call, x, weight)
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    depthwise = groups > 1 and per_in == per_out == 1
    rows, columns = t.labels(weight)[:2]
    if depthwise:
        made = rows
        t.nodes.unite(rows, into, call.name)
        t.resize(t.module, "groups", rows, call.name)
        _counted(t, groups, rows, call.name)
    elif groups == 1:
        made = rows
        t.nodes.unite(columns, into, call.name)
    else:
        made = _grouped(t, rows, columns, into, groups, call.name)
    _weigh(t, weight, call.out.numel() / weight.shape[0])
    if t.registered(weight):
        t.axis(weight, 0, "follows" if depthwise else "makes")
        if groups == 1 or (t.symmetric and not depthwise):
            t.axis(weight, 1, "reads")
        if not depthwise:
            t.make(weight, made)
    elif not depthwise:
        computed(t, weight, made, into)
        t.mix(call, "zero", {dim: into}, counts=False)
    t.follow_axis(bias, made, call.name)
    alone = call.out.shape[dim] == 1  # then it always stays
    t.set(call.out, [*[()] * dim, () if alone else made, *along])


def conv_transpose(t: Tracer, call: Call) -> None:
    """Read dimension 0 of the weight, make dimension 1; grouped ones leave by whole groups."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    into, dim = _into(t, call, x, weight)
    rows, columns = t.labels(weight)[:2]
    t.nodes.unite(rows, into, call.name)
    if groups == 1:
        made = columns
    else:
        made = (t.nodes.new(weight.shape[1] * groups),)
        _leave_whole(t, into, made, int(groups))
    _weigh(t, weight, x.numel() / weight.shape[0])
    if t.registered(weight):
        t.axis(weight, 0, "reads")
        if groups == 1:
            t.axis(weight, 1, "makes")
        t.make(weight, made)
    else:
        t.nodes.pin(into, "a transposed convolution whose weight is computed")
        t.nodes.pin(made, "a transposed convolution whose weight is computed")
    for spatial in t.labels(x)[dim + 1 :]:
        t.nodes.pin(spatial, f"positions of {call.name}")
    t.follow_axis(bias, made, call.name)
    t.set(call.out, [made if d == dim else () for d in range(call.out.dim())])


def deform_conv(t: Tracer, call: Call) -> None:
    """Convolve at places that other channels give (torchvision), in one group."""
    x, weight, offset, mask, bias, *_ = call.args
    groups, offset_groups = call.args[11:13]
    if groups * offset_groups > 1 or not t.registered(weight):
        t.give_up(call, "a deformable convolution in groups, or whose weight is computed")
        return
    for places in (offset, mask):
        for axis in t.labels(places):
            t.nodes.pin(axis, f"places of {call.name}")
    made = t.axis(weight, 0, "makes")
    t.nodes.unite(t.axis(weight, 1, "reads"), t.labels(x)[1], call.name)
    t.count(weight, call.out.numel() / weight.shape[0])
    t.make(weight, made)
    t.follow_axis(bias, made, call.name)
    t.resize(t.module, "in_channels", t.labels(x)[1], call.name)
    t.resize(t.module, "out_channels", made, call.name)
    t.set(call.out, [(), made, (), ()])


def embedding(t: Tracer, call: Call) -> None:
    """Make the columns of the table."""
    weight = call.get(1, "weight")
    if call.name == "embedding_bag" and isinstance(call.get(0, "input"), Tensor):
        weight = next(x for x in call.tensors() if x.dim() == 2 and x.is_floating_point())
    made = t.axis(weight, 1, "makes") if t.registered(weight) else t.labels(weight)[1]
    t.make(weight, made)
    t.set(call.out, [*[()] * (call.out.dim() - 1), made])


def batch_norm(t: Tracer, call: Call) -> None:
    """Normalise channel by channel (batch and instance normalisation)."""
    x = call.get(0, "input")
    labels = list(t.labels(x))
    inside = {d: a for d, a in enumerate(labels) if d != 1 and a and (d or "batch" in call.name)}
    plain = call.get(1, "running_mean") is None and call.name == "batch_norm"
    if plain:
        t.mix(call, "batch_norm", inside, counts=True)
    else:
        for axis in inside.values():
            t.nodes.pin(axis, f"positions of {call.name}")
    for position, name in enumerate(("running_mean", "running_var", "weight", "bias"), 1):
        vector = call.get(position, name)
        t.follow_axis(vector, labels[1], call.name)
        labels[1] = labels[1] or (t.labels(vector)[0] if vector is not None else ())
    t.resize(t.module, "num_features", labels[1], call.name)
    t.set(call.out, labels)


def group_norm(t: Tracer, call: Call) -> None:
    """Channels of one normalisation group leave together, or the only group shrinks."""
    x, groups = call.get(0, "input"), int(call.get(1, "num_groups"))
    labels = list(t.labels(x))
    axis = labels[1]
    for spatial in labels[2:]:
        t.nodes.pin(spatial, "group normalisation")
    if groups == 1:
        t.mix(call, "group_norm", {1: axis}, counts=True)
    else:
        for column in axis:
            t.nodes.tie(column.view(groups, -1), [1], "group normalisation")
        t.resize(t.module, "num_groups", take(axis, slice(None, None, x.shape[1] // groups)), "")
    t.follow_axis(call.get(2, "weight"), axis, call.name)
    t.follow_axis(call.get(3, "bias"), axis, call.name)
    t.resize(t.module, "num_channels", axis, call.name)
    t.set(call.out, labels)


def layer_norm(t: Tracer, call: Call) -> None:
    """Normalise over the trailing dimensions: over channels, over those that are left."""
    x, shape = call.get(0, "input"), call.get(1, "normalized_shape")
    labels = t.labels(x)
    dims = range(x.dim() - len(shape), x.dim())
    t.mix(call, call.name, {d: labels[d] for d in dims}, counts=True)
    vectors = (call.get(2, "weight"), call.get(3, "bias") if call.name == "layer_norm" else None)
    for vector in vectors:
        if isinstance(vector, Tensor):
            labels = t.nodes.broadcast(
                (x.shape, labels), (vector.shape, t.labels(vector)), call.name
            )
    for index, (dim, given) in enumerate(zip(dims, shape, strict=True)):
        t.resize(t.module, f"normalized_shape[{index}]", labels[dim], call.name)
        known = t.size_axis(given)
        if known and labels[dim]:
            t.nodes.unite(known, labels[dim], call.name)
    t.set(call.out, labels)


def local_response_norm(t: Tracer, call: Call) -> None:
    """Neighbouring channels are mixed."""
    x = call.get(0, "input")
    t.nodes.pin(t.labels(x)[1], "local response normalisation")
    t.set(call.out, t.labels(x))


def prelu(t: Tracer, call: Call) -> None:
    """One slope for each channel follows it; one slope for all puts no constraint."""
    x, slopes = call.get(0, "input"), call.get(1, "weight")
    labels = t.labels(x)
    if slopes.numel() > 1:
        axis = labels[1 if x.dim() > 1 else 0]
        t.follow_axis(slopes, axis, call.name)
        t.resize(t.module, "num_parameters", axis, call.name)
    t.set(call.out, labels)


def glu(t: Tracer, call: Call) -> None:
    """The i-th channels of both halves leave together."""
    x, dim = call.get(0, "input"), call.get(1, "dim", -1) % call.get(0, "input").dim()
    labels = list(t.labels(x))
    half = x.shape[dim] // 2
    first, second = (take(labels[dim], part) for part in (slice(0, half), slice(half, None)))
    t.nodes.unite(first, second, call.name)
    labels[dim] = first
    t.set(call.out, labels)


def recurrent(t: Tracer, call: Call) -> None:
    """Layers and directions of one LSTM, GRU or RNN share their width, so units i are coupled.

    So do their projections, which an LSTM may have: it reads and returns these instead of its
    hidden units.
    """
    packed = isinstance(call.args[3], (list, tuple))  # then the batch sizes stand second
    x, (state, weights, *rest) = call.args[0], call.args[2 if packed else 1 :]
    biased, layers, bidirectional = rest[0], rest[1], rest[4]
    sides = 2 if bidirectional else 1
    per_side = len(weights) // (layers * sides)
    projected = per_side > (4 if biased else 2)
    if not all(t.registered(w) for w in weights):
        t.give_up(call, "a recurrent layer with computed weights")
        return
    [out] = t.axis(weights[1], 1, "reads")
    [hidden] = t.axis(weights[per_side - 1], 1, "reads") if projected else [out]
    rows = x.numel() / x.shape[-1]
    into = t.labels(x)[-1]
    for layer in range(layers):
        for side in range(sides):
            at = (layer * sides + side) * per_side
            own = weights[at : at + per_side]
            if projected:
                *own, projection = own
                t.nodes.unite(t.axis(projection, 0, "makes"), (out,), "recurrent layer")
                t.nodes.unite(t.axis(projection, 1, "reads"), (hidden,), "recurrent layer")
                t.count(projection, rows)
            _cell(t, own, into, hidden, out, rows)
        into = (out.repeat(sides),)
    t.make(weights[0], (hidden,), whole_module=True)
    if projected:
        t.make(weights[per_side - 1], (out,))
    states = [state] if isinstance(state, Tensor) else list(state)
    widths = [out, hidden][: len(states)]
    for given, width in zip(states, widths, strict=True):
        _state(t, given, width, call.name)
    results = [result for result in call.results() if result.is_floating_point()]
    for result, last in zip(results, [into, *[(width,) for width in widths]], strict=False):
        t.set(result, [*[()] * (result.dim() - 1), last])


def cell(t: Tracer, call: Call) -> None:
    """One step of a recurrent cell."""
    x, state = call.args[0], call.args[1]
    weights = [w for w in call.args[2:6] if w is not None]
    if not all(t.registered(w) for w in weights):
        t.give_up(call, "a recurrent cell with computed weights")
        return
    [hidden] = t.axis(weights[1], 1, "reads")
    _cell(t, weights, t.labels(x)[-1], hidden, hidden, x.numel() / x.shape[-1])
    t.make(weights[0], (hidden,), whole_module=True)
    for given in (state,) if isinstance(state, Tensor) else state:
        _state(t, given, hidden, call.name)
    for result in call.results():
        t.set(result, [*[()] * (result.dim() - 1), (hidden,)])


def whole_attention(t: Tracer, call: Call) -> None:
    """Pin what a multi-head attention that could not be opened touches, its outputs aside.

    Its weights are counted.
    """
    weight, bias = call.get(11, "out_proj_weight"), call.get(12, "out_proj_bias")
    own = t.registered(weight)
    t.give_up(call, "attention", besides=(weight, bias) if own else ())
    if own:
        t.nodes.pin(t.axis(weight, 1, "reads"), "attention")
        made = t.axis(weight, 0, "makes")
        t.make(weight, made)
        t.follow_axis(bias, made, call.name)
        result = call.results()[0]
        t.set(result, [*[()] * (result.dim() - 1), made])
    query, key = call.args[0], call.args[1]
    rows, key_rows = query.numel() / query.shape[-1], key.numel() / key.shape[-1]
    shares = (
        (call.get(5, "in_proj_weight"), (rows + 2 * key_rows) / 3),
        (weight, rows),
        (call.kwargs.get("q_proj_weight"), rows),
        (call.kwargs.get("k_proj_weight"), key_rows),
        (call.kwargs.get("v_proj_weight"), key_rows),
    )
    for factor, positions in shares:
        if isinstance(factor, Tensor) and t.registered(factor):
            t.count(factor, positions)
    batch = 1 if query.dim() == 2 else query.shape[0 if call.get(0, "query") is None else 1]
    pairs = rows * key_rows / batch
    t.work(2 * pairs * query.shape[-1] if batch else 0)


def _into(t: Tracer, call: Call, x: Tensor, weight: Tensor) -> tuple[Axis, int]:
    """Return the channels that a convolution reads and their dimension."""
    labels = t.labels(x)
    dim = x.dim() - weight.dim() + 1
    owned(t, call, weight, labels[dim])
    if not labels[dim] and t.carries(weight):
        return (), dim
    return labels[dim], dim


def _weigh(t: Tracer, weight: Tensor, positions: float) -> None:
    if t.registered(weight):
        t.count(weight, positions)
    else:
        t.work(positions * weight.numel(), *t.labels(weight), factor=weight)


def _counted(t: Tracer, size: int, axis: Axis, reason: str) -> None:
    """Couple an axis with the size that counts it, where that is not written into the code."""
    if known := t.size_axis(size):
        t.nodes.unite(known, axis, reason)


def _positions(t: Tracer, call: Call, x: Tensor, weight: Tensor) -> list[Axis]:
    """Return the channels along the positions of a result, as where ECA slides over channels.

    A kernel of one position leaves them alone. To a wider one, those that are left become
    neighbours; it is pinned where the number of positions changes.
    """
    found: list[Axis] = []
    for dim in range(x.dim() - weight.dim() + 2, x.dim()):
        axis, kernel = t.labels(x)[dim], weight.shape[dim - x.dim()]
        same = x.shape[dim] == call.out.shape[dim] and x.shape[dim] > 1
        if axis and kernel > 1 and same and t.registered(weight):
            t.mix(call, "neighbours", {dim: axis}, counts=True)
        elif not same or kernel > 1:
            t.nodes.pin(axis, f"positions of {call.name}")
            axis = ()
        found.append(axis)
    return found


def _grouped(t: Tracer, rows: Axis, columns: Axis, into: Axis, count: int, reason: str) -> Axis:
    """Couple a grouped convolution: whole groups, or the i-th channels of all of them."""
    groups, per_in = int(count), len(columns[0]) if columns else 1
    t.grouped |= per_in > 1
    if not (t.symmetric and per_in > 1):
        _leave_whole(t, into, rows, groups)
        _counted(t, count, tuple(c.view(groups, -1)[:, 0] for c in rows), reason)
        return rows
    for axis in (into, rows):
        for column in axis:
            t.nodes.tie(column.view(groups, -1), [0], "grouped convolution")
    t.nodes.unite(columns, take(into, slice(0, per_in)), reason)
    return rows


def _leave_whole(t: Tracer, into: Axis, made: Axis, groups: int) -> None:
    """Let all inputs and outputs of one group of a grouped convolution leave together."""
    reason = "grouped convolution"
    if not into:
        t.nodes.pin(made, f"combined with the input or a constant ({reason})")
        return
    heads = []
    for axis in (into, made):
        for column in axis:
            t.nodes.tie(column.view(groups, -1), [1], reason)
        heads.append(tuple(column.view(groups, -1)[:, 0] for column in axis))
    t.nodes.unite(heads[0], heads[1], reason)
    t.resize(t.module, "groups", heads[1], reason)


def _cell(
    t: Tracer, weights: Sequence[Tensor], into: Axis, hidden: Tensor, out: Tensor, rows: float
) -> None:
    """Couple the gates of one layer and direction; `weights` is w_ih, w_hh and both biases.

    `out` is what it reads of its last step: its `hidden` units, or their projection.
    """
    w_ih, w_hh, *biases = weights
    gates = (hidden.repeat(w_ih.shape[0] // len(hidden)),)
    t.nodes.unite(t.axis(w_ih, 1, "reads"), into, "recurrent layer")
    t.nodes.unite(t.axis(w_hh, 1, "reads"), (out,), "recurrent layer")
    for weight in (w_ih, w_hh):
        t.nodes.unite(t.axis(weight, 0, "makes"), gates, "recurrent layer")
        t.count(weight, rows)
    for bias in biases:
        t.follow_axis(bias, gates, "recurrent layer")


def _state(t: Tracer, state: Tensor, units: Tensor, reason: str) -> None:
    """Couple a given initial state; the zeros a module makes itself put no constraint."""
    if t.carries(state):
        t.nodes.unite(t.labels(state)[-1], (units,), reason)


RULES: dict[str, Rule] = {
    **{f"conv{n}d": conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
    "deform_conv2d": deform_conv,
    **dict.fromkeys(("embedding", "embedding_bag"), embedding),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "local_response_norm": local_response_norm,
    "prelu": prelu,
    "glu": glu,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
    "multi_head_attention_forward": whole_attention,
}
