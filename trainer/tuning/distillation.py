"""What holds a model in place while it learns: the base's answers to everyday questions.

What is never trained on is forgotten first (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal"). Showing the base's answers as good ones is not enough; matching its whole
distribution over them is (Li & Hoiem 2016, "Learning without forgetting"): docs/experiments.md.

What is held on to are the base's odds made a little sharper: what 👎 pushes down makes room for
replies that are unlikely to the base model, and that takes some of it back (docs/experiments.md).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from bot.engine.local import Weights
from trainer.passes.log_probs import log_probs_of
from trainer.passes.scoring import Scored, reply_logits, tokens_of
from trainer.proving.drift import Reply

LIKELIEST = 64
"""Tokens that are told apart at each place; all others count as one."""

SHARPER = 1.05
"""Power to which the base's odds are raised to be held on to; what the model answers greedily stays
the same."""

LEAST_PROBABILITY = 1e-6
"""Of all others together, or the logarithm of nothing would be asked for."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A batch of answers, and the odds that a model should have at each place of them."""

    rows: Sequence[Scored]
    tokens: Tensor
    """The likeliest, shape (rows, tokens, likeliest)."""
    log_probs: Tensor
    """Of these, the base's odds raised to each power: (powers, rows, tokens, likeliest)."""


class DistillationPenalty:
    """The distance of a model from the base, over a few of the base's answers at a time.

    Made while the weights are still the base's. Of several processes each takes its own order, by
    the `seed`. A model with the base's odds raised to the power of `SHARPER` is at no distance.
    """

    def __init__(
        self, weights: Weights, replies: Sequence[Reply], *, batch_size: int, seed: int
    ) -> None:
        assert replies, "an anchor needs something to hold on to"
        rows = [tokens_of(weights, each.prompt, each.text, each.finished) for each in replies]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches = [
            hold(weights.model, rows[start : start + batch_size], powers=[SHARPER])
            for start in range(0, len(rows), batch_size)
        ]
        random.Random(seed).shuffle(batches)
        self._batches = cycle(batches)

    def distance(self, model: Any) -> Tensor:
        """The divergence a token, in nats, over the next batch: a lower bound, a scalar."""
        totals, count = divergence(model, next(self._batches))
        return totals.sum() / count


@torch.no_grad()
def hold(model: Any, rows: Sequence[Scored], *, powers: Sequence[float]) -> Held:
    """What a model, the base, thinks of a batch of answers, its odds raised to each power."""
    logits, _ = reply_logits(model, rows)
    tokens = logits.topk(min(LIKELIEST, logits.shape[-1]), dim=-1).indices
    raised = [log_probs_of(tokens, power * logits.float()) for power in powers]
    return Held(rows=rows, tokens=tokens, log_probs=torch.stack(raised))


def divergence(model: Any, held: Held) -> tuple[Tensor, Tensor]:
    """KL(base's odds, raised ‖ model's) in nats over all tokens, shape (powers,); and their count.

    Lower bounds: joining the unlikely tokens into one can only lower a divergence (data
    processing).
    """
    logits, counts = reply_logits(model, held.rows)
    divergences = _divergences(held.log_probs, log_probs_of(held.tokens, logits))
    return (divergences * counts).sum(dim=(1, 2)), counts.sum()


def _divergences(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL at each place, shape (powers, rows, tokens)."""
    p = log_p.exp()
    others_p, others_q = _others(p), _others(log_q.exp())
    return (p * (log_p - log_q)).sum(dim=-1) + others_p * (others_p / others_q).log()


def _others(likeliest: Tensor) -> Tensor:
    return (1 - likeliest.sum(dim=-1)).clamp(min=LEAST_PROBABILITY)
