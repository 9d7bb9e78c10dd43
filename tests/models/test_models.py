import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alprune.errors import ConfigError, ModelError
from alprune.models import INITS, MODELS, build, he_normal_, reinit
from alprune.models.construct import published_shape
from alprune.models.cost import cost
from alprune.models.vgg import vgg_c, vgg_d, vgg_like

# SNIP counts recurrent cells with one bias, and BatchNorm in the WRNs but not in the others:
# only so do 17.2m for WRN-22-8 and 15.2m for VGG-D come out.
SNIP_TABLES = {
    "alexnet-b": "8.5m",
    "alexnet-s": "5.1m",
    "gru-b": "404k",
    "gru-s": "104k",
    "lenet-300-100": "267k",
    "lenet-5-caffe": "431k",
    "lstm-b": "535k",
    "lstm-s": "137k",
    "vgg-c": "10.5m",
    "vgg-d": "15.2m",
    "vgg-like": "15.0m",
    "wrn-16-10": "17.1m",
    "wrn-16-8": "11.0m",  # printed as 10.0m, against the 548k kept at 95%
    "wrn-22-8": "17.2m",
}

# The same network elsewhere: its parameters, and those that its own stem has more than ours.
TORCHVISION = {
    "efficientnet-b0": ("efficientnet_b0", 0),
    "mobilenet-v2": ("mobilenet_v2", 0),
    "mobilenet-v3-small": ("mobilenet_v3_small", 0),
    "resnet18": ("resnet18", (7 * 7 - 3 * 3) * 3 * 64),
    "resnet34": ("resnet34", (7 * 7 - 3 * 3) * 3 * 64),
    "resnet50": ("resnet50", (7 * 7 - 3 * 3) * 3 * 64),
}

# He et al. 2016 (0.27 M), Tanaka et al.'s widths, Howard et al.'s table 1 with 10 classes.
COUNTED_BY_HAND = {
    "vgg19": 22_663_498,
    "patches": 256 * 6 * 6 * 3 + 2 * 512 + (512 * 9 + 1) * 10,
    "resnet20": 269_722,
    "resnet9": 9 * (3 * 64 + 64 * 128 * (1 + 2 * 2) + 128 * 256 + 256 * 512 + 2 * 512**2)
    + 2 * (64 + 3 * 128 + 256 + 3 * 512)
    + 513 * 10,
    "resnet9-small": 9 * (3 * 16 + 16 * 32 * (1 + 2 * 2) + 32 * 64 + 64 * 128 + 2 * 128**2)
    + 2 * (16 + 3 * 32 + 64 + 3 * 128)
    + 129 * 10,
    "wideresnet20": 1_073_962,
    "mobilenet-v1": 3_217_226,
    "efficientnet-lite0": 4_652_008 - 990 * 1281,  # as published, with 10 classes for 1,000
    "efficientnet-lite0-levels": 4_652_008 - 1000 * 1281 + 10 * 1793,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(model_name: str, batch: int = 2, small: bool = False) -> torch.Tensor:
    channels, height, width = MODELS[model_name].input_shape
    if small and height == 32:  # these take any size from 16 on
        height = width = 16
    return torch.randn(batch, channels, height, width, generator=generator(7))


def assert_same_logits(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Allow for sums in another order: kernels choose it by memory format, batch, alignment."""
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-4 * float(expected.abs().max()))


# Larger versions of networks that are among the others.
LARGE = {"alexnet-b", "efficientnet-lite0", "gru-b", "lstm-b", "mobilenet-v2", "resnet34",
         "resnet50", "vgg-c", "vgg-d", "vgg-like", "wideresnet20", "wrn-16-10",
         "wrn-22-8"}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in sorted(MODELS)],
)
def named_model(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, build(request.param, 10, seed=3)


def test_every_model_maps_a_batch_to_logits_and_has_finite_gradients(named_model):
    name, shared = named_model
    model = copy.deepcopy(shared).train()
    logits = model(images(name, small=True))
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([1, 8])).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def test_every_model_takes_one_example_in_eval_mode_as_in_a_batch(named_model):
    name, model = named_model
    model.eval()
    x = images(name, small=True)
    with torch.no_grad():
        both, one = model(x), model(x[1:])
    assert one.shape == (1, 10)
    assert_same_logits(one[0], both[1])


def test_every_model_gives_the_same_logits_in_channels_last(named_model):
    name, model = named_model
    model.eval()
    x = images(name, batch=1, small=True)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, got = model(x), last(x.to(memory_format=torch.channels_last))
    assert_same_logits(got, expected)


def test_every_model_is_drawn_from_its_seed_alone_and_loads_anothers_state(named_model):
    name, model = named_model
    before = torch.random.get_rng_state()
    same, other = build(name, 10, seed=3), build(name, 10, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    theirs = {key: value.clone() for key, value in other.state_dict().items()}
    for key, value in same.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
        if value.dim() > 1:
            assert not torch.equal(value, theirs[key]), key
    other.load_state_dict(model.state_dict())
    x = images(name, batch=1, small=True)
    with torch.no_grad():
        assert_same_logits(other.eval()(x), model.eval()(x))


def test_every_model_takes_grey_and_small_images_and_refuses_smaller(named_model):
    name, _ = named_model
    least = MODELS[name].least
    shape = (1, least, least + 3)
    with torch.no_grad():
        assert build(name, 4, shape).eval()(torch.zeros(3, *shape)).shape == (3, 4)
    if least > 1:
        with pytest.raises(ModelError, match=f"{least - 1}x40 pixels; it takes {least}x{least}"):
            build(name, 4, (3, least - 1, 40))


def test_every_model_has_a_checked_parameter_count():
    assert set(MODELS) == {*SNIP_TABLES, *TORCHVISION, *COUNTED_BY_HAND}


@pytest.mark.parametrize("name", sorted(SNIP_TABLES))
def test_parameters_match_the_tables_of_snip(name):
    model = build(name, 10)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not name.startswith("wrn"):
        norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        count -= sum(p.numel() for norm in norms for p in norm.parameters())
    printed = f"{count / 1e6:.1f}m" if SNIP_TABLES[name].endswith("m") else f"{count / 1e3:.0f}k"
    assert printed == SNIP_TABLES[name]


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_parameters_match_torchvision_apart_from_the_stem(name):
    theirs, stem = TORCHVISION[name]
    import torchvision

    reference = torchvision.models.get_model(theirs, weights=None, num_classes=10)
    expected = sum(p.numel() for p in reference.parameters()) - stem
    assert sum(p.numel() for p in build(name, 10).parameters()) == expected


@pytest.mark.parametrize("name", sorted(COUNTED_BY_HAND))
def test_parameters_match_those_counted_by_hand(name):
    assert sum(p.numel() for p in build(name, 10).parameters()) == COUNTED_BY_HAND[name]


@pytest.mark.parametrize("kind", [vgg_c, vgg_d, vgg_like])
def test_networks_for_tiny_imagenet_halve_64_pixels_in_their_first_layer(kind):
    name = kind.__name__.replace("_", "-")
    small = cost(build(name, 200), torch.zeros(1, 3, 32, 32))
    tiny = cost(kind(200, (3, 64, 64), first_stride=2), torch.zeros(1, 3, 64, 64))
    assert (tiny.params, tiny.macs) == (small.params, small.macs)
    assert tiny.by_layer == small.by_layer


def test_alexnet_quarters_64_pixels_in_its_first_layer():
    small, tiny = build("alexnet-s", 200), build("alexnet-s", 200, (3, 64, 64))
    assert (small.features[0].stride, tiny.features[0].stride) == ((2, 2), (4, 4))
    by_layer = cost(tiny, torch.zeros(1, 3, 64, 64)).by_layer
    assert by_layer == cost(small, torch.zeros(1, 3, 32, 32)).by_layer


def test_vgg19_takes_mnist():
    assert build("vgg19", 10, (1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_vgg19_has_sixteen_convolutions_in_five_blocks():
    features = build("vgg19", 10).features
    widths = [m.out_channels for m in features if isinstance(m, nn.Conv2d)]
    assert widths == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    pooled = [i for i, m in enumerate(features) if isinstance(m, nn.MaxPool2d)]
    assert pooled == [6, 13, 26, 39]
    assert features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 2, 2)


def test_resnet20_shortcut_adds_to_the_first_channels_at_every_second_pixel():
    block = build("resnet20", 10).blocks[3].eval()  # 16 to 32 channels, stride 2
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8, generator=generator())
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, :16] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["lstm-s", "gru-s"])
def test_recurrent_models_read_the_rows_from_top_to_bottom(name):
    model = build(name, 10, (2, 5, 6)).double()
    x = torch.randn(3, 2, 5, 6, dtype=torch.float64, generator=generator())
    kind = nn.LSTMCell if name == "lstm-s" else nn.GRUCell
    cell = kind(128, 128).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in model.rnn.state_dict().items()})
    state = None
    for row in range(5):
        pixels = torch.cat([x[:, 0, row], x[:, 1, row]], dim=1)
        state = cell(model.embed(pixels), state)
    last = state[0] if name == "lstm-s" else state
    torch.testing.assert_close(model(x), model.fc(last))


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'resnet20'"):
        build("resnet-20", 10)
    with pytest.raises(ConfigError, match="Did you mean '?resnet50"):
        build("torchvision:resnet5", 10)


@pytest.mark.parametrize(
    ("classes", "shape", "message"),
    [
        (0, None, "got 0 classes"),
        (10, (32, 32), "got input shape"),
        (10, (0, 32, 32), "each at least 1"),
    ],
)
def test_impossible_sizes_are_refused(classes, shape, message):
    with pytest.raises(ModelError, match=message):
        build("vgg19", classes, shape)


def test_torchvision_models_take_grey_images_and_a_seed():
    before = torch.random.get_rng_state()
    models = [build("torchvision:resnet18", 7, (1, 64, 64), seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert models[0].conv1.weight.shape == (64, 1, 7, 7)
    assert torch.equal(models[0].conv1.weight, models[1].conv1.weight)
    assert not torch.equal(models[0].fc.weight, models[2].fc.weight)
    assert models[0](torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert models[0].training


def test_torchvision_model_that_cannot_take_the_input_is_refused():
    with pytest.raises(ModelError, match=r"'torchvision:alexnet' fails on .* \(3, 16, 16\)"):
        build("torchvision:alexnet", 10, (3, 16, 16))


def linear_model(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), classes))


def by_position(num_classes: int) -> nn.Module:
    return nn.Linear(1, num_classes)


def not_a_module(classes: int, input_shape: tuple[int, int, int]) -> str:
    return "network"


def with_a_tuple(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Flatten(1), nn.Unflatten(1, (1, -1)), nn.LSTM(12, 5))


class Changes(nn.Module):
    def __init__(self, in_training) -> None:
        super().__init__()
        self.head, self.in_training = nn.LazyLinear(5), in_training
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        logits = self.head(x.flatten(1))
        return self.in_training(self, logits) if self.training else logits


def with_side_outputs(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return Changes(lambda model, logits: [logits, logits])


def with_a_buffer_that_grows(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    def keep(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
        model.last = logits.detach().mean(1)
        return logits

    return Changes(keep)


def lazy_model(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return Changes(lambda model, logits: logits)


def test_lazy_layers_of_a_users_network_get_their_shapes():
    model = build(f"{__name__}:lazy_model", 5, (1, 3, 4))
    assert (model.head.in_features, model.head.weight.shape) == (12, (5, 12))


NOT_CALLABLE = 3


def test_a_users_function_gets_classes_and_input_shape_by_name():
    a, b, c = (build(f"{__name__}:linear_model", 5, (2, 3, 4), seed=s) for s in (0, 0, 1))
    assert a(torch.zeros(6, 2, 3, 4)).shape == (6, 5)
    assert torch.equal(a[1].weight, b[1].weight)
    assert not torch.equal(a[1].weight, c[1].weight)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("by_position", ConfigError, r"expected by_position\(classes=..., input_shape=...\)"),
        ("NOT_CALLABLE", ConfigError, "is a int"),
        ("not_a_module", ModelError, "returned a str"),
        ("with_a_tuple", ModelError, "maps an input of shape .* to tuple"),
        ("with_side_outputs", ModelError, "returns list in training mode for 2 inputs"),
        ("with_a_buffer_that_grows", ModelError, r"buffer 'last' .*, from \(1,\) to \(2,\)"),
    ],
)
def test_a_users_function_that_breaks_the_contract_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        build(f"{__name__}:{function}", 5, (1, 3, 4))


def zoo() -> nn.ModuleDict:
    """One of each layer that the initialisations know, with every parameter and buffer at 7."""
    layers = nn.ModuleDict(
        {
            "conv": nn.Conv2d(32, 64, (3, 5)),
            "grouped": nn.Conv2d(64, 128, 3, groups=4),
            "transposed": nn.ConvTranspose2d(64, 32, 3, groups=2),
            "linear": nn.Linear(200, 100),
            "lstm": nn.LSTM(30, 50, num_layers=2, bidirectional=True, proj_size=20),
            "gru": nn.GRU(40, 60),
            "cell": nn.RNNCell(70, 60),
            "bn": nn.BatchNorm2d(3),
            "ln": nn.LayerNorm(4),
            "plain": nn.BatchNorm1d(2, affine=False),
            "plain_linear": nn.Linear(90, 80, bias=False),
        }
    )
    with torch.no_grad():
        for value in layers.state_dict().values():
            value.fill_(7)
    return layers


# By hand: how many inputs an output adds up, how many outputs an input reaches.
FANS = {
    "conv.weight": (32 * 15, 64 * 15),
    "grouped.weight": (16 * 9, 32 * 9),
    "transposed.weight": (32 * 9, 16 * 9),
    "linear.weight": (200, 100),
    "lstm.weight_ih_l0": (30 + 20, 50),
    "lstm.weight_hh_l0": (30 + 20, 50),
    "lstm.weight_ih_l1_reverse": (40 + 20, 50),
    "lstm.weight_hr_l0": (50, 20),
    "gru.weight_ih_l0": (40 + 60, 60),
    "gru.weight_hh_l0": (40 + 60, 60),
    "cell.weight_hh": (70 + 60, 60),
    "plain_linear.weight": (90, 80),
}


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he", lambda fan_in, fan_out: (2 / fan_in) ** 0.5),
        ("vs-h", lambda fan_in, fan_out: (2 / fan_in) ** 0.5),
        ("vs-x", lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
        ("vs-l", lambda fan_in, fan_out: (1 / fan_in) ** 0.5),
        ("rn", lambda fan_in, fan_out: 0.1),
        ("tn", lambda fan_in, fan_out: 0.1 * 0.8796),  # of a normal cut off at 2 deviations
    ],
)
def test_weights_have_the_deviation_of_the_formula(init, std):
    layers = zoo()
    INITS[init](layers, generator())
    state = layers.state_dict()
    for key, fans in FANS.items():
        assert float(state[key].std()) == pytest.approx(std(*fans), rel=0.07), key
        assert abs(float(state[key].mean())) < 0.15 * std(*fans), key
    if init == "tn":
        assert max(float(state[key].abs().max()) for key in FANS) <= 0.2


def test_biases_are_zero_but_for_forget_gates_and_norms_are_the_identity():
    layers = zoo()
    he_normal_(layers, generator())
    for key, value in layers.named_parameters():
        kind, _, own = key.partition(".")
        if own.startswith("bias_ih") and kind == "lstm":
            expected = torch.zeros(4, 50)
            expected[1] = 1
            assert torch.equal(value, expected.flatten()), key
        elif own.startswith("bias"):
            assert not value.any(), key
    for norm in ("bn", "ln"):
        assert torch.equal(layers[norm].weight, torch.ones_like(layers[norm].weight))
    for norm in ("bn", "plain"):
        assert not layers[norm].running_mean.any()
        assert torch.equal(layers[norm].running_var, torch.ones_like(layers[norm].running_var))
        assert layers[norm].num_batches_tracked == 0


def test_he_keeps_the_signal_of_a_deep_network_and_default_loses_it():
    model = nn.Sequential(*[m for _ in range(20) for m in (nn.Linear(256, 256), nn.ReLU())])
    x = torch.randn(64, 256, generator=generator(1))
    kept = {}
    for init in ("he", "default"):
        INITS[init](model, generator())
        with torch.no_grad():
            kept[init] = float(model(x).square().mean() / x.square().mean())
    assert 0.2 < kept["he"] < 5
    assert kept["default"] < 1e-3


@pytest.mark.parametrize("init", sorted(INITS))
def test_every_init_depends_on_the_generator_alone(init):
    zoos = [zoo() for _ in range(3)]
    before = torch.random.get_rng_state()
    for layers, seed in zip(zoos, (0, 0, 1), strict=True):
        INITS[init](layers, generator(seed))
    assert torch.equal(before, torch.random.get_rng_state())
    states = [layers.state_dict() for layers in zoos]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
        assert value.dim() < 2 or not torch.equal(value, states[2][key]), key
        assert value.dim() < 2 or not (value == 7).any(), key


def test_he_draws_the_same_numbers_in_any_memory_format_and_precision():
    plain, other = nn.Conv2d(8, 16, 3), nn.Conv2d(8, 16, 3)
    other = other.to(memory_format=torch.channels_last, dtype=torch.bfloat16)
    for model in (plain, other):
        he_normal_(model, generator())
    assert other.weight.dtype == torch.bfloat16
    assert torch.equal(plain.weight.bfloat16(), other.weight)


class WithToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.full((3,), 7.0))
        self.words = nn.Embedding(20, 8)
        self.attend = nn.MultiheadAttention(8, 2)
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(7)


@pytest.mark.parametrize("init", ["he", "default"])
def test_reinit_resets_what_it_can_and_names_what_it_cannot(init):
    first, second = WithToken(), WithToken()
    before = torch.random.get_rng_state()
    left = reinit(first, generator(), init)
    reinit(second, generator(), init)
    assert torch.equal(before, torch.random.get_rng_state())
    assert "token" in left
    assert {name.partition(".")[0] for name in left} == {"token", "conv"}
    for key, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(key)), key
        assert bool((value == 7).all()) == (key in left), key


def test_unknown_init_is_refused():
    with pytest.raises(ConfigError, match="unknown initialisation 'hee'.*Did you mean 'he'"):
        reinit(nn.Linear(2, 2), generator(), "hee")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("init", sorted(INITS))
def test_inits_on_cuda_leave_its_random_state_alone(init):
    plain, there = zoo(), zoo().cuda()
    before = torch.cuda.get_rng_state()
    INITS[init](plain, generator())
    INITS[init](there, generator())
    assert torch.equal(before, torch.cuda.get_rng_state())
    for key, value in there.state_dict().items():
        assert init == "default" or torch.equal(value.cpu(), plain.state_dict()[key]), key


class ByTheFirstImages(nn.Module):
    """Has a buffer that takes its shape from the images, once."""

    def __init__(self, settles):
        super().__init__()
        self.settles = settles
        self.linear = nn.Linear(192, 10)
        self.register_buffer("positions", torch.zeros(1))

    def forward(self, x):
        if len(self.positions) != x.shape[-1] or not self.settles:
            self.positions = torch.zeros(x.shape[-1] + (0 if self.settles else len(self.positions)))
        return self.linear(x.flatten(1))


def settling(classes, input_shape):
    return ByTheFirstImages(settles=True)


def restless(classes, input_shape):
    return ByTheFirstImages(settles=False)


def test_a_buffer_may_take_its_shape_from_the_first_images_and_no_other_one_later():
    model = build(f"{__name__}:settling", 10, (3, 8, 8))
    assert model.positions.shape == (8,)
    with pytest.raises(ModelError, match="changes the shape of its buffer 'positions'"):
        build(f"{__name__}:restless", 10, (3, 8, 8))


@pytest.mark.parametrize("name", ["timm:resnt18", "torchvision:resnt18"])
def test_a_misspelt_network_of_a_library_has_no_published_shape(name):
    with pytest.raises(ConfigError, match="Did you mean .*resnet18"):
        published_shape(name)
