"""Replies that are written side by side: one forward pass gives each its next token.

Invariant: a row's part of the cache is its own tokens, flush to the right; what lies left of them
is padding that the attention mask hides. So rows join and leave between two steps, and a greedy
reply is the same alone and in company, up to the rounding of the arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bot.engine.base import SamplingParams
from bot.engine.cache import layers_of, new_cache
from bot.engine.prefix import Layers, Prefix
from bot.engine.sampler import Sampler, draw
from bot.engine.step import step_of

PREFILL_TOKENS = 4096
"""Prompt tokens, padding included, that go through the model at once."""


class Reading:
    """Prompts that are being read, some tokens at a time, before their rows join a batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[SamplingParams],
        *,
        prefix: Prefix | None = None,
    ) -> None:
        assert prefix is None or len(prompts) == 1, "a prompt goes on from a prefix by itself"
        self._model = model
        self.samplings = samplings
        width = max(len(prompt) for prompt in prompts)
        ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._ids = torch.tensor(ids, device=model.device)
        self.mask = torch.tensor(mask, device=model.device)
        self._places = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        self._done = prefix.tokens if prefix else 0
        self.cache = new_cache()
        for number, (keys, values) in enumerate(prefix.layers if prefix else ()):
            self.cache.update(keys, values, number)
        self.logits: Tensor  # (rows, vocabulary), of the tokens that come next

    @torch.inference_mode()
    def advance(self, tokens: int = PREFILL_TOKENS) -> bool:
        """Read about so many tokens more, over all rows; whether everything is read."""
        rows, width = self._ids.shape
        end = min(width, self._done + max(1, tokens // rows))
        part = slice(self._done, end)
        self.logits = self._model(
            input_ids=self._ids[:, part],
            attention_mask=self.mask[:, :end],
            position_ids=self._places[:, part],
            past_key_values=self.cache,
            logits_to_keep=last(end - self._done, 1, self._model.device),
        ).logits[:, -1]
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

    def join(self, prompts: Sequence[Sequence[int]], samplings: Sequence[SamplingParams]) -> None:
        """Read the prompts; their rows come after those that are there, in their order."""
        for start, end in portions([len(prompt) for prompt in prompts]):
            reading = Reading(self._model, prompts[start:end], samplings[start:end])
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
        padding = int(self._mask.argmax(dim=1).min())  # columns that no row uses any more
        self._mask = self._mask[:, padding:]
        for layer in layers_of(self._cache):
            layer.keep(index, padding)

    @torch.inference_mode()
    def read(self, row: int) -> Layers:
        """A copy of what the model made of a row's tokens, the one drawn last left out."""
        padding = int(self._mask[row].argmax())
        return [
            (
                layer.keys[row : row + 1, :, padding:].clone(),
                layer.values[row : row + 1, :, padding:].clone(),
            )
            for layer in layers_of(self._cache)
        ]

    def _read(self) -> None:
        if self._unread is None:
            return
        self._mask = pad(self._mask, (0, 1), value=1)
        self._logits = self._forward(self._unread, self._mask, self._cache)
        self._unread = None


def last(width: int, count: int, device: torch.device) -> Tensor:
    """The last `count` of `width` places, as `logits_to_keep` is best told.

    A number would make transformers take a view whose rows lie apart, and torch copy the output
    matrix once for every row before it multiplies.
    """
    return torch.arange(width - count, width, device=device)


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
