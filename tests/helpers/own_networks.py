"""Networks as people write them, each with what pruning them has to come to."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, Parameter, Sequential
from torch.utils.checkpoint import checkpoint

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """A network, and the largest share of its channels that may be pinned."""

    build: Callable[[], nn.Module]
    pinned: float = 0.0
    normalised: str = "pinned"
    tokens: bool = False


CASES: dict[str, Case] = {}


def network(**options: Any) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Add a class of networks to the cases."""

    def add(kind: type[nn.Module]) -> type[nn.Module]:
        CASES[kind.__name__] = Case(kind, **options)
        return kind

    return add


class Base(nn.Module):
    """A stem of 12 channels, a body of the same shape, a pooled head."""

    def __init__(self, **layers: Any) -> None:
        super().__init__()
        self.stem = Conv2d(3, 12, 3, padding=1)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = Linear(layers.get("head_width", 12), CLASSES)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(F.relu(self.stem(x))).mean((2, 3)))


def conv(into: int, out: int, k: int = 3, **more: Any) -> Conv2d:
    return Conv2d(into, out, k, padding=k // 2, **more)


@network()
class ShufflesPixels(Base):
    def __init__(self):
        super().__init__(up=conv(12, 48), shuffle=nn.PixelShuffle(2))

    def body(self, x):
        return self.shuffle(self.up(x))


@network()
class GatesLinearly(Base):
    def __init__(self):
        super().__init__(value=conv(12, 24), mix=conv(12, 12, 1))

    def body(self, x):
        return x + self.mix(F.glu(self.value(x), dim=1))


@network()
class Squeezes(Base):
    def __init__(self):
        super().__init__(fc=Sequential(Linear(12, 4), nn.ReLU(), Linear(4, 12), nn.Sigmoid()))

    def body(self, x):
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


@network()
class InvertsResiduals(Base):
    def __init__(self):
        depthwise = conv(36, 36, groups=36, bias=False)
        layers = conv(12, 36, 1), nn.BatchNorm2d(36), nn.ReLU6(True), depthwise, nn.Hardswish()
        super().__init__(conv=Sequential(*layers, conv(36, 12, 1), nn.BatchNorm2d(12)))
        self.use_res_connect = True

    def body(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


@network()
class ConnectsDensely(Base):
    def __init__(self):
        parts = [Sequential(nn.BatchNorm2d(12 + 6 * i), conv(12 + 6 * i, 6)) for i in range(3)]
        super().__init__(parts=nn.ModuleList(parts), head_width=30)

    def body(self, x):
        features = [x]
        for part in self.parts:
            features.append(F.relu(part(torch.cat(features, 1))))
        return torch.cat(features, dim=1)


@network()
class DropsPaths(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), b=conv(16, 12), rate=0.3)

    def body(self, x):
        y = self.b(F.relu(self.a(x)))
        if not self.training:
            return x + y
        keep = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device)
        return x + y.div(1 - self.rate) * (keep + 1 - self.rate).floor_()


@network()
class Checkpoints(Base):
    def __init__(self):
        super().__init__(block=Sequential(conv(12, 20), nn.ReLU(), conv(20, 12)))

    def body(self, x):
        return x + checkpoint(self.block, x, use_reentrant=False)


@network()
class GoesDownAndUp(Base):
    def __init__(self):
        up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        super().__init__(down=conv(12, 16, stride=2), up=up, out=conv(20, 12), last=conv(12, 12))

    def body(self, x):
        y = self.up(F.relu(self.down(x)))
        dy, dx = x.size(2) - y.size(2), x.size(3) - y.size(3)
        y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        y = self.out(torch.cat([x, y], dim=1))
        z = F.interpolate(self.last(F.max_pool2d(y, 2)), scale_factor=2, mode="bilinear")
        return F.interpolate(z, size=y.shape[-2:]) + y


@network()
class ShiftsImages(Base):
    def __init__(self):
        super().__init__(a=conv(12, 14), b=conv(14, 12))

    def body(self, x):
        x = torch.roll(self.a(x), shifts=(-1, 2), dims=(2, 3))
        return self.b(F.relu(F.pad(x, (1, 1, 1, 1), mode="reflect")))


@network(pinned=1.0)
class ShiftsChannels(Base):  # the number of channels divided by 4 is cut off: stays whole
    def __init__(self):
        super().__init__(a=conv(12, 14), b=conv(14, 12))

    def body(self, x):
        fold = x.size(1) // 4
        out = torch.zeros_like(x)
        out[:, :fold, :-1] = x[:, :fold, 1:]
        out[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
        out[:, 2 * fold :] = x[:, 2 * fold :]
        return self.b(F.relu(self.a(out)))


@network()
class NormalisesGroups(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), n=nn.GroupNorm(4, 16), b=conv(16, 12))
        self.i = nn.InstanceNorm2d(16, affine=True)

    def body(self, x):
        return self.b(F.relu(self.i(self.n(self.a(x)))))


@network(pinned=0.6)
class ReadsRows(nn.Module):  # the width of the first state is written into the code
    def __init__(self):
        super().__init__()
        self.conv = conv(3, 8)
        self.lstm = nn.LSTM(8, 10, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = Linear(20, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean(2).permute(0, 2, 1)
        h0 = torch.zeros(4, x.size(0), 10, dtype=x.dtype, device=x.device)
        out, _ = self.lstm(x, (h0, torch.zeros_like(h0)))
        return self.fc(out[:, -1, :])


@network()
class HasManyHeads(Base):
    def __init__(self):
        heads = {"colour": Linear(12, 3), "logits": Linear(12, CLASSES)}
        super().__init__(a=conv(12, 12), heads=nn.ModuleDict(heads))
        del self.head

    def forward(self, x):
        x = F.relu(self.a(F.relu(self.stem(x)))).mean((2, 3))
        return {name: head(x) for name, head in self.heads.items()}


@network()
class CentresByABuffer(Base):
    def __init__(self):
        super().__init__(a=conv(12, 10), b=conv(10, 12))
        self.register_buffer("mean", torch.linspace(-1, 1, 10).view(1, 10, 1, 1))

    def body(self, x):
        x = self.a(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(x.mean((0, 2, 3), keepdim=True), alpha=0.1)
        return self.b(F.relu(x - self.mean))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


@network(pinned=1.0)
class HasAFunctionOfItsOwn(Base):
    def __init__(self):
        super().__init__(a=conv(12, 10), b=conv(10, 12), c=conv(12, 12))

    def body(self, x):
        return self.c(F.relu(self.b(Sign.apply(self.a(x)))))


@network()
class WorksInPlace(Base):
    def __init__(self):
        super().__init__(a=conv(12, 12), n=nn.BatchNorm2d(12), act=nn.LeakyReLU(inplace=True))

    def body(self, x):
        y = self.n(self.a(x))
        y += x
        y *= 0.5
        y[:, :, 0] = 0
        y[:, :, torch.arange(16) % 5 == 1] = -1
        return self.act(y.clamp_(-3, 3))


@network(pinned=0.6)
class PadsItsShortcut(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16, stride=2), b=conv(16, 16), head_width=16)

    def body(self, x):
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return F.relu(self.b(F.relu(self.a(x))) + short)


@network(pinned=0.5)
class AddsAPart(Base):
    def __init__(self):
        super().__init__(a=conv(12, 8), b=conv(12, 12))

    def body(self, x):
        return self.b(torch.cat([x[:, :8] + self.a(x), x[:, 8:]], 1))


@network()
class RoutesByName(Base):
    def __init__(self):
        routes = {"big": conv(12, 16), "small": conv(12, 8), "end": conv(24, 12)}
        super().__init__(routes=nn.ModuleDict(routes), order=["big", "small"])

    def body(self, x):
        return self.routes["end"](torch.cat([self.routes[k](x).relu() for k in self.order], 1))


@network()
class SharesALayer(Base):
    def __init__(self):
        super().__init__(a=conv(12, 12), n=nn.ModuleList(nn.BatchNorm2d(12) for _ in range(3)))

    def body(self, x):
        for norm in self.n:
            x = x + F.relu(norm(self.a(x)))
        return x


@network(tokens=True, pinned=0.5)
class TiesItsEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(CLASSES, 16)
        self.hidden = Sequential(Linear(16, 32), nn.GELU(), Linear(32, 16))
        self.out = Linear(16, CLASSES, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        return self.out((x + self.hidden(x)).mean(1))


@network(tokens=True, normalised="follow")
class EncodesTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16, padding_idx=0)
        self.register_buffer("places", torch.randn(1, 40, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = Linear(16, CLASSES)

    def forward(self, ids):
        mask = ids == 0
        x = self.embed(ids) * math.sqrt(16) + self.places[:, : ids.size(1)]
        x = self.encoder(x, src_key_padding_mask=mask)
        return self.head(x.masked_fill(mask[..., None], 0).sum(1))


@network(tokens=True, normalised="follow")
class DecodesQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.queries = Parameter(torch.randn(3, 16))
        layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(16))
        self.head = Linear(16, CLASSES)

    def forward(self, ids):
        memory = self.embed(ids)
        queries = self.queries.unsqueeze(0).repeat(len(ids), 1, 1)
        return self.head(self.decoder(queries, memory).mean(1))


@network(tokens=True, normalised="follow")
class Translates(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.both = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        self.head = Linear(16, CLASSES)

    def forward(self, ids):
        mask = self.both.generate_square_subsequent_mask(ids.size(1), dtype=self.head.weight.dtype)
        x = self.embed(ids)
        return self.head(self.both(x, x, tgt_mask=mask, tgt_is_causal=True).mean(1))


@network(tokens=True, normalised="follow")
class AttendsCausally(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_head, self.n_embd = 4, 16
        self.wte, self.wpe = nn.Embedding(CLASSES, 16), nn.Embedding(40, 16)
        self.ln_1, self.ln_2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.c_attn, self.c_proj = Linear(16, 48), Linear(16, 16)
        self.mlp = Sequential(Linear(16, 64), nn.GELU(approximate="tanh"), Linear(64, 16))
        self.register_buffer("bias", torch.tril(torch.ones(40, 40)).view(1, 1, 40, 40))
        self.head = Linear(16, CLASSES, bias=False)

    def attend(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        x = x + self.attend(self.ln_1(x))
        return self.head((x + self.mlp(self.ln_2(x))).mean(1))


@network(normalised="follow")
class AttendsOverChannels(Base):
    def __init__(self):
        super().__init__(qkv=conv(12, 36, 1), proj=conv(12, 12, 1))

    def body(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, c, h * w).unbind(1)
        attention = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)
        return x + self.proj((attention @ v).view(b, c, h, w))


@network(normalised="follow")
class AttendsByEinsum(Base):
    def __init__(self):
        super().__init__(heads=2, to_out=Linear(8, 12))
        self.to_q, self.to_k, self.to_v = (Parameter(torch.randn(12, 2, 4) / 3) for _ in range(3))

    def body(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (torch.einsum("bnc,chd->bhnd", tokens, w) for w in self.weights())
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
        out = torch.einsum("bhij,bhjd->bihd", scores.softmax(dim=-1), v).flatten(2)
        return (tokens + self.to_out(out)).mT.reshape_as(x)

    def weights(self):
        return self.to_q, self.to_k, self.to_v


class Standardised(Conv2d):
    def forward(self, x):
        mean = self.weight.mean(dim=[1, 2, 3], keepdim=True)
        std = self.weight.std(dim=[1, 2, 3], keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / std, self.bias, self.stride, self.padding)


class ScaledStandardised(Conv2d):
    def __init__(self, *sizes: int, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.gain = Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        fan_in = self.weight[0].numel()
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        scale = torch.rsqrt(torch.clamp(var * fan_in, min=1e-4)) * self.gain
        weight = self.weight * scale - mean * scale
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@network(normalised="follow")
class StandardisesWeights(Base):
    def __init__(self):
        super().__init__(a=Standardised(12, 16, 3, padding=1), n=nn.GroupNorm(4, 16))
        self.b = Standardised(16, 12, 1)

    def body(self, x):
        return self.b(F.relu(self.n(self.a(x))))


@network(normalised="follow")
class ScalesByFanIn(Base):
    def __init__(self):
        a, b = ScaledStandardised(12, 16, 3, padding=1), ScaledStandardised(16, 12, 1)
        super().__init__(a=a, b=b)

    def body(self, x):
        return x + 0.2 * self.b(F.gelu(self.a(x)) * 1.7)


class LowRank(nn.Module):
    def __init__(self, base: Linear, rank: int = 3, alpha: float = 6.0) -> None:
        super().__init__()
        self.base, self.scaling = base, alpha / rank
        self.lora_A = Parameter(torch.randn(rank, base.in_features) / 4)
        self.lora_B = Parameter(torch.randn(base.out_features, rank) / 4)
        for parameter in base.parameters():
            parameter.requires_grad_(False)

    def forward(self, x):
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scaling


@network()
class AdaptsByLowRank(Base):
    def __init__(self):
        super().__init__(a=LowRank(Linear(12, 20)), b=LowRank(Linear(20, 12)))

    def body(self, x):
        return self.b(F.relu(self.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


@network(pinned=0.7)
class KeepsWeightsOrthogonal(Base):
    def __init__(self):
        orthogonal = nn.utils.parametrizations.orthogonal(Linear(12, 12))
        super().__init__(a=conv(12, 12), o=orthogonal, b=Linear(12, 16), head_width=16)

    def body(self, x):
        return self.b(self.o(F.relu(self.a(x)).flatten(2).mT).relu()).mT.unsqueeze(-1)


@network()
class CompilesAPart(Base):
    def __init__(self):
        super().__init__(a=torch.compile(conv(12, 16)), b=conv(16, 12))

    def body(self, x):
        return self.b(F.relu(self.a(x)))


@network()
class HelpsItselfInTraining(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), b=conv(16, 12), aux=Linear(16, CLASSES))

    def forward(self, x):
        middle = F.relu(self.a(F.relu(self.stem(x))))
        logits = self.head(self.b(middle).mean((2, 3)))
        return (logits, self.aux(middle.mean((2, 3)))) if self.training else logits


@network(pinned=0.6)
class PullsToCentres(Base):
    def __init__(self):
        super().__init__(a=conv(12, 12), loss=torch.zeros(()))
        self.register_buffer("centres", torch.randn(CLASSES, 12))

    def forward(self, x):
        feature = F.relu(self.a(F.relu(self.stem(x)))).mean((2, 3))
        if self.training:
            self.loss = torch.cdist(feature, self.centres).min(1).values.mean()
        return self.head(feature)


@network()
class KeepsWeightsInLists(Base):
    def __init__(self):
        super().__init__()
        shapes = [(16, 12), (14, 16), (12, 14)]
        self.weights = nn.ParameterList(torch.randn(*shape) / 4 for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(shape[0]) for shape in shapes)

    def body(self, x):
        x = x.flatten(2).transpose(1, 2)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.tanh(F.linear(x, weight, bias))
        return x.transpose(1, 2).unsqueeze(-1)


@network(pinned=1.0)
class ChoosesKernels(Base):
    def __init__(self):
        super().__init__(route=Linear(12, 3), last=conv(12, 12))
        self.experts = Parameter(torch.randn(3, 12, 12, 3, 3) / 9)

    def body(self, x):
        b, c, h, w = x.shape
        routing = torch.sigmoid(self.route(x.mean((2, 3))))
        kernels = torch.einsum("be,eoikl->boikl", routing, self.experts)
        kernels = kernels.reshape(b * 12, c, 3, 3)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return self.last(F.relu(x.view(b, 12, h, w)))


@network(pinned=0.7)
class ShufflesByHand(Base):  # 4 channels shuffled into 3 groups: all depend on each other
    def __init__(self):
        super().__init__(a=conv(12, 12, groups=3), b=conv(12, 12, groups=3), groups=3)

    def body(self, x):
        b, c, h, w = x.size()
        x = self.a(x).view(b, self.groups, c // self.groups, h, w)
        return self.b(x.transpose(1, 2).contiguous().view(b, -1, h, w).relu())


@network()
class WeighsBranches(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16, 3), b=conv(12, 16, 1), fc=Linear(16, 32), end=conv(16, 12))

    def body(self, x):
        parts = torch.stack([self.a(x), self.b(x)], dim=1)
        weights = self.fc(parts.sum(1).mean((2, 3))).view(x.size(0), 2, -1).softmax(dim=1)
        return self.end((parts * weights[:, :, :, None, None]).sum(dim=1))


@network(normalised="follow", pinned=0.7)
class MixesTokens(nn.Module):  # what depends on the number of tokens stays whole
    def __init__(self):
        super().__init__()
        self.patches = Conv2d(3, 16, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(24)
        self.tokens = Sequential(Linear(16, 10), nn.GELU(), Linear(10, 16))
        self.expand, self.shrink = Linear(16, 48), Linear(24, 16)
        self.spatial, self.head = nn.Conv1d(16, 16, 1), Linear(16, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        u, v = self.expand(x).chunk(2, dim=-1)
        return self.head((x + self.shrink(u * self.spatial(self.norm2(v)))).mean(dim=1))


@network()
class TakesTheLarger(Base):
    def __init__(self):
        super().__init__(a=conv(12, 24), b=conv(12, 12))

    def body(self, x):
        x = self.a(x)
        x = x.view(x.size(0), x.size(1) // 2, 2, *x.shape[2:]).max(dim=2)[0]
        return self.b(x)


@network()
class ComparesDirections(Base):
    def __init__(self):
        super().__init__(a=conv(12, 14), scale=16.0)
        self.prototypes = Parameter(torch.randn(CLASSES, 14))
        del self.head

    def forward(self, x):
        feature = F.normalize(self.a(F.relu(self.stem(x))).mean((2, 3)), dim=1)
        return self.scale * F.linear(feature, F.normalize(self.prototypes))


@network(normalised="follow")
class NormalisesByHand(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), b=conv(16, 12), eps=1e-6)
        self.weight, self.bias = Parameter(torch.ones(16)), Parameter(torch.zeros(16))
        self.gamma = Parameter(torch.ones(12))

    def body(self, x):
        y = self.a(x)
        u = y.mean(1, keepdim=True)
        s = (y - u).pow(2).mean(1, keepdim=True)
        y = (y - u) / torch.sqrt(s + self.eps)
        y = self.b(F.gelu(self.weight[:, None, None] * y + self.bias[:, None, None]))
        y = (x + y).permute(0, 2, 3, 1)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.gamma
        return y.permute(0, 3, 1, 2)


@network()
class RemembersByHand(Base):
    def __init__(self):
        super().__init__(gates=conv(24, 48), hidden=12)

    def body(self, x):
        h = torch.zeros(x.size(0), self.hidden, *x.shape[2:], dtype=x.dtype)
        c = torch.zeros_like(h)
        for _ in range(2):
            i, f, o, g = torch.split(self.gates(torch.cat([x, h], dim=1)), self.hidden, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


@network(pinned=0.04)
class AveragesExperts(Base):  # the softmax over the experts
    def __init__(self):
        experts = [Sequential(conv(12, 10), nn.ReLU(), conv(10, 12)) for _ in range(3)]
        super().__init__(experts=nn.ModuleList(experts), gate=Linear(12, 3))

    def body(self, x):
        weights = self.gate(x.mean((2, 3))).softmax(-1)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (outs * weights[..., None, None, None]).sum(1)


@network(pinned=1.0)
class FollowsATeacher(Base):
    def __init__(self):
        super().__init__(a=conv(12, 12))
        self.teacher = copy.deepcopy(self.a).requires_grad_(False)

    def body(self, x):
        y = self.a(x)
        if self.training:
            with torch.no_grad():
                pairs = zip(self.teacher.parameters(), self.a.parameters(), strict=True)
                for t, s in pairs:
                    t.mul_(0.9).add_(s.detach(), alpha=0.1)
            self.distance = F.mse_loss(y, self.teacher(x))
        return F.relu(y)


@network(pinned=0.4)
class Blurs(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), b=conv(16, 12))
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3) / 9)

    def body(self, x):
        x = F.relu(self.a(x))
        kernel = self.kernel.repeat(x.shape[1], 1, 1, 1)
        return self.b(F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1]))


@network()
class KnowsPlaces(Base):
    def __init__(self):
        super().__init__(a=conv(14, 12))
        self.places = Parameter(torch.randn(1, 12, 16, 16))

    def body(self, x):
        x = x + self.places
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
        return self.a(torch.cat([x, rows, columns], dim=1))


@network(pinned=0.08)
class CutsUnequally(Base):  # one channel of each part stays
    def __init__(self):
        parts = nn.ModuleList(conv(5, 5, groups=5) for _ in range(2))
        super().__init__(a=conv(12, 14), parts=parts, b=conv(14, 12))

    def body(self, x):
        one, two, rest = F.relu(self.a(x)).chunk(3, dim=1)
        one = self.parts[0](one)
        return self.b(torch.cat([one, self.parts[1](two + one), rest], 1))


@network()
class AssertsShapes(Base):
    def __init__(self):
        super().__init__(a=conv(12, 16), b=conv(16, 12), channels=12)

    def body(self, x):
        b, c, h, w = x.shape
        assert c == self.channels and x.dim() == 4, f"expected {self.channels} channels, got {c}"
        y = self.a(x)
        assert list(y.shape) == [b, self.a.out_channels, h, w]
        assert torch.isfinite(y).all() and not torch.isnan(y).any(), "not finite"
        return self.b(y.view(b, -1, h * w).view(b, -1, h, w).relu())
