"""One forward pass: the next tokens of every row go in, the logits of what follows come out.

With few tokens a row, most of transformers' time is overhead. For models in the shape of Llama the
same arithmetic is done here with a third of the calls, and prompts are prefilled by matrix products
where these are faster; everything else goes through transformers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from transformers import (
    Cache,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from bot.engine.local.attention import (
    additive_mask,
    blockwise_attention,
    decode_attention,
    matmul_is_faster,
)
from bot.engine.local.onednn_weights import concatenated_outputs

ForwardPass = Callable[[Tensor, Tensor, Cache, int], Tensor]
"""Token ids (rows, new), padding mask of all tokens so far (rows, tokens), cache, and how many of
the last positions need logits → logits (rows, wanted, vocabulary)."""

DECODE_TOKENS = 16
"""Most new tokens a row that count as decoding (one and its draft) and not as prefilling."""

POSITION_IS_COLUMN = ("gpt_neo", "mpt")
"""Model types that take a token's column in the cache for its position."""

LLAMA_SHAPED = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""Model classes that `_LlamaForwardPass` computes."""


def make_forward_pass(model: PreTrainedModel) -> ForwardPass:
    """Return the fastest forward pass for a model."""
    if type(model) in LLAMA_SHAPED and has_full_attention(model):
        return _LlamaForwardPass(model)
    return _transformers_forward_pass(model)


def has_full_attention(model: PreTrainedModel) -> bool:
    """Return whether every layer attends to all earlier tokens, wherever padding lies.

    False for sliding windows, and for models that take a column of the cache for a position.
    """
    if model.config.model_type in POSITION_IS_COLUMN:
        return False
    kinds = getattr(model.config, "layer_types", None)
    if kinds is None:
        return getattr(model.config, "sliding_window", None) is None
    return set(kinds) == {"full_attention"}


def _transformers_forward_pass(model: PreTrainedModel) -> ForwardPass:
    def forward_pass(tokens: Tensor, mask: Tensor, cache: Cache, wanted: int) -> Tensor:
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=_position_ids(mask, tokens.shape[1]),
            past_key_values=cache,
            logits_to_keep=last_positions(tokens.shape[1], wanted, tokens.device),
        ).logits
        return logits

    return forward_pass


def last_positions(width: int, count: int, device: torch.device) -> Tensor:
    """Return the indices of the last `count` of `width` positions, for `logits_to_keep`.

    With a number instead, transformers would take a view whose rows lie apart, and torch would copy
    the output matrix once for every row before it multiplies (docs/experiments.md, 2026-11-20).
    """
    return torch.arange(width - count, width, device=device)


class _LlamaForwardPass:
    """Forward pass of Llama (Touvron et al. 2023, "LLaMA")."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._fallback = _transformers_forward_pass(model)

    def __call__(self, tokens: Tensor, mask: Tensor, cache: Cache, wanted: int) -> Tensor:
        decoder = self._model.model
        hidden = decoder.embed_tokens(tokens)  # (rows, new, hidden size)
        new = tokens.shape[1]
        if new > DECODE_TOKENS and not matmul_is_faster(hidden):
            return self._fallback(tokens, mask, cache, wanted)
        cos, sin = decoder.rotary_emb(hidden, _position_ids(mask, new))
        rotation = (cos[:, None], _signed_sine(sin)[:, None])
        attend: Callable[..., Tensor] = (
            blockwise_attention if new > DECODE_TOKENS else decode_attention
        )
        bias = _attention_bias(mask, new, hidden.dtype)
        for number, layer in enumerate(decoder.layers):
            normed = _rms_norm(layer.input_layernorm, hidden)
            attention = layer.self_attn
            queries, keys, values = _project(attention, normed, rotation)
            keys, values = cache.update(keys, values, number)
            if layer is decoder.layers[-1]:  # the last layer is needed at the wanted positions only
                queries, hidden = queries[:, :, -wanted:], hidden[:, -wanted:]
                bias = None if bias is None else bias[:, :, -wanted:]
            attended = attend(queries, keys, values, bias, scaling=attention.scaling)
            hidden = hidden + attention.o_proj(attended.flatten(2))
            normed = _rms_norm(layer.post_attention_layernorm, hidden)
            mlp = layer.mlp
            gated = mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed))
            hidden += mlp.down_proj(gated)
        logits: Tensor = self._model.lm_head(_rms_norm(decoder.norm, hidden))
        return logits


def _project(
    attention: Any, normed: Tensor, rotation: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries and keys, rotated, and values, each (rows, heads, new, head size)."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    product = concatenated_outputs(projections, normed)
    heads = product.view(*normed.shape[:2], -1, attention.head_dim).transpose(1, 2)
    group_size = attention.num_key_value_groups  # query heads that share a key head
    key_heads = heads.shape[1] // (group_size + 2)
    rotated, values = heads[:, :-key_heads], heads[:, -key_heads:]
    if hasattr(attention, "q_norm"):  # Qwen3
        queries = _rms_norm(attention.q_norm, rotated[:, :-key_heads])
        keys = _rms_norm(attention.k_norm, rotated[:, -key_heads:])
        rotated = torch.cat((queries, keys), dim=1)
    rotated = _rotate(rotated, rotation)
    return rotated[:, :-key_heads], rotated[:, -key_heads:], values


def _attention_bias(mask: Tensor, count: int, dtype: torch.dtype) -> Tensor | None:
    """Return the additive mask of the last `count` tokens, (rows, 1, count, tokens).

    None if each may attend to everything.
    """
    if count == 1 and bool(mask.all()):
        return None
    return additive_mask(_causal_mask(mask, count), dtype)


def _causal_mask(mask: Tensor, count: int) -> Tensor:
    """Return where each of the last tokens may attend, (rows, 1, count, tokens)."""
    width = mask.shape[1]
    before = torch.ones(count, width, dtype=torch.bool, device=mask.device).tril(width - count)
    return before & (mask != 0)[:, None, None]


def _position_ids(mask: Tensor, count: int) -> Tensor:
    """Return the last tokens' positions in their texts, padding not counted, (rows, count)."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -count:]


def _rms_norm(module: Any, states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:], module.weight, module.variance_epsilon)


def _signed_sine(sin: Tensor) -> Tensor:
    """Negate the sine's first half, as `_rotate` needs it."""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def _rotate(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the rotary position embedding (Su et al. 2021, "RoFormer")."""
    cos, sin = rotation
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)
