"""Multi-head attention whose heads, and the widths of queries and values, can be narrowed."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` written out, with the same parameters under the same names.

    PyTorch's own computes the width of a head from the embedding, so neither could change alone.
    Here the number of heads, the width of queries and keys and that of values are attributes, and
    the scale of the scores stays that of the unpruned network.
    """

    query_width: int
    value_width: int
    scale: float

    def forward(  # noqa: D102 - as nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        same = query is key and key is value
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._project(query, key, value, same)
        q = self._split(q, self.query_width)
        k = self._split(k, self.query_width)
        v = self._split(v, self.value_width)
        mask = self._mask(attn_mask, key_padding_mask, q)
        rate = self.dropout if self.training else 0.0
        scores = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            scores = (scores if mask is None else scores + mask).softmax(-1)
            scores = F.dropout(scores, rate, self.training)
            out = scores @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, rate, scale=self.scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if scores is not None:
            scores = scores.mean(1) if average_attn_weights else scores
            scores = scores if batched else scores.squeeze(0)
        if not batched:
            return out.squeeze(0), scores
        return out if self.batch_first else out.transpose(0, 1), scores

    def _project(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> list[Tensor]:
        wide, deep = self.num_heads * self.query_width, self.num_heads * self.value_width
        sizes = [wide, wide, deep]
        if self.in_proj_weight is not None and same:
            made = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            return list(made.split(sizes, -1))
        biases: Any = (None, None, None)
        if self.in_proj_bias is not None:
            biases = self.in_proj_bias.split(sizes)
        if self.in_proj_weight is not None:
            weights: Any = self.in_proj_weight.split(sizes)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        operands = zip((query, key, value), weights, biases, strict=True)
        return [F.linear(x, weight, bias) for x, weight, bias in operands]

    def _split(self, x: Tensor, width: int) -> Tensor:
        return x.unflatten(-1, (self.num_heads, width)).transpose(1, 2)  # (b, heads, n, width)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
    ) -> Tensor | None:
        """Bring both masks to one that is added to the scores."""
        masks = []
        if attn_mask is not None:  # (n, n) or (b * heads, n, n)
            deep = (-1, self.num_heads, *attn_mask.shape[1:])
            masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.view(deep))
        if key_padding_mask is not None:  # (b, n)
            masks.append(key_padding_mask.view(-1, 1, 1, key_padding_mask.shape[-1]))
        total = None
        for mask in masks:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -math.inf)
            total = mask if total is None else total + mask
        return total


def open_attention(model: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` inside a model, in place, by an `OpenAttention`.

    Left as they are: subclasses with a forward of their own, and modules with extra keys and
    values (`add_bias_kv`, `add_zero_attn`).
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only PyTorch's own attention takes nested tensors
        if type(module) is not nn.MultiheadAttention:
            continue
        if module.bias_k is not None or module.add_zero_attn:
            continue
        width = module.head_dim
        module.__class__ = OpenAttention
        module.query_width = module.value_width = width
        module.scale = width**-0.5
        module._qkv_same_embed_dim = False  # keeps encoder layers from reading the weights
