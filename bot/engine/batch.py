"""Replies that are written side by side: one forward pass gives each its next token.

Invariant: a row's part of the cache is its own tokens, flush to the right; what lies left of them,
or after a beginning that several rows share, is padding that the attention mask hides. So rows join
and leave between two steps, and a greedy reply is the same alone and in company, up to the rounding
of the arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bot.engine.base import SamplingParams
from bot.engine.cache import layers_of, new_cache
from bot.engine.prefix import Layers, Prefix, common
from bot.engine.sampler import Sampler, draw
from bot.engine.step import looks_everywhere, step_of

PREFILL_TOKENS = 4096
"""Prompt tokens, padding included, that go through the model at once."""

LEAST_SHARED = 8
"""Tokens: a shorter beginning is not worth a pass of its own."""


class Reading:
    """Prompts that are being read, some tokens at a time, before their rows join a batch.

    They may all begin with the same `prefix`, which is read already; padding comes after it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[SamplingParams],
        *,
        prefix: Prefix | None = None,
    ) -> None:
        self.samplings = samplings
        self._done = done = prefix.tokens if prefix else 0
        width = max(len(prompt) for prompt in prompts)
        gaps = [width - len(prompt) for prompt in prompts]
        rows = [
            [*prompt[:done], *[0] * gap, *prompt[done:]]
            for prompt, gap in zip(prompts, gaps, strict=True)
        ]
        self._ids = torch.tensor(rows, device=model.device)
        self.mask = torch.ones_like(self._ids)
        for row, gap in enumerate(gaps):
            self.mask[row, done : done + gap] = 0
        self._forward = step_of(model)
        self.cache = new_cache()
        for number, (keys, values) in enumerate(prefix.layers if prefix else ()):
            every = (len(prompts), -1, -1, -1)
            self.cache.update(keys.expand(every), values.expand(every), number)
        self.logits: Tensor  # (rows, vocabulary), of the tokens that come next

    @torch.inference_mode()
    def advance(self, tokens: int = PREFILL_TOKENS) -> bool:
        """Read about so many tokens more, over all rows; whether everything is read."""
        rows, width = self._ids.shape
        end = min(width, self._done + max(1, tokens // rows))
        part = slice(self._done, end)
        self.logits = self._forward(self._ids[:, part], self.mask[:, :end], self.cache)
        self._done = end
        return end == width


class Batch:
    """Rows over one key-value cache. For one thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._forward = step_of(model)
        self._samplers: list[Sampler] = []
        self._cache = new_cache()
        self._mask: Tensor  # (rows, tokens), 1 where a token is
        self._logits: Tensor  # (rows, vocabulary), of the tokens that come next
        self._unread: Tensor | None = None  # (rows, 1), drawn and not yet put into the cache

    def __len__(self) -> int:
        return len(self._samplers)

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[SamplingParams],
        *,
        prefix: Prefix | None = None,
    ) -> None:
        """Read the prompts; their rows come after those that are there, in their order."""
        for start, end in portions([len(prompt) for prompt in prompts]):
            reading = Reading(self._model, prompts[start:end], samplings[start:end], prefix=prefix)
            while not reading.advance():
                pass
            self.take(reading)

    @torch.inference_mode()
    def take(self, reading: Reading) -> None:
        """Let prompts that are read join; their rows come after those that are there."""
        self._read()
        if len(self) == 0:
            self._mask, self._logits, self._cache = reading.mask, reading.logits, reading.cache
        else:
            self._mask = torch.cat(_same_width(self._mask, reading.mask))
            self._logits = torch.cat((self._logits, reading.logits))
            for ours, theirs in zip(layers_of(self._cache), layers_of(reading.cache), strict=True):
                ours.join(theirs)
        device = self._model.device
        self._samplers += [Sampler(sampling, device) for sampling in reading.samplings]

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Draw the next token of each row."""
        self._read()
        drawn = draw(self._samplers, self._logits)
        self._unread = torch.tensor(drawn, device=self._model.device)[:, None]
        return drawn

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let every other row go."""
        self._samplers = [self._samplers[row] for row in rows]
        if not rows:
            self._cache, self._unread = new_cache(), None
            return
        index = torch.tensor(list(rows), device=self._model.device)
        self._mask, self._logits = self._mask[index], self._logits[index]
        self._unread = None if self._unread is None else self._unread[index]
        used = self._mask.any(dim=0).nonzero()[:, 0]  # columns that some row has a token in
        self._mask = self._mask[:, used]
        for layer in layers_of(self._cache):
            layer.keep(index, used)

    @torch.inference_mode()
    def read(self, row: int) -> Layers:
        """A copy of what the model made of a row's tokens, the one drawn last left out."""
        used = self._mask[row].nonzero()[:, 0]
        return [
            (layer.keys[row : row + 1, :, used], layer.values[row : row + 1, :, used])
            for layer in layers_of(self._cache)
        ]

    def _read(self) -> None:
        if self._unread is None:
            return
        self._mask = pad(self._mask, (0, 1), value=1)
        self._logits = self._forward(self._unread, self._mask, self._cache)
        self._unread = None


def read_prefix(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefix | None:
    """What all prompts begin with, read once; None if there is hardly anything.

    Nor for a model that sees the last few tokens only: it would count the padding that follows.
    """
    shortest = min(len(prompt) for prompt in prompts)
    tokens = min(common(prompts[0], prompt) for prompt in prompts)
    tokens = min(tokens, shortest - 1)  # the last token's scores are wanted
    if tokens < LEAST_SHARED or not looks_everywhere(model):
        return None
    reading = Reading(model, [prompts[0][:tokens]], [SamplingParams()])
    while not reading.advance():
        pass
    layers = [(layer.keys, layer.values) for layer in layers_of(reading.cache)]
    return Prefix(tokens=tokens, layers=layers)


def portions(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Where to cut a list of prompts, so that each part keeps to `PREFILL_TOKENS`."""
    cuts, start = [], 0
    for end in range(1, len(lengths) + 1):
        following = max(lengths[start : end + 1]) * (end + 1 - start)
        if end == len(lengths) or following > PREFILL_TOKENS:
            cuts.append((start, end))
            start = end
    return cuts


def _same_width(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both padded on the left to the wider of the two."""
    width = max(one.shape[1], other.shape[1])
    return pad(one, (width - one.shape[1], 0)), pad(other, (width - other.shape[1], 0))
