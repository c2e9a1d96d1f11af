"""One step: some tokens of every row go in, the scores of the next one come out.

With one token a row, most of what transformers does is getting ready. For models in the shape of
Llama the same sums are made here with a third of the calls, and prompts are read by matrix products
where these pay; everything else goes through transformers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from transformers import (
    Cache,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from bot.engine.attention import attend_in_parts, bias_of, products_pay

Step = Callable[[Tensor, Tensor, Cache], Tensor]
"""Tokens (rows, some), the mask of all so far (rows, tokens), the cache → (rows, vocabulary)."""

MANY_TOKENS = 1536
"""Of all rows together, from which matrix products in bf16 on a CPU beat torch's kernel."""

LLAMA_SHAPED = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def step_of(model: PreTrainedModel) -> Step:
    """How a model is best asked for the next token."""
    if type(model) in LLAMA_SHAPED and looks_everywhere(model):
        return _LlamaStep(model)
    return _transformers_step(model)


def looks_everywhere(model: PreTrainedModel) -> bool:
    """Whether every layer sees all tokens before, not the last few only."""
    kinds = getattr(model.config, "layer_types", None)
    if kinds is None:
        return getattr(model.config, "sliding_window", None) is None
    return set(kinds) == {"full_attention"}


def _transformers_step(model: PreTrainedModel) -> Step:
    def step(tokens: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        logits: Tensor = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=_places(mask, tokens.shape[1]),
            past_key_values=cache,
            logits_to_keep=last(tokens.shape[1], 1, tokens.device),
        ).logits
        return logits[:, -1]

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

    def __call__(self, tokens: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        network = self._model.model
        hidden = network.embed_tokens(tokens)  # (rows, some, hidden size)
        if tokens.shape[1] > 1 and not products_pay(hidden):
            return self._usual(tokens, mask, cache)
        cos, sin = network.rotary_emb(hidden, _places(mask, tokens.shape[1]))
        turn = (cos[:, None], _signed(sin)[:, None])
        if tokens.shape[1] == 1:
            attend = partial(_one, bias=_bias(mask, hidden.dtype))
        else:
            seen = _seen(mask, tokens.shape[1])
            attend = partial(attend_in_parts, bias=bias_of(seen, hidden.dtype))
        for number, layer in enumerate(network.layers):
            normed = _norm(layer.input_layernorm, hidden)
            attention = layer.self_attn
            queries, keys, values = _projected(attention, normed)
            keys, values = cache.update(_turned(keys, turn), values, number)
            found = attend(_turned(queries, turn), keys, values, scaling=attention.scaling)
            hidden = hidden + attention.o_proj(found.reshape(*tokens.shape, -1))
            normed = _norm(layer.post_attention_layernorm, hidden)
            mlp = layer.mlp
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        scores: Tensor = self._model.lm_head(_norm(network.norm, hidden[:, -1]))
        return scores


def _projected(attention: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (rows, heads, some, head size)."""
    heads = (*normed.shape[:2], -1, attention.head_dim)
    queries, keys, values = (
        project(normed).view(heads).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if hasattr(attention, "q_norm"):  # Qwen3
        queries = _norm(attention.q_norm, queries)
        keys = _norm(attention.k_norm, keys)
    return queries, keys, values


def _one(
    queries: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor | None, scaling: float
) -> Tensor:
    """What one token finds, heads and sizes in their order; `bias` is (rows, 1, 1, tokens)."""
    rows, heads, tokens, size = keys.shape
    # The heads that share keys are asked like tokens of one head: nothing is repeated.
    shared = queries.reshape(rows, heads, -1, size)
    if rows * tokens < MANY_TOKENS or not products_pay(keys):
        return scaled_dot_product_attention(shared, keys, values, attn_mask=bias, scale=scaling)
    # oneDNN is slow to turn keys round, so the few queries are.
    scores = (keys @ (shared * scaling).mT).mT.contiguous()
    return (scores if bias is None else scores + bias).softmax(dim=-1) @ values


def _seen(mask: Tensor, count: int) -> Tensor:
    """Where each of the last tokens may look, (rows, 1, count, tokens)."""
    width = mask.shape[1]
    before = torch.ones(count, width, dtype=torch.bool, device=mask.device).tril(width - count)
    return before & (mask != 0)[:, None, None]


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What hides padding, (rows, 1, 1, tokens); None if there is none."""
    if bool(mask.all()):
        return None
    return bias_of((mask != 0)[:, None, None], dtype)


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
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin
