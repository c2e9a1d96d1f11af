"""One step: some tokens of every row go in, the scores of the next one come out.

With few tokens a row, most of what transformers does is getting ready. For models in the shape of
Llama the same sums are made here with a third of the calls, and prompts are read by matrix products
where these pay; everything else goes through transformers.
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

from bot.engine.local.attention import attend_in_parts, attend_to_few, bias_of, products_pay
from bot.engine.local.onednn_weights import side_by_side

Step = Callable[[Tensor, Tensor, Cache, int], Tensor]
"""Tokens (rows, some), the mask of all so far (rows, tokens), the cache, and how many of the last
tokens' scores are wanted → (rows, wanted, vocabulary)."""

FEW_TOKENS = 16
"""Of each row, up to which they are attended to like one: one and what is drafted after it."""

COUNT_COLUMNS = ("gpt_neo", "mpt")
"""Models that take a column of the cache for a place in the text."""

LLAMA_SHAPED = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def step_of(model: PreTrainedModel) -> Step:
    """How a model is best asked for the next token."""
    if type(model) in LLAMA_SHAPED and looks_everywhere(model):
        return _LlamaStep(model)
    return _transformers_step(model)


def looks_everywhere(model: PreTrainedModel) -> bool:
    """Whether every layer sees all tokens before, wherever padding lies; not the last few only."""
    if model.config.model_type in COUNT_COLUMNS:
        return False
    kinds = getattr(model.config, "layer_types", None)
    if kinds is None:
        return getattr(model.config, "sliding_window", None) is None
    return set(kinds) == {"full_attention"}


def _transformers_step(model: PreTrainedModel) -> Step:
    def step(tokens: Tensor, mask: Tensor, cache: Cache, wanted: int) -> Tensor:
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=_places(mask, tokens.shape[1]),
            past_key_values=cache,
            logits_to_keep=last(tokens.shape[1], wanted, tokens.device),
        ).logits
        return logits

    return step


def last(width: int, count: int, device: torch.device) -> Tensor:
    """The last `count` of `width` places, as `logits_to_keep` is best told.

    A number would make transformers take a view whose rows lie apart, and torch copy the output
    matrix once for every row before it multiplies.
    """
    return torch.arange(width - count, width, device=device)


class _LlamaStep:
    """Llama's forward pass (Touvron et al. 2023, "LLaMA")."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._usual = _transformers_step(model)

    def __call__(self, tokens: Tensor, mask: Tensor, cache: Cache, wanted: int) -> Tensor:
        network = self._model.model
        hidden = network.embed_tokens(tokens)  # (rows, some, hidden size)
        some = tokens.shape[1]
        if some > FEW_TOKENS and not products_pay(hidden):
            return self._usual(tokens, mask, cache, wanted)
        cos, sin = network.rotary_emb(hidden, _places(mask, some))
        turn = (cos[:, None], _signed(sin)[:, None])
        attend: Callable[..., Tensor] = attend_in_parts if some > FEW_TOKENS else attend_to_few
        bias = _bias(mask, some, hidden.dtype)
        for number, layer in enumerate(network.layers):
            normed = _norm(layer.input_layernorm, hidden)
            attention = layer.self_attn
            queries, keys, values = _projected(attention, normed, turn)
            keys, values = cache.update(keys, values, number)
            if layer is network.layers[-1]:  # nobody asks what becomes of the others
                queries, hidden = queries[:, :, -wanted:], hidden[:, -wanted:]
                bias = None if bias is None else bias[:, :, -wanted:]
            found = attend(queries, keys, values, bias, scaling=attention.scaling)
            hidden = hidden + attention.o_proj(found.flatten(2))
            normed = _norm(layer.post_attention_layernorm, hidden)
            mlp = layer.mlp
            gated = mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed))
            hidden += mlp.down_proj(gated)
        scores: Tensor = self._model.lm_head(_norm(network.norm, hidden))
        return scores


def _projected(
    attention: Any, normed: Tensor, turn: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (rows, heads, some, head size), the first two turned."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    product = side_by_side(projections, normed)
    heads = product.view(*normed.shape[:2], -1, attention.head_dim).transpose(1, 2)
    sharing = attention.num_key_value_groups  # queries to a key
    kept = heads.shape[1] // (sharing + 2)
    turned, values = heads[:, :-kept], heads[:, -kept:]
    if hasattr(attention, "q_norm"):  # Qwen3
        queries = _norm(attention.q_norm, turned[:, :-kept])
        turned = torch.cat((queries, _norm(attention.k_norm, turned[:, -kept:])), dim=1)
    turned = _turned(turned, turn)
    return turned[:, :-kept], turned[:, -kept:], values


def _bias(mask: Tensor, count: int, dtype: torch.dtype) -> Tensor | None:
    """What hides padding and what comes later from the last tokens, (rows, 1, count, tokens).

    None if there is nothing to hide.
    """
    if count == 1 and bool(mask.all()):
        return None
    return bias_of(_seen(mask, count), dtype)


def _seen(mask: Tensor, count: int) -> Tensor:
    """Where each of the last tokens may look, (rows, 1, count, tokens)."""
    width = mask.shape[1]
    before = torch.ones(count, width, dtype=torch.bool, device=mask.device).tril(width - count)
    return before & (mask != 0)[:, None, None]


def _places(mask: Tensor, count: int) -> Tensor:
    """The last tokens' places in their texts, (rows, count)."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -count:]


def _norm(module: Any, states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:], module.weight, module.variance_epsilon)


def _signed(sin: Tensor) -> Tensor:
    """The sine as `_turned` wants it: negative where the other half is taken away."""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def _turned(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al. 2021, "RoFormer")."""
    cos, sin = turn
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)
