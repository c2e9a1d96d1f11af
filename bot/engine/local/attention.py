"""Attention by matrix products: the faster way where oneDNN multiplies bf16 on a processor.

torch's own kernel takes twice as long to read a prompt there. It keeps no scores, which a long text
needs: here they are computed in parts. For a few tokens at a time it depends on how many there are
to look at.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bot.engine.local.onednn_weights import multiplies_bf16

MANY_TOKENS = 1536
"""Of all rows together, from which matrix products in bf16 on a CPU beat torch's kernel."""

FEW_SCORES = 2**21
"""At a time: memory for more is asked of the system each time (docs/experiments.md)."""


def products_pay(states: Tensor) -> bool:
    """Whether they do where these are, and in their precision."""
    on_cpu = states.device.type == "cpu" and states.dtype == torch.bfloat16
    return on_cpu and multiplies_bf16()


def bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides all that is not to be seen, in the shape of `mask`: (rows, 1, tokens, keys).

    Where nothing is, everything is seen alike: padding is made of numbers, too.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)


def attend_in_parts(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, scaling: float
) -> Tensor:
    """softmax(q kᵀ · scaling) v, shape (rows, tokens, heads, size) (Vaswani et al. 2017).

    `query` is (rows, heads, tokens, size), its tokens the last of the keys'; `key` and `value` have
    fewer heads, each of which serves as many of the query's in a row. `bias` is `bias_of` where
    each token may look, never at those after it.
    """
    rows, heads, tokens, size = query.shape
    before = key.shape[2] - tokens
    some_tokens = min(tokens, max(1, FEW_SCORES // (heads * key.shape[2])))
    some_rows = max(1, FEW_SCORES // (heads * some_tokens * key.shape[2]))
    found = query.new_empty(rows, tokens, heads, size)
    for row in range(0, rows, some_rows):
        of = slice(row, row + some_rows)
        for start in range(0, tokens, some_tokens):
            end = min(tokens, start + some_tokens)
            seen = slice(before + end)
            found[of, start:end] = attend_at_once(
                query[of, :, start:end],
                *(key[of, :, seen], value[of, :, seen]),
                bias[of, :, start:end, seen],
                scaling=scaling,
            ).transpose(1, 2)
    return found


def attend_to_few(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, *, scaling: float
) -> Tensor:
    """`attend_in_parts` for a few tokens of each row; `bias` may be None for one."""
    rows, heads, tokens, size = keys.shape
    few = queries.shape[2]
    # The heads that share keys are asked like tokens of one head: nothing is repeated.
    shared = queries.reshape(rows, heads, -1, size)
    if bias is not None and few > 1:
        bias = bias.repeat(1, 1, shared.shape[2] // few, 1)
    if rows * tokens < MANY_TOKENS or not products_pay(keys):
        found = scaled_dot_product_attention(shared, keys, values, attn_mask=bias, scale=scaling)
    else:  # oneDNN is slow to turn keys round, so the few queries are
        scores = (keys @ (shared * scaling).mT).mT.contiguous()
        found = (scores if bias is None else scores + bias).softmax(dim=-1) @ values
    return found.reshape(rows, -1, few, size).transpose(1, 2)


def attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, scaling: float
) -> Tensor:
    """The same with all scores in memory, for a way back; shape (rows, heads, tokens, size)."""
    rows, heads, tokens, size = query.shape
    # The heads that share keys are asked like tokens of one head: nothing is repeated.
    queries = (query * scaling).reshape(rows, key.shape[1], -1, size)
    scores = (queries @ key.mT).view(rows, heads, tokens, -1)
    weights = (scores + bias).softmax(dim=-1)
    return (weights.view(*queries.shape[:3], -1) @ value).view(query.shape)
