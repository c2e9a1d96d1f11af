"""Attention by matrix products: on a CPU the faster way there and above all back.

torch's own kernel keeps no scores, which a long text needs; on short ones in bf16 it takes five to
ten times as long on some processors, and on none much less (docs/experiments.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bot.engine.step import LLAMA_SHAPED

MATRIX_PRODUCTS = "matrix_products"

MOST_SCORES = 2**24
"""Of one layer's attention, all rows and heads together; more are left to torch's own kernel."""


@contextmanager
def by_matrix_products(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile a model in the shape of Llama on a CPU attends that way; others as ever."""
    before = model.config._attn_implementation
    if type(model) not in LLAMA_SHAPED or model.device.type != "cpu" or before != "sdpa":
        yield
        return
    AttentionInterface.register(MATRIX_PRODUCTS, _attend)
    AttentionMaskInterface.register(MATRIX_PRODUCTS, sdpa_mask)
    model.set_attn_implementation(MATRIX_PRODUCTS)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **named: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling) v, shape (rows, tokens, heads, size); (Vaswani et al. 2017).

    `query` is (rows, heads, tokens, size); `key` and `value` have fewer heads, each of which serves
    as many of the query's in a row. The mask is true where a token may look.
    """
    rows, heads, tokens, size = query.shape
    seen = key.shape[2]
    if tokens != seen or rows * heads * tokens * seen > MOST_SCORES:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **named
        )
    if attention_mask is None:
        attention_mask = torch.ones(tokens, seen, dtype=torch.bool, device=query.device).tril()
    # The heads that share keys are asked like tokens of one head: nothing is repeated.
    queries = (query * scaling).reshape(-1, heads // key.shape[1] * tokens, size)
    scores = queries @ key.reshape(-1, seen, size).mT
    hidden = torch.finfo(scores.dtype).min
    scores = scores.view(rows, heads, tokens, seen).masked_fill(~attention_mask, hidden)
    weights = scores.softmax(dim=-1).view(len(queries), -1, seen)
    found = weights @ value.reshape(-1, seen, size)
    return found.view(rows, heads, tokens, size).transpose(1, 2).contiguous(), None
