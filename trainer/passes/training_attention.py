"""Attention by matrix products, which is faster than torch's kernel in bf16 on a CPU.

torch's own kernel does not store the attention scores, which long texts need. On short texts it
takes two and a half to ten times as long, most of all in the backward pass. It also rounds less,
since it keeps scores in fp32 (docs/experiments.md), so a model must be compared only with itself
under the same kind of attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bot.engine.local import LLAMA_SHAPED, additive_mask, matmul_attention, multiplies_bf16

MATRIX_PRODUCTS = "matrix_products"
"""Name under which transformers knows this attention."""

MAX_SCORES = 2**23
"""Most attention scores of all rows and heads that a layer may store; longer texts use torch's
kernel."""


def attend_by_matrix_products(model: PreTrainedModel) -> None:
    """Switch a Llama-shaped model on a CPU to this attention; leave any other model as it is."""
    supported = model.config._attn_implementation == "sdpa" and type(model) in LLAMA_SHAPED
    if supported and model.device.type == "cpu" and multiplies_bf16():
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
    **options: Any,
) -> tuple[Tensor, None]:
    """Return softmax(q kᵀ · scaling) v, shape (rows, tokens, heads, size) (Vaswani et al. 2017).

    `query` is (rows, heads, tokens, size). `key` and `value` have fewer heads, each of which serves
    several consecutive heads of the query. The mask is True where a token may attend; without a
    mask, attention is causal.
    """
    rows, heads, tokens, _ = query.shape
    has_cache = tokens != key.shape[2]
    if has_cache or dropout or rows * heads * tokens**2 > MAX_SCORES:
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is None:
        attention_mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    bias = additive_mask(attention_mask, query.dtype)
    found = matmul_attention(query, key, value, bias, scaling=scaling)
    return found.transpose(1, 2).contiguous(), None
