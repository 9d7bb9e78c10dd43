"""What layers do to channel labels: convolutions, linear, normalisation, recurrent, attention."""

from collections.abc import Sequence

from torch import Tensor

from alprune.pruning.graph.labels import along
from alprune.pruning.graph.tracer import Call, Rule, Tracer


def conv(t: Tracer, call: Call) -> None:
    """Read dimension 1 of the weight, make dimension 0; grouped ones couple both."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    dim = x.dim() - weight.dim() + 1
    into = t.channel(x, dim, call.name)
    if not t.registered(weight):
        _computed_weight(t, call, into)
        return
    t.count(weight, call.out.numel() / weight.shape[0])
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    depthwise = groups > 1 and per_in == per_out == 1
    made = t.axis(weight, 0, "follows" if depthwise else "makes")
    t.grouped |= groups > 1 and per_in > 1
    if groups == 1:
        t.nodes.unite(t.axis(weight, 1, "reads"), into, call.name)
    elif t.symmetric and per_in > 1:
        t.nodes.tie(into.view(groups, -1), [0], "grouped convolution")
        t.nodes.unite(t.axis(weight, 1, "reads"), into[:per_in], call.name)
        t.nodes.tie(made.view(groups, -1), [0], "grouped convolution")
    else:
        _leave_whole(t, weight, into, made, groups)
    if not depthwise:
        t.make(weight, made)
    t.follow(bias, made, call.name)
    t.set(call.out, along(made, dim, call.out.shape))


def conv_transpose(t: Tracer, call: Call) -> None:
    """Read dimension 0 of the weight, make dimension 1; grouped ones leave by whole groups."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    groups = call.get(6, "groups", 1)
    dim = x.dim() - weight.dim() + 1
    into = t.channel(x, dim, call.name)
    if not t.registered(weight):
        _computed_weight(t, call, into)
        return
    t.count(weight, x.numel() / weight.shape[0])
    t.nodes.unite(t.axis(weight, 0, "reads"), into, call.name)
    if groups == 1:
        made = t.axis(weight, 1, "makes")
    else:
        made = t.nodes.new(weight.shape[1] * groups)
        _leave_whole(t, weight, into, made, groups)
    t.make(weight, made)
    t.follow(bias, made, call.name)
    t.set(call.out, along(made, dim, call.out.shape))


def linear(t: Tracer, call: Call) -> None:
    """Read the last dimension of the input, make the weight's rows."""
    x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    into = t.channel(x, -1, call.name)
    if not t.registered(weight) or weight.dim() != 2:
        _computed_weight(t, call, into)
        return
    made = t.axis(weight, 0, "makes")
    t.count(weight, call.out.numel() / weight.shape[0])
    t.nodes.unite(t.axis(weight, 1, "reads"), into, call.name)
    t.make(weight, made)
    t.follow(bias, made, call.name)
    t.set(call.out, along(made, call.out.dim() - 1, call.out.shape))


def matmul(t: Tracer, call: Call) -> None:
    """Treat `x @ weight` as a linear layer; a product of two activations is pinned."""
    x, weight = call.get(0, "input"), call.get(1, "other")
    if not t.registered(weight) or weight.dim() != 2 or t.registered(x):
        t.give_up(call, f"{call.name} of two activations")
        return
    into = t.channel(x, -1, call.name)
    made = t.axis(weight, 1, "makes")
    t.count(weight, call.out.numel() / weight.shape[1])
    t.nodes.unite(t.axis(weight, 0, "reads"), into, call.name)
    t.make(weight, made)
    t.set(call.out, along(made, call.out.dim() - 1, call.out.shape))


def embedding(t: Tracer, call: Call) -> None:
    """Make the columns of the table."""
    weight = call.get(1, "weight")
    if not t.registered(weight):
        t.give_up(call, "an embedding table that is computed")
        return
    made = t.axis(weight, 1, "makes")
    t.make(weight, made)
    t.set(call.out, along(made, call.out.dim() - 1, call.out.shape))


def batch_norm(t: Tracer, call: Call) -> None:
    """Normalise channel by channel (batch and instance normalisation)."""
    x = call.get(0, "input")
    nodes = t.channel(x, 1, call.name)
    for position, name in enumerate(("running_mean", "running_var", "weight", "bias"), 1):
        t.follow(call.get(position, name), nodes, call.name)
    t.sizes[t.module, "num_features"] = nodes
    t.set(call.out, along(nodes, 1, x.shape))


def group_norm(t: Tracer, call: Call) -> None:
    """Channels of one normalisation group leave together."""
    x, groups = call.get(0, "input"), call.get(1, "num_groups")
    nodes = t.channel(x, 1, call.name)
    t.nodes.tie(nodes.view(groups, -1), [1], "group normalisation")
    t.follow(call.get(2, "weight"), nodes, call.name)
    t.follow(call.get(3, "bias"), nodes, call.name)
    t.sizes[t.module, "num_channels"] = nodes
    t.sizes[t.module, "num_groups"] = nodes.view(groups, -1)[:, 0]
    t.set(call.out, along(nodes, 1, x.shape))


def layer_norm(t: Tracer, call: Call) -> None:
    """Everything normalised together leaves together: over channels, that pins them."""
    x, shape = call.get(0, "input"), call.get(1, "normalized_shape")
    labels = t.labels(x)
    t.nodes.tie(labels, range(x.dim() - len(shape), x.dim()), "layer normalisation over channels")
    for position, name in ((2, "weight"), (3, "bias")):
        vector = call.get(position, name)
        if isinstance(vector, Tensor):
            labels = t.combine(labels, t.labels(vector), call.name)
    t.set(call.out, labels)


def local_response_norm(t: Tracer, call: Call) -> None:
    """Neighbouring channels are mixed."""
    x = call.get(0, "input")
    t.nodes.tie(t.labels(x), [1], "local response normalisation")
    t.set(call.out, t.labels(x))


def prelu(t: Tracer, call: Call) -> None:
    """One slope a channel follows it; one slope for all puts no constraint."""
    x, slopes = call.get(0, "input"), call.get(1, "weight")
    nodes = t.channel(x, 1, call.name) if x.dim() > 1 else t.labels(x)
    if slopes.numel() > 1:
        t.follow(slopes, nodes, call.name)
        t.sizes[t.module, "num_parameters"] = nodes
    t.set(call.out, along(nodes, min(1, x.dim() - 1), x.shape))


def glu(t: Tracer, call: Call) -> None:
    """The i-th channels of both halves leave together."""
    x, dim = call.get(0, "input"), call.get(1, "dim", -1)
    labels = t.labels(x)
    half = x.shape[dim] // 2
    first, second = labels.narrow(dim, 0, half), labels.narrow(dim, half, half)
    t.nodes.unite(first, second, call.name)
    t.set(call.out, first)


def recurrent(t: Tracer, call: Call) -> None:
    """Layers and directions of one LSTM, GRU or RNN share their width, so units i are coupled."""
    packed = isinstance(call.args[3], (list, tuple))  # then the batch sizes stand second
    x, (state, weights, *rest) = call.args[0], call.args[2 if packed else 1 :]
    biased, layers, bidirectional = rest[0], rest[1], rest[4]
    sides = 2 if bidirectional else 1
    per_side = 4 if biased else 2
    if len(weights) != layers * sides * per_side or not all(t.registered(w) for w in weights):
        t.give_up(call, "a recurrent layer with a projection or computed weights")
        return
    hidden = t.axis(weights[1], 1, "reads")
    rows = x.numel() / x.shape[-1]
    into = t.channel(x, -1, call.name)
    for layer in range(layers):
        for side in range(sides):
            at = (layer * sides + side) * per_side
            _cell(t, weights[at : at + per_side], into, hidden, rows)
        into = hidden.repeat(sides)
    t.make(weights[0], hidden, whole_module=True)
    _states(t, state, hidden, call.name)
    for index, result in enumerate(call.results()):
        nodes = into if index == 0 else hidden
        t.set(result, along(nodes, result.dim() - 1, result.shape))


def cell(t: Tracer, call: Call) -> None:
    """One step of a recurrent cell."""
    x, state = call.args[0], call.args[1]
    weights = [w for w in call.args[2:6] if w is not None]
    if not all(t.registered(w) for w in weights):
        t.give_up(call, "a recurrent cell with computed weights")
        return
    hidden = t.axis(weights[1], 1, "reads")
    _cell(t, weights, t.channel(x, -1, call.name), hidden, x.numel() / x.shape[-1])
    t.make(weights[0], hidden, whole_module=True)
    _states(t, state, hidden, call.name)
    for result in call.results():
        t.set(result, along(hidden, result.dim() - 1, result.shape))


def attention(t: Tracer, call: Call) -> None:
    """Pin the operands; count the projections of `F.multi_head_attention_forward`."""
    t.give_up(call, "attention")
    if call.name != "multi_head_attention_forward":
        return
    query, key = call.args[0], call.args[1]
    rows, key_rows = query.numel() / query.shape[-1], key.numel() / key.shape[-1]
    shares = (
        (call.get(5, "in_proj_weight"), (rows + 2 * key_rows) / 3),
        (call.get(11, "out_proj_weight"), rows),
        (call.kwargs.get("q_proj_weight"), rows),
        (call.kwargs.get("k_proj_weight"), key_rows),
        (call.kwargs.get("v_proj_weight"), key_rows),
    )
    for weight, positions in shares:
        if isinstance(weight, Tensor) and t.registered(weight):
            t.count(weight, positions)


def _cell(t: Tracer, weights: Sequence[Tensor], into: Tensor, hidden: Tensor, rows: float) -> None:
    """Couple the gates of one layer and direction; `weights` is w_ih, w_hh and both biases."""
    w_ih, w_hh, *biases = weights
    gates = hidden.repeat(w_ih.shape[0] // len(hidden))
    t.nodes.unite(t.axis(w_ih, 1, "reads"), into, "recurrent layer")
    t.nodes.unite(t.axis(w_hh, 1, "reads"), hidden, "recurrent layer")
    for weight in (w_ih, w_hh):
        t.nodes.unite(t.axis(weight, 0, "makes"), gates, "recurrent layer")
        t.count(weight, rows)
    for bias in biases:
        t.follow(bias, gates, "recurrent layer")


def _states(t: Tracer, state: Tensor | Sequence[Tensor], hidden: Tensor, reason: str) -> None:
    """Couple a given initial state; the zeros a module makes itself put no constraint."""
    for tensor in (state,) if isinstance(state, Tensor) else state:
        if t.carries(tensor):
            t.nodes.unite(t.channel(tensor, -1, reason), hidden, reason)


def _leave_whole(t: Tracer, weight: Tensor, into: Tensor, made: Tensor, groups: int) -> None:
    """Let all inputs and outputs of one group of a grouped convolution leave together."""
    reason = "grouped convolution"
    into, made = into.reshape(groups, -1), made.reshape(groups, -1)
    t.nodes.tie(into, [1], reason)
    t.nodes.tie(made, [1], reason)
    t.nodes.unite(into[:, 0], made[:, 0], reason)
    t.sizes[t.owner(weight), "groups"] = made[:, 0]


def _computed_weight(t: Tracer, call: Call, into: Tensor) -> None:
    t.nodes.pin(into, f"read by a {call.name} whose weight is computed")
    if isinstance(weight := call.get(1, "weight"), Tensor):
        t.count_computed(weight, call.out.numel() / weight.shape[0])
    t.give_up(call, f"{call.name} with a computed weight")


RULES: dict[str, Rule] = {
    **{f"conv{n}d": conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
    "linear": linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm"), matmul),
    **dict.fromkeys(("embedding",), embedding),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "group_norm": group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "local_response_norm": local_response_norm,
    "prelu": prelu,
    "glu": glu,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
    **dict.fromkeys(("multi_head_attention_forward", "scaled_dot_product_attention"), attention),
}
