"""What holds a model in place while it learns: the base's answers to everyday questions.

What is never trained on is forgotten first (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal"). Showing the base's answers as good ones is not enough; matching its whole
distribution over them is (Li & Hoiem 2016, "Learning without forgetting"): docs/experiments.md.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from bot.engine.weights import Weights
from trainer.drift import Reply
from trainer.scoring import Scored, reply_log_probs, tokens_of

LIKELIEST = 64
"""Tokens that are told apart at each place; all others count as one."""

LEAST_PROBABILITY = 1e-6
"""Of all others together, or the logarithm of nothing would be asked for."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A batch of answers and what the base thinks of them; shapes (rows, tokens, likeliest)."""

    rows: Sequence[Scored]
    tokens: Tensor
    log_probs: Tensor


class Anchor:
    """The distance of a model from the base, over a few of the base's answers at a time.

    Made while the weights are still the base's. Of several processes each takes its own order, by
    the `seed`.
    """

    def __init__(
        self, weights: Weights, replies: Sequence[Reply], *, batch_size: int, seed: int
    ) -> None:
        assert replies, "an anchor needs something to hold on to"
        rows = [tokens_of(weights, each.prompt, each.text, each.finished) for each in replies]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches = [
            hold(weights.model, rows[start : start + batch_size])
            for start in range(0, len(rows), batch_size)
        ]
        random.Random(seed).shuffle(batches)
        self._batches = cycle(batches)

    def distance(self, model: Any) -> Tensor:
        """KL(base ‖ model) a token, in nats, over the next batch: a lower bound, a scalar."""
        total, count = divergence(model, next(self._batches))
        return total / count


@torch.no_grad()
def hold(model: Any, rows: Sequence[Scored]) -> Held:
    """What a model, the base, thinks of a batch of answers."""
    scores, _ = reply_log_probs(model, rows)
    log_probs, tokens = scores.topk(min(LIKELIEST, scores.shape[-1]), dim=-1)
    return Held(rows=rows, tokens=tokens, log_probs=log_probs)


def divergence(model: Any, held: Held) -> tuple[Tensor, Tensor]:
    """KL(base ‖ model) in nats over all tokens of a batch, a lower bound; and their number.

    Joining the unlikely tokens into one can only lower a divergence (data processing).
    """
    ours, counts = reply_log_probs(model, held.rows)
    log_q = ours.gather(-1, held.tokens)
    log_p, p = held.log_probs, held.log_probs.exp()
    others_p, others_q = _others(p), _others(log_q.exp())
    found = (p * (log_p - log_q)).sum(dim=-1) + others_p * (others_p / others_q).log()
    return (found * counts).sum(), counts.sum()


def _others(likeliest: Tensor) -> Tensor:
    return (1 - likeliest.sum(dim=-1)).clamp(min=LEAST_PROBABILITY)
