"""Attention by matrix products: the faster way where oneDNN multiplies bf16 on a CPU.

There torch's own kernel takes twice as long to prefill a prompt. It keeps no scores, though, whose
memory grows with the square of a text: here they are computed in blocks. For decoding, the number
of keys decides between the two.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bot.engine.local.onednn_weights import multiplies_bf16

MATMUL_MIN_KEYS = 1536
"""Keys of all rows together from which matrix products in bf16 on a CPU beat torch's kernel in
decoding (docs/experiments.md, 2026-11-22)."""

BLOCK_SCORES = 2**21
"""Scores computed at a time; for larger tensors torch asks the system for memory each time
(docs/experiments.md, 2026-11-22)."""


def matmul_is_faster(states: Tensor) -> bool:
    """Return whether matrix products beat torch's kernel for this device and dtype."""
    on_cpu = states.device.type == "cpu" and states.dtype == torch.bfloat16
    return on_cpu and multiplies_bf16()


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where `mask` allows attention and the dtype's minimum elsewhere, in its shape.

    A row without any allowed key attends uniformly instead of giving NaN.
    """
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, scaling: float
) -> Tensor:
    """Compute softmax(q kᵀ · scaling) v, (rows, tokens, heads, size) (Vaswani et al. 2017).

    `query` is (rows, heads, tokens, size), its tokens the last of the keys'; `key` and `value` have
    fewer heads, each shared by as many consecutive query heads. `bias`, (rows, 1, tokens, keys), is
    the additive mask; later tokens must be masked.
    """
    rows, heads, tokens, size = query.shape
    before = key.shape[2] - tokens
    block_tokens = min(tokens, max(1, BLOCK_SCORES // (heads * key.shape[2])))
    block_rows = max(1, BLOCK_SCORES // (heads * block_tokens * key.shape[2]))
    output = query.new_empty(rows, tokens, heads, size)
    for row in range(0, rows, block_rows):
        block = slice(row, row + block_rows)
        for start in range(0, tokens, block_tokens):
            end = min(tokens, start + block_tokens)
            visible = slice(before + end)
            output[block, start:end] = matmul_attention(
                query[block, :, start:end],
                key[block, :, visible],
                value[block, :, visible],
                bias[block, :, start:end, visible],
                scaling=scaling,
            ).transpose(1, 2)
    return output


def decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, *, scaling: float
) -> Tensor:
    """Compute `blockwise_attention` for a few new tokens; `bias` may be None for one."""
    rows, heads, tokens, size = keys.shape
    new = queries.shape[2]
    # Query heads that share keys are treated as more tokens of one head: no key is copied.
    grouped = queries.reshape(rows, heads, -1, size)
    if bias is not None and new > 1:
        bias = bias.repeat(1, 1, grouped.shape[2] // new, 1)
    if rows * tokens < MATMUL_MIN_KEYS or not matmul_is_faster(keys):
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=bias, scale=scaling)
    else:  # oneDNN is slow to transpose keys, so the few queries are transposed
        scores = (keys @ (grouped * scaling).mT).mT.contiguous()
        if bias is not None:
            scores = scores + bias
        output = scores.softmax(dim=-1) @ values
    return output.reshape(rows, -1, new, size).transpose(1, 2)


def matmul_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, scaling: float
) -> Tensor:
    """Compute attention with all scores in memory, as a backward pass needs them.

    Returns (rows, heads, tokens, size); arguments as for `blockwise_attention`.
    """
    rows, heads, tokens, size = query.shape
    # Query heads that share keys are treated as more tokens of one head: no key is copied.
    queries = (query * scaling).reshape(rows, key.shape[1], -1, size)
    scores = (queries @ key.mT).view(rows, heads, tokens, -1)
    weights = (scores + bias).softmax(dim=-1)
    return (weights.view(*queries.shape[:3], -1) @ value).view(query.shape)
