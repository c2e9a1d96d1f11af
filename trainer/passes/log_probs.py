"""Log-probabilities of a few tokens at each place, of a vocabulary that is many times as large.

`log_softmax` or `cross_entropy` would make several copies of a batch's scores in fp32, larger than
all else that training keeps; here they are made of some places at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES_AT_ONCE = 2**22
"""A copy of so many, 16 MiB, is made at a time."""


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """log softmax(logits) of some tokens, in fp32, shape (…, tokens).

    `tokens` are ids, shape (…, tokens); `logits` are (…, vocabulary), in whatever precision.
    """
    places = logits.flatten(0, -2)
    found: Tensor = _LogProbs.apply(places, tokens.flatten(0, -2))  # type: ignore[no-untyped-call]
    return found.view(tokens.shape)


class _LogProbs(torch.autograd.Function):
    """Keeps the scores as they are; on the way back d log pᵢ / d zⱼ = [i = j] − pⱼ."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        whole = logits.new_empty((len(logits), 1), dtype=torch.float32)
        for part in _parts(logits):
            whole[part] = logits[part].float().logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits, tokens, whole)
        return logits.gather(-1, tokens) - whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        logits, tokens, whole = ctx.saved_tensors
        whole_slope = -slope.sum(dim=-1, keepdim=True)
        found = torch.empty_like(logits)
        for part in _parts(logits):
            p = (logits[part] - whole[part]).exp_()
            found[part] = p.mul_(whole_slope[part]).scatter_add_(-1, tokens[part], slope[part])
        return found, None


def _parts(logits: Tensor) -> Iterator[slice]:
    places, vocabulary = logits.shape
    size = max(1, SCORES_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, places, size))
