"""Networks of several inputs, by position and by name."""

import copy

import pytest
import torch
from torch import nn

from alprune import Plan, prune, rebuild
from alprune.errors import ModelError, PruneError


class Two(nn.Module):
    """An image and the number of a place, which may be left out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3)
        self.place = nn.Embedding(7, 24)
        self.hidden = nn.Linear(24, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, image, place, scale=None):
        x = self.conv(image).relu().mean((2, 3)) + self.place(place)
        x = self.hidden(x).relu()
        return self.head(x if scale is None else x * scale[:, None])


def inputs(b=6):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(b, 3, 8, 8, generator=generator)
    return image, torch.randint(7, (b,), generator=generator), torch.rand(b, generator=generator)


LABELS = torch.arange(6)


@pytest.mark.parametrize("method", ["3sp", "3sp-ca", "taylor", "snip", "3sp-iterative", "dense"])
@pytest.mark.parametrize("by", ["position", "name"])
def test_a_network_of_several_inputs_is_pruned_and_rebuilt(method, by):
    torch.manual_seed(0)
    model = Two()
    whole = copy.deepcopy(model.state_dict())
    image, place, scale = inputs()
    given = (image, place) if by == "position" else {"place": place, "image": image, "scale": scale}
    pruned = prune(model, method, batch=(given, LABELS))
    assert type(pruned.model) is Two and type(model) is Two
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    out = pruned.model(*given) if by == "position" else pruned.model(**given)
    nn.functional.cross_entropy(out, LABELS).backward()
    plan = Plan.from_json(pruned.plan.to_json())
    assert plan == pruned.plan
    again = rebuild(Two(), plan, pruned.model.state_dict())
    assert torch.equal(again(image, place), pruned.model(image, place))
    if method == "3sp":
        assert pruned.flops_reduction >= 0.5 and not pruned.pinned_share
        assert pruned.model.place.weight.shape[1] == pruned.widths["conv"] < 24


def test_several_inputs_give_the_plan_that_one_gives():
    class Fixed(Two):
        def forward(self, image):
            return super().forward(image, torch.zeros(len(image), dtype=torch.int64))

    image, _, _ = inputs()
    torch.manual_seed(0)
    one = prune(Fixed(), batch=(image, LABELS))
    torch.manual_seed(0)
    two = prune(Two(), batch=((image, torch.zeros(6, dtype=torch.int64)), LABELS))
    assert (two.plan.kept, two.macs_after) == (one.plan.kept, one.macs_after)


def test_several_batches_of_several_inputs_are_accumulated():
    image, place, _ = inputs()
    torch.manual_seed(0)
    model, batches = Two(), [((image, place), LABELS), ((image + 1, place.flip(0)), LABELS)]
    kept = [prune(model, batch=b).plan.kept for b in (batches, *batches)]
    assert kept[0] != kept[1] and kept[0] != kept[2]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (((inputs()[0], "here"), LABELS), "or several such pairs"),
        (((), LABELS), "Several inputs are a tuple"),
        ((inputs()[:2], LABELS[:3]), "or several such pairs"),
        ([(inputs()[:2], LABELS), ((inputs()[0],), LABELS)], "differ in the names, shapes"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(PruneError, match=message):
        prune(Two(), batch=batch)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": inputs()[0], "plaice": inputs()[1]}, r"Two.forward.*'place'"),
        ((*inputs(), inputs()[2]), r"Two.forward.*too many positional arguments"),
        (inputs()[:1], r"Two.forward.*'place'"),
        ((inputs()[0][:, :2], inputs()[1]), "Two fails on an example.*2 channels"),
    ],
)
def test_arguments_that_the_forward_does_not_take_are_refused(given, message):
    with pytest.raises(ModelError, match=message):
        prune(Two(), batch=(given, LABELS))


def test_a_forward_set_on_the_instance_is_refused():
    model = Two()
    model.forward = lambda image, place: Two.forward(model, image, place)
    with pytest.raises(ModelError, match="forward set on the instance"):
        prune(model, batch=(inputs()[:2], LABELS))


@pytest.mark.parametrize("change", [("[3, 8, 8]", "[3, 8, 9]"), ('"image"', '"im age"')])
def test_a_plan_with_other_inputs_is_refused(change):
    image, place, _ = inputs()
    text = prune(Two(), batch=({"image": image, "place": place}, LABELS)).plan.to_json()
    assert change[0] in text
    with pytest.raises(PruneError, match="not a plan"):
        Plan.from_json(text.replace(*change))
