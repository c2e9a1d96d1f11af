"""Log-probabilities of replies under a model, in forward passes of bounded size."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bot.engine.local import Weights, last_positions
from store.domain import Message
from trainer.passes.log_probs import log_probs_of
from trainer.proving.drift import Reply

SCORED_TOKENS = 1024
"""Tokens, padding included, of one forward pass."""

Scored = tuple[list[int], list[int]]
"""Ids of a prompt and of the reply to it."""


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """The adapter added to the weights, to write faster; afterwards they are what they were.

    Taking it off again would leave rounding behind, so they are copied. Weights in four bits would
    lose by it and stay as they are.
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


def tokens_of(weights: Weights, prompt: Sequence[Message], reply: str, finished: bool) -> Scored:
    """A prompt and a reply as the engine reads and writes them, cut to the context."""
    ids = weights.template.encode(prompt)[-(weights.context_tokens - 1) :]
    room = weights.context_tokens - len(ids)
    return ids, weights.template.encode_reply(reply, finished=finished)[:room]


def batches(rows: Sequence[Scored]) -> Iterator[list[Scored]]:
    """Rows of similar length, `SCORED_TOKENS` at a time; not in their order."""
    batch: list[Scored] = []
    for row in sorted(rows, key=lambda each: len(each[0]) + len(each[1])):
        width = len(row[0]) + len(row[1])
        if batch and width * (len(batch) + 1) > SCORED_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def reply_logits(model: Any, rows: Sequence[Scored]) -> tuple[Tensor, Tensor]:
    """A model's scores of every token at every place of the replies, and which places count.

    Shapes (rows, tokens, vocabulary) and (rows, tokens), where tokens is the longest reply's; the
    replies are flush to the right.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    longest = max(len(reply) for _, reply in rows)
    ids = [[0] * (width - len(p) - len(r)) + p + r for p, r in rows]
    mask = [[0] * (width - len(p) - len(r)) + [1] * (len(p) + len(r)) for p, r in rows]
    counts = [[0] * (longest - len(r)) + [1] * len(r) for _, r in rows]
    device = model.device
    attention = torch.tensor(mask, device=device)
    logits: Tensor = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=last_positions(width, longest + 1, device)[:-1],
        use_cache=False,
    ).logits
    return logits, torch.tensor(counts, device=device)


@torch.inference_mode()
def log_probabilities(weights: Weights, rows: Sequence[Scored]) -> list[float]:
    """log p(reply | prompt) of each row, in their order; 0 for an empty reply."""
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
    """Nats a token of the replies' text, under the model as it is now; NaN if there is none."""
    rows = [tokens_of(weights, reply.prompt, reply.text, False) for reply in replies]
    count = sum(len(reply) for _, reply in rows)
    return -sum(log_probabilities(weights, rows)) / count if count else math.nan
