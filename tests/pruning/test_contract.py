"""Every method on networks without the usual parts: pruned as promised, or refused in words."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alprune.errors import PruneError
from alprune.models.cost import cost
from alprune.pruning import METHODS, prune

CLASSES, WIDTH = 5, 12
OUTPUTS = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, y.mean()),
    "dict": lambda y: {"features": y.detach(), "logits": y},
    "object": lambda y: SimpleNamespace(logits=y),
}


class Buffered(nn.Module):
    """A convolution whose weight is not trained."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(WIDTH, WIDTH, 3, 3) / 10)

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class Standardised(nn.Conv2d):
    """A convolution whose filters have mean 0 and deviation 1."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


PARTS = {
    "BatchNorm without scale": lambda: nn.BatchNorm2d(WIDTH, affine=False),
    "InstanceNorm": lambda: nn.InstanceNorm2d(WIDTH),
    "GroupNorm": lambda: nn.GroupNorm(4, WIDTH),
    "weight in a buffer": Buffered,
    "standardised weights": lambda: Standardised(WIDTH, WIDTH, 3, padding=1),
    "tokens": nn.ReLU,
}
OF_WIDTHS = {
    "GroupNorm": r"'part' \(GroupNorm\) has no rule in PreCrop",
    "tokens": r"'stem' \(Embedding\) has no rule in PreCrop",
    "weight in a buffer": "does not run at these widths.*cannot be cropped",
}
REFUSED = {
    ("taylor", "BatchNorm without scale"): "'part' has none.*use 3sp",
    ("taylor", "InstanceNorm"): "'part' has none.*use 3sp",
    **{(n, part): OF_WIDTHS[part] for n in METHODS if n.startswith("pre") for part in OF_WIDTHS},
}
BEFORE_TRAINING = [name for name, method in METHODS.items() if not method.early]
CASES = [
    pytest.param(
        method, part, output, marks=[] if (i + j) % len(OUTPUTS) == k else [pytest.mark.slow]
    )
    for i, method in enumerate(BEFORE_TRAINING)
    for j, part in enumerate(PARTS)
    for k, output in enumerate(OUTPUTS)
]


class Network(nn.Module):
    def __init__(self, part, output):
        super().__init__()
        torch.manual_seed(0)
        tokens = part == "tokens"
        self.stem = nn.Embedding(20, WIDTH) if tokens else nn.Conv2d(3, WIDTH, 3, padding=1)
        self.part = PARTS[part]()
        self.hidden = nn.Linear(WIDTH, 16)
        self.head = nn.Linear(16, CLASSES)
        self.pooled, self.output = 1 if tokens else (2, 3), OUTPUTS[output]

    def forward(self, x):
        x = self.part(self.stem(x)).relu().mean(self.pooled)
        return self.output(self.head(self.hidden(x).relu()))


def inputs(part):
    generator = torch.Generator().manual_seed(1)
    if part == "tokens":
        return torch.randint(20, (10, 6), generator=generator)
    return torch.randn(10, 3, 8, 8, generator=generator)


def logits_of(out):
    if isinstance(out, torch.Tensor):
        return out
    if isinstance(out, tuple):
        return out[0]
    return out["logits"] if isinstance(out, dict) else out.logits


@pytest.mark.parametrize(("method", "part", "output"), CASES)
def test_it_is_pruned_as_promised_or_refused_in_words(method, part, output):
    model, x, y = Network(part, output), inputs(part), torch.arange(10) % CLASSES
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reductions = dict(METHODS[method].reductions)
    if reductions == {"flops": 0.8}:  # out of reach of some of the parts
        reductions = {"flops": 0.6}
    options = {"min_channels": 1} | {f"{name}_reduction": r for name, r in reductions.items()}
    if (method, part) in REFUSED:
        with pytest.raises(PruneError, match=REFUSED[method, part]):
            prune(model, method, batch=(x, y), **options)
        return
    pruned = prune(model, method, batch=(x, y), **options)
    state = {name: tensor.clone() for name, tensor in pruned.model.state_dict().items()}
    logits = logits_of(pruned.model(x))
    assert logits.shape == (10, CLASSES)
    F.cross_entropy(logits, y).backward()
    entry = METHODS[method]
    assert pruned.macs_after == cost(pruned.model, x[:1]).macs
    reached = {"flops": pruned.flops_reduction, "params": pruned.params_reduction}
    if entry.masks:
        reached = {"params": pruned.plan.sparsity}
    assert all(reached[name] >= share - 1e-9 for name, share in reductions.items())
    assert not entry.saves_time or pruned.macs_after < pruned.macs_before
    if method.startswith("pre"):  # whose weights are fresh
        return
    for name, tensor in {n: t for n, t in state.items() if not n.endswith(".mask")}.items():
        whole = dense[name.replace("parametrizations.", "").replace(".original", "")]
        assert bool((torch.isin(tensor, whole) | (tensor == 0)).all()), name
