"""Attention as people write it: one function from a module and its tokens to new tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, TOKENS = 16, 16


class Own(nn.Module):
    """Four heads in one projection, and the forward as a function."""

    heads, kv_heads = 4, 4

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = self.heads, WIDTH // self.heads
        self.scale = self.head_dim**-0.5
        self.width = WIDTH
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(9, self.heads))
        self.register_buffer("index", torch.arange(TOKENS**2) % 9)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.mixed = nn.Linear(self.heads, self.heads)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Shared(nn.Module):
    """Four heads of queries that share two of keys and values."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = 4, 2, 4
        self.q, self.k, self.v = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.proj, self.function = nn.Linear(16, WIDTH), function

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)
        return q, k, self.v(x).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.function(self, x)
        return self.proj(out.transpose(1, 2).flatten(2))


def packed(m: Own, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, n, _ = x.shape
    return m.qkv(x).view(b, n, 3, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def merged(m: Own, out: Tensor) -> Tensor:
    return m.proj(out.transpose(1, 2).flatten(2))


def written_out(m: Own, x: Tensor) -> Tensor:
    q, k, v = packed(m, x)
    return merged(m, (q @ k.transpose(-2, -1) * m.scale).softmax(-1) @ v)


def fused(m: Own, x: Tensor) -> Tensor:
    return merged(m, F.scaled_dot_product_attention(*packed(m, x)))


def scaled(m: Own, x: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (m.num_heads, -1)).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
    return merged(m, F.scaled_dot_product_attention(q, k, v, scale=m.scale))


def by_division(m: Own, x: Tensor) -> Tensor:
    b, n, c = x.shape
    q, k, v = m.qkv(x).split(m.width, dim=2)
    q, k, v = (t.view(b, n, m.num_heads, c // m.num_heads).transpose(1, 2) for t in (q, k, v))
    out = (q @ k.mT * m.scale).softmax(-1) @ v
    return m.proj(out.transpose(1, 2).contiguous().view(b, n, c))


def einsum(m: Own, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = m.qkv(x).view(b, n, 3, m.num_heads, m.head_dim).unbind(2)
    scores = (torch.einsum("bnhd,bmhd->bhnm", q, k) * m.scale).softmax(-1)
    out = torch.einsum("bhnm,bmhd->bnhd", scores, v)
    return m.proj(out.reshape(b, n, m.num_heads * m.head_dim))


def stacked(m: Own, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = (t.reshape(b * m.num_heads, n, m.head_dim) for t in packed(m, x))
    out = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * m.scale).softmax(-1), v)
    return merged(m, out.view(b, m.num_heads, n, m.head_dim))


def with_table(m: Own, x: Tensor) -> Tensor:
    q, k, v = packed(m, x)
    table = m.bias[m.index].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
    return merged(m, F.scaled_dot_product_attention(q, k, v, attn_mask=table, scale=m.scale))


def cosine(m: Own, x: Tensor) -> Tensor:
    q, k, v = packed(m, x)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * m.temperature.clamp(max=4).exp()
    return merged(m, scores.softmax(-1) @ v)


def talking_heads(m: Own, x: Tensor) -> Tensor:
    q, k, v = packed(m, x)
    scores = m.mixed((q @ k.mT * m.scale).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return merged(m, scores.softmax(-1) @ v)


def linear(m: Own, x: Tensor) -> Tensor:
    q, k, v = packed(m, x)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return merged(m, (q @ (k.mT @ v)) / (q @ k.sum(2, keepdim=True).mT + 1))


def repeated(m: Shared, x: Tensor) -> Tensor:
    q, k, v = m.split(x)
    times = m.num_heads // m.kv_heads
    k, v = (t.repeat_interleave(times, dim=1) for t in (k, v))
    return (q @ k.mT / 2).softmax(-1) @ v


def grouped(m: Shared, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*m.split(x), enable_gqa=True, scale=0.5)


def one_key(m: Shared, x: Tensor) -> Tensor:
    q, k, v = m.split(x)
    return (q @ k[:, :1].mT / 2).softmax(-1) @ v[:, :1]


class Multihead(nn.Module):
    """PyTorch's own, over the same tokens or over others of another width."""

    def __init__(self, cross: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        widths = {"kdim": 10, "vdim": 12} if cross else {}
        self.attn = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first, **widths)
        self.k, self.v = (nn.Linear(WIDTH, width) for width in (10, 12))
        self.cross, self.batch_first = cross, batch_first

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        y = x if self.batch_first else x.transpose(0, 1)
        k, v = (self.k(y), self.v(y)) if self.cross else (y, y)
        out, _ = self.attn(y, k, v, attn_mask=mask, need_weights=self.cross)
        return out if self.batch_first else out.transpose(0, 1)


class Tokens(nn.Module):
    """A class token, positions, one block around an attention, and a head.

    `normed` puts a LayerNorm in front of it, over the width of the residual stream.
    """

    def __init__(self, attention: nn.Module, normed: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.attention = attention
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = x + self.attention(self.norm(x))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x[:, 0] + x[:, 1:].mean(1))


KINDS: dict[str, Callable[[], nn.Module]] = {
    f.__name__.replace("_", " "): lambda f=f: Own(f)  # type: ignore[misc]
    for f in (
        *(written_out, fused, scaled, by_division, einsum, stacked, with_table, cosine),
        *(talking_heads, linear),
    )
}
KINDS |= {
    f.__name__.replace("_", " "): lambda f=f: Shared(f)  # type: ignore[misc]
    for f in (repeated, grouped, one_key)
}
KINDS |= {
    "multi-head": Multihead,
    "multi-head, sequence first": lambda: Multihead(batch_first=False),
    "multi-head over others": lambda: Multihead(cross=True),
}


def network(kind: str, normed: bool = True, seed: int = 0) -> nn.Module:
    """Build a small transformer with an attention of this kind."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tokens(KINDS[kind](), normed)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 1, 0.2)
    return model.eval()
