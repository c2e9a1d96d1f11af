"""Attention by matrix products: in bf16 on a CPU the faster way there, and above all back.

torch's own kernel keeps no scores, which a long text needs. On short ones it takes two and a half
to ten times as long, and rounds less: its scores stay in fp32 (docs/experiments.md). So a model is
compared with itself in one way only, from before it learns to after.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bot.engine.local import LLAMA_SHAPED, additive_mask, matmul_attention, multiplies_bf16

MATRIX_PRODUCTS = "matrix_products"

MOST_SCORES = 2**23
"""Of all rows and heads, kept by each layer that learns; more are left to torch's own kernel."""


def attend_by_matrix_products(model: PreTrainedModel) -> None:
    """From now on, if the model is in the shape of Llama and on a CPU; others attend as ever."""
    usual = model.config._attn_implementation == "sdpa" and type(model) in LLAMA_SHAPED
    if usual and model.device.type == "cpu" and multiplies_bf16():
        AttentionInterface.register(MATRIX_PRODUCTS, _attend)
        AttentionMaskInterface.register(MATRIX_PRODUCTS, sdpa_mask)
        model.set_attn_implementation(MATRIX_PRODUCTS)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **named: Any,
) -> tuple[Tensor, None]:
    """softmax(q kᵀ · scaling) v, shape (rows, tokens, heads, size) (Vaswani et al. 2017).

    `query` is (rows, heads, tokens, size); `key` and `value` have fewer heads, each of which serves
    as many of the query's in a row. The mask is true where a token may look; without one it looks
    at all before.
    """
    rows, heads, tokens, _ = query.shape
    goes_on = tokens != key.shape[2]  # from a cache
    if goes_on or dropout or rows * heads * tokens**2 > MOST_SCORES:
        return sdpa_attention_forward(
            *(module, query, key, value, attention_mask),
            **{"scaling": scaling, "dropout": dropout, **named},
        )
    if attention_mask is None:
        attention_mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    bias = additive_mask(attention_mask, query.dtype)
    found = matmul_attention(query, key, value, bias, scaling=scaling)
    return found.transpose(1, 2).contiguous(), None
