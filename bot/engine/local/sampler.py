"""Drawing the next token of each reply from the model's logits, for all rows of a batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bot.engine.base import SamplingParams
from bot.engine.errors import NonFiniteLogits

NUCLEUS_CANDIDATES = 512
"""Likeliest tokens among which the nucleus is looked for first: a full sort of the vocabulary
costs more than the model."""


class Sampler:
    """Sampling parameters of one reply, its random generator, and the tokens drawn so far.

    The repetition penalty counts only the tokens drawn.
    """

    def __init__(self, sampling: SamplingParams, device: torch.device) -> None:
        self.sampling = sampling
        self._drawn: list[int] = []
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def tokens_left(self) -> int:
        """Tokens that may still be drawn."""
        return self.sampling.max_new_tokens - len(self._drawn)

    def add(self, token: int) -> None:
        """Remember a token that was drawn."""
        self._drawn.append(token)

    def apply_repetition_penalty(self, logits: Tensor) -> None:
        """Make tokens drawn before less likely, in place; `logits` has shape (vocabulary,)."""
        penalty = self.sampling.repetition_penalty
        if penalty == 1 or not self._drawn:
            return
        repeated = torch.tensor(sorted(set(self._drawn)), device=logits.device)
        old = logits[repeated]
        logits[repeated] = torch.where(old > 0, old / penalty, old * penalty)

    def draw_index(self, cumulative: Tensor) -> int:
        """Draw an index with this reply's generator; `cumulative` holds summed-up weights.

        One random number per token, however many choices there are: two models that are almost the
        same then draw the same tokens for as long as possible, so that they can be compared.
        """
        device = self._generator.device
        number = torch.rand((), generator=self._generator, device=device) * cumulative[-1]
        index = int(torch.searchsorted(cumulative, number, right=True))
        return min(index, cumulative.numel() - 1)


def draw(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """Draw the next token id of each row; `logits` has shape (rows, vocabulary).

    Raises `NonFiniteLogits`.
    """
    penalised = logits.to(torch.float32, copy=True)
    for sampler, row in zip(samplers, penalised, strict=True):
        sampler.apply_repetition_penalty(row)
    best, likeliest = penalised.max(dim=-1)  # NaN counts as more than any number
    if not bool(best.isfinite().all()):
        raise NonFiniteLogits
    tokens: list[int] = likeliest.tolist()
    sampled = [row for row, each in enumerate(samplers) if each.sampling.temperature > 0]
    if sampled:
        rows = [samplers[row] for row in sampled]
        for row, token in zip(sampled, _sample(rows, penalised[sampled]), strict=True):
            tokens[row] = token
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.add(token)
    return tokens


def _sample(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """Draw a token of each row from its nucleus, at its temperature."""
    temperatures = [each.sampling.temperature for each in samplers]
    divisors = torch.tensor(temperatures, device=logits.device)[:, None]
    probabilities = (logits / divisors).softmax(dim=-1)
    best, ids = probabilities.topk(min(NUCLEUS_CANDIDATES, probabilities.shape[-1]))
    totals = best.cumsum(dim=-1)
    tokens = []
    for row, sampler in enumerate(samplers):
        top_p = sampler.sampling.top_p
        if top_p == 1:
            tokens.append(sampler.draw_index(probabilities[row].cumsum(0)))
            continue
        candidates, places, total = best[row], ids[row], totals[row]
        if total[-1] < top_p:
            candidates, places = probabilities[row].sort(descending=True)
            total = candidates.cumsum(0)
        kept = int((total - candidates < top_p).sum())  # fewest whose probabilities reach top_p
        tokens.append(int(places[sampler.draw_index(total[:kept])]))
    return tokens
