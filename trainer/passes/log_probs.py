"""Log-probabilities of a few tokens at each position, out of a vocabulary of many thousands.

`log_softmax` and `cross_entropy` copy a batch's logits to fp32 several times, which takes more
memory than everything else that training keeps. Here only some positions are copied at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 2**22
"""Number of logits that are copied to fp32 at a time: 16 MiB."""


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return log softmax(logits) of the given tokens, in fp32, shape (…, tokens).

    `tokens` are ids, shape (…, tokens); `logits` are (…, vocabulary), in any precision.
    """
    positions = logits.flatten(0, -2)
    found: Tensor = _LogProbs.apply(positions, tokens.flatten(0, -2))  # type: ignore[no-untyped-call]
    return found.view(tokens.shape)


class _LogProbs(torch.autograd.Function):
    """Saves the logits as they are; the gradient is d log pᵢ / d zⱼ = [i = j] − pⱼ."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        log_totals = logits.new_empty((len(logits), 1), dtype=torch.float32)
        for part in _parts(logits):
            log_totals[part] = logits[part].float().logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits, tokens, log_totals)
        return logits.gather(-1, tokens) - log_totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, tokens, log_totals = ctx.saved_tensors
        of_totals = -gradient.sum(dim=-1, keepdim=True)
        found = torch.empty_like(logits)
        for part in _parts(logits):
            p = (logits[part] - log_totals[part]).exp_()
            found[part] = p.mul_(of_totals[part]).scatter_add_(-1, tokens[part], gradient[part])
        return found, None


def _parts(logits: Tensor) -> Iterator[slice]:
    positions, vocabulary = logits.shape
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, positions, size))
