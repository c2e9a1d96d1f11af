"""The distillation penalty: keeps a model close to the base's answers to everyday questions.

Abilities that are never trained on are forgotten first (Robins 1995, "Catastrophic forgetting,
rehearsal and pseudorehearsal"). Training on the base's answers as demonstrations is not enough;
matching the base's whole distribution over them is (Li & Hoiem 2016, "Learning without
forgetting"): docs/experiments.md.

The target is the base's distribution made slightly sharper. Pushing replies down, as 👎 does, moves
probability to replies that are unlikely under the base; the sharpening takes some of it back.
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
from trainer.passes.reply import Reply
from trainer.passes.scoring import TokenRow, reply_logits, tokens_of

TOP_TOKENS = 64
"""Tokens that are compared at each position; the rest of the vocabulary is summed into one."""

SHARPENING = 1.05
"""Exponent that the base's probabilities are raised to; greedy replies stay the same."""

MIN_PROBABILITY = 1e-6
"""Least probability of the rest of the vocabulary, whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class DistillationTarget:
    """A batch of the base's answers, and the log-probabilities to match at each position."""

    rows: Sequence[TokenRow]
    tokens: Tensor
    """Ids of the likeliest tokens, shape (rows, tokens, likeliest)."""
    log_probs: Tensor
    """The base's, raised to each exponent, shape (exponents, rows, tokens, likeliest)."""


class DistillationPenalty:
    """The divergence of a model from the base, over one batch of the base's answers at a time.

    To be made before the weights are trained. `seed` shuffles the batches; each process takes its
    own. A model that equals the base raised to `SHARPENING` has no penalty.
    """

    def __init__(
        self, weights: Weights, replies: Sequence[Reply], *, batch_size: int, seed: int
    ) -> None:
        assert replies, "a penalty needs at least one reply"
        rows = [tokens_of(weights, each.prompt, each.text, each.finished) for each in replies]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        targets = [
            make_target(weights.model, rows[start : start + batch_size], exponents=[SHARPENING])
            for start in range(0, len(rows), batch_size)
        ]
        random.Random(seed).shuffle(targets)
        self._targets = cycle(targets)

    def distance(self, model: Any) -> Tensor:
        """Return the divergence over the next batch in nats a token: a lower bound, a scalar."""
        totals, count = divergence(model, next(self._targets))
        return totals.sum() / count


@torch.no_grad()
def make_target(
    model: Any, rows: Sequence[TokenRow], *, exponents: Sequence[float]
) -> DistillationTarget:
    """Compute a batch's target from the base model, for each sharpening exponent."""
    logits, _ = reply_logits(model, rows)
    tokens = logits.topk(min(TOP_TOKENS, logits.shape[-1]), dim=-1).indices
    sharpened = [log_probs_of(tokens, exponent * logits.float()) for exponent in exponents]
    return DistillationTarget(rows=rows, tokens=tokens, log_probs=torch.stack(sharpened))


def divergence(model: Any, target: DistillationTarget) -> tuple[Tensor, Tensor]:
    """Return KL(target ‖ model) in nats over all tokens, shape (exponents,), and their number.

    The values are lower bounds: summing the unlikely tokens into one can only lower a divergence
    (data processing inequality).
    """
    logits, mask = reply_logits(model, target.rows)
    divergences = _divergences(target.log_probs, log_probs_of(target.tokens, logits))
    return (divergences * mask).sum(dim=(1, 2)), mask.sum()


def _divergences(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p ‖ q) at each position, shape (exponents, rows, tokens)."""
    p = log_p.exp()
    rest_p, rest_q = _rest(p), _rest(log_q.exp())
    return (p * (log_p - log_q)).sum(dim=-1) + rest_p * (rest_p / rest_q).log()


def _rest(likeliest: Tensor) -> Tensor:
    """Return the probability of all other tokens together."""
    return (1 - likeliest.sum(dim=-1)).clamp(min=MIN_PROBABILITY)
