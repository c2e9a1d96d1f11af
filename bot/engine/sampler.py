"""Draws the next token of each reply from the model's scores."""

import torch
from torch import Tensor

from bot.engine.base import SamplingParams

LIKELIEST = 512
"""The nucleus is looked for among so many tokens first: a full sort costs more than the model."""


class Sampler:
    """Draws the tokens of one reply.

    `written` are the ids drawn so far; the repetition penalty counts these alone.
    """

    def __init__(self, sampling: SamplingParams, device: torch.device) -> None:
        self._sampling = sampling
        self._written: list[int] = []
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """The next id, given the scores of every token, of shape (vocabulary,)."""
        scores = logits.float()
        if self._sampling.repetition_penalty != 1 and self._written:
            scores = self._penalised(scores)
        if self._sampling.temperature == 0:
            token = int(scores.argmax())
        else:
            token = self._drawn(scores / self._sampling.temperature)
        self._written.append(token)
        return token

    def _penalised(self, scores: Tensor) -> Tensor:
        seen = torch.tensor(sorted(set(self._written)), device=scores.device)
        penalty = self._sampling.repetition_penalty
        old = scores[seen]
        return scores.scatter(0, seen, torch.where(old > 0, old / penalty, old * penalty))

    def _drawn(self, scores: Tensor) -> int:
        probabilities = scores.softmax(dim=-1)
        if self._sampling.top_p < 1:
            probabilities, ids = nucleus(probabilities, self._sampling.top_p)
            choice = torch.multinomial(probabilities, 1, generator=self._generator)
            return int(ids[choice])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest tokens whose probabilities add up to `top_p`: their probabilities and ids."""
    best, ids = probabilities.topk(min(LIKELIEST, probabilities.numel()))
    total = best.cumsum(0)
    if total[-1] < top_p:
        best, ids = probabilities.sort(descending=True)
        total = best.cumsum(0)
    kept = int((total - best < top_p).sum())
    return best[:kept], ids[:kept]
