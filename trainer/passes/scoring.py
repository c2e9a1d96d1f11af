"""Log-probabilities of replies under a model, in forward passes of bounded size."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bot.engine.local import Weights, last_positions
from store.domain import Message
from trainer.passes.log_probs import log_probs_of
from trainer.passes.reply import Reply

TOKENS_PER_PASS = 1024
"""Largest number of tokens in one forward pass, padding included."""

TokenRow: TypeAlias = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the reply to it."""


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Merge the adapter into the weights for the block, which makes generation faster.

    The weights are copied first and copied back afterwards, because subtracting the adapter again
    would leave rounding errors. Four-bit weights would lose precision and are not merged.
    """
    adapted: list[Any] = [each for each in model.modules() if isinstance(each, LoraLayer)]
    layers = [each.get_base_layer() for each in adapted]
    if not all(layer.weight.is_floating_point() for layer in layers):
        yield
        return
    before = [layer.weight.detach().clone() for layer in layers]
    try:
        for each in adapted:
            each.merge()
        yield
    finally:
        for each in adapted:
            each.unmerge()
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.detach().copy_(weight)


def tokens_of(weights: Weights, prompt: Sequence[Message], reply: str, finished: bool) -> TokenRow:
    """Encode a prompt and its reply as the engine does, cut to the context length."""
    ids = weights.template.encode(prompt)[-(weights.context_tokens - 1) :]
    room = weights.context_tokens - len(ids)
    return ids, weights.template.encode_reply(reply, finished=finished)[:room]


def batches(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    """Group rows of similar length into batches of up to `TOKENS_PER_PASS`; order is not kept."""
    batch: list[TokenRow] = []
    for row in sorted(rows, key=lambda each: len(each[0]) + len(each[1])):
        width = len(row[0]) + len(row[1])
        if batch and width * (len(batch) + 1) > TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def reply_logits(model: Any, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
    """Return a model's logits at every reply position, and a mask of the positions that are real.

    Shapes (rows, tokens, vocabulary) and (rows, tokens), where tokens is the length of the longest
    reply; shorter replies are padded on the left.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    longest = max(len(reply) for _, reply in rows)
    ids = [[0] * (width - len(p) - len(r)) + p + r for p, r in rows]
    attended = [[0] * (width - len(p) - len(r)) + [1] * (len(p) + len(r)) for p, r in rows]
    real = [[0] * (longest - len(r)) + [1] * len(r) for _, r in rows]
    device = model.device
    attention = torch.tensor(attended, device=device)
    logits: Tensor = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=last_positions(width, longest + 1, device)[:-1],
        use_cache=False,
    ).logits
    return logits, torch.tensor(real, device=device)


@torch.inference_mode()
def log_probabilities(weights: Weights, rows: Sequence[TokenRow]) -> list[float]:
    """Return log p(reply | prompt) of each row, in their order; 0 for an empty reply."""
    found: dict[int, float] = {}
    for batch in batches([row for row in rows if row[1]]):
        logits, mask = reply_logits(weights.model, batch)
        longest = mask.shape[1]
        targets = torch.tensor(
            [[0] * (longest - len(reply)) + reply for _, reply in batch], device=logits.device
        )
        chosen = log_probs_of(targets[..., None], logits)[..., 0]  # (rows, tokens)
        for row, total in zip(batch, (chosen * mask).sum(dim=1).tolist(), strict=True):
            found[id(row)] = total
    return [found.get(id(row), 0.0) for row in rows]


def mean_nll(weights: Weights, replies: Sequence[Reply]) -> float:
    """Return the replies' negative log-likelihood in nats a token; NaN if they have no tokens.

    It is measured under the model's current weights, and without the end token.
    """
    rows = [tokens_of(weights, reply.prompt, reply.text, False) for reply in replies]
    count = sum(len(reply) for _, reply in rows)
    return -sum(log_probabilities(weights, rows)) / count if count else math.nan
