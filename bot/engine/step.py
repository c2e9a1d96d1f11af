"""One step of decoding: a token of every row goes in, the scores of the next one come out.

With one token a row, most of what transformers does is getting ready. For models in the shape of
Llama the same sums are made here with a third of the calls; all others go through transformers.
"""

from collections.abc import Callable
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

Step = Callable[[Tensor, Tensor, Cache], Tensor]
"""Tokens (rows, 1), the mask of all so far (rows, tokens), the cache → (rows, vocabulary)."""

MANY_TOKENS = 4096
"""Of all rows together, from which on a CPU matrix products take less time than torch's kernel."""

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
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    return step


class _LlamaStep:
    """Llama's forward pass for one token a row (Touvron et al. 2023, "LLaMA")."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model

    def __call__(self, tokens: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        network = self._model.model
        hidden = network.embed_tokens(tokens)  # (rows, 1, hidden size)
        cos, sin = network.rotary_emb(hidden, mask.sum(dim=1, keepdim=True) - 1)
        turn = (cos[:, None], _signed(sin)[:, None])
        hidden_from = _bias(mask, hidden.dtype)
        for number, layer in enumerate(network.layers):
            normed = _norm(layer.input_layernorm, hidden)
            hidden = hidden + self._attend(
                layer.self_attn, normed, turn, hidden_from, cache, number
            )
            normed = _norm(layer.post_attention_layernorm, hidden)
            mlp = layer.mlp
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        scores: Tensor = self._model.lm_head(_norm(network.norm, hidden[:, -1]))
        return scores

    def _attend(
        self,
        attention: Any,
        normed: Tensor,
        turn: tuple[Tensor, Tensor],
        bias: Tensor | None,
        cache: Cache,
        number: int,
    ) -> Tensor:
        rows, size = normed.shape[0], attention.head_dim
        queries, keys, values = (
            project(normed).view(rows, -1, 1, size)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):  # Qwen3
            queries = _norm(attention.q_norm, queries)
            keys = _norm(attention.k_norm, keys)
        keys, values = cache.update(_turned(keys, turn), values, number)
        # The heads that share keys are asked like tokens of one head: nothing is repeated.
        shared = _turned(queries, turn).view(rows, keys.shape[1], -1, size)
        if rows * keys.shape[2] < MANY_TOKENS or keys.device.type != "cpu":
            found = scaled_dot_product_attention(
                shared, keys, values, attn_mask=bias, scale=attention.scaling
            )
        else:
            scores = shared * attention.scaling @ keys.mT
            weights = (scores if bias is None else scores + bias).softmax(dim=-1)
            found = weights @ values
        answer: Tensor = attention.o_proj(found.reshape(rows, 1, -1))
        return answer


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


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What hides padding, (rows, 1, 1, tokens); None if there is none."""
    if bool(mask.all()):
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(mask == 0, float("-inf"))[:, None, None]
