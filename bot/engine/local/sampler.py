"""Draws the next token of each reply from the model's scores, for all rows of a batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bot.engine.base import SamplingParams
from bot.engine.errors import NotNumbers

LIKELIEST = 512
"""The nucleus is looked for among so many tokens first: a full sort costs more than the model."""


class Sampler:
    """How the tokens of one reply are drawn, and those drawn so far.

    The repetition penalty counts these alone.
    """

    def __init__(self, sampling: SamplingParams, device: torch.device) -> None:
        self.sampling = sampling
        self._written: list[int] = []
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def room(self) -> int:
        """Tokens that may be drawn yet."""
        return self.sampling.max_new_tokens - len(self._written)

    def wrote(self, token: int) -> None:
        """Remember a token that was drawn."""
        self._written.append(token)

    def penalise(self, scores: Tensor) -> None:
        """Make what was written less likely, in place; `scores` has the shape (vocabulary,)."""
        penalty = self.sampling.repetition_penalty
        if penalty == 1 or not self._written:
            return
        seen = torch.tensor(sorted(set(self._written)), device=scores.device)
        old = scores[seen]
        scores[seen] = torch.where(old > 0, old / penalty, old * penalty)

    def choose(self, cumulative: Tensor) -> int:
        """A place, drawn by the reply's own dice; `cumulative` adds up what each place weighs.

        One throw a token, whatever there is to choose from: two models that are almost the same
        say the same for as long as they can, so that they can be compared.
        """
        device = self._generator.device
        throw = torch.rand((), generator=self._generator, device=device) * cumulative[-1]
        place = int(torch.searchsorted(cumulative, throw, right=True))
        return min(place, cumulative.numel() - 1)


def draw(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """The next id of each row, given the scores of every token, of shape (rows, vocabulary).

    Raises `NotNumbers`.
    """
    scores = logits.to(torch.float32, copy=True)
    for sampler, row in zip(samplers, scores, strict=True):
        sampler.penalise(row)
    best, likeliest = scores.max(dim=-1)  # NaN counts as more than any number
    if not bool(best.isfinite().all()):
        raise NotNumbers
    tokens: list[int] = likeliest.tolist()
    hot = [row for row, each in enumerate(samplers) if each.sampling.temperature > 0]
    if hot:
        rows = [samplers[row] for row in hot]
        for row, token in zip(hot, _drawn(rows, scores[hot]), strict=True):
            tokens[row] = token
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.wrote(token)
    return tokens


def _drawn(samplers: Sequence[Sampler], scores: Tensor) -> list[int]:
    temperatures = [each.sampling.temperature for each in samplers]
    heat = torch.tensor(temperatures, device=scores.device)[:, None]
    probabilities = (scores / heat).softmax(dim=-1)
    best, ids = probabilities.topk(min(LIKELIEST, probabilities.shape[-1]))
    totals = best.cumsum(dim=-1)
    found = []
    for row, sampler in enumerate(samplers):
        top_p = sampler.sampling.top_p
        if top_p == 1:
            found.append(sampler.choose(probabilities[row].cumsum(0)))
            continue
        some, places, total = best[row], ids[row], totals[row]
        if total[-1] < top_p:
            some, places = probabilities[row].sort(descending=True)
            total = some.cumsum(0)
        kept = int((total - some < top_p).sum())  # the fewest whose probabilities add up to it
        found.append(int(places[sampler.choose(total[:kept])]))
    return found
