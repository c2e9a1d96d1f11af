"""Replies that are written side by side: one forward pass gives each its next token.

Invariant: a row's part of the cache is its own tokens, flush to the right; what lies left of them
is padding that the attention mask hides. So rows join and leave between two steps, and a greedy
reply is the same alone and in company, up to the rounding of the arithmetic.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from bot.engine.base import SamplingParams
from bot.engine.sampler import Sampler

PREFILL_TOKENS = 4096
"""Prompt tokens, padding included, that go through the model at once."""


class _Layer(Protocol):
    """One layer's part of the cache; both of shape (rows, heads, tokens, head size)."""

    keys: Tensor
    values: Tensor


class Batch:
    """Rows over one key-value cache. For one thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._samplers: list[Sampler] = []
        self._cache = DynamicCache()
        self._mask: Tensor  # (rows, tokens), 1 where a token is
        self._logits: Tensor  # (rows, vocabulary), of the tokens that come next
        self._unread: Tensor | None = None  # (rows, 1), drawn and not yet put into the cache

    def __len__(self) -> int:
        return len(self._samplers)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]], samplings: Sequence[SamplingParams]) -> None:
        """Read the prompts; their rows come after those that are there, in their order."""
        self._read()
        rows = list(zip(prompts, samplings, strict=True))
        for start, end in _portions([len(prompt) for prompt in prompts]):
            self._prefill(rows[start:end])

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Draw the next token of each row."""
        self._read()
        drawn = [sampler.draw(row) for sampler, row in zip(self._samplers, self._logits)]  # noqa: B905
        self._unread = torch.tensor(drawn, device=self._model.device)[:, None]
        return drawn

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let every other row go."""
        self._samplers = [self._samplers[row] for row in rows]
        if not rows:
            self._cache, self._unread = DynamicCache(), None
            return
        index = torch.tensor(list(rows), device=self._model.device)
        self._mask, self._logits = self._mask[index], self._logits[index]
        self._unread = None if self._unread is None else self._unread[index]
        padding = int(self._mask.argmax(dim=1).min())  # columns that no row uses any more
        self._mask = self._mask[:, padding:]
        for layer in _layers(self._cache):
            layer.keys = layer.keys[index, :, padding:]
            layer.values = layer.values[index, :, padding:]

    def _read(self) -> None:
        if self._unread is None:
            return
        self._mask = pad(self._mask, (0, 1), value=1)
        self._logits = self._model(
            input_ids=self._unread,
            attention_mask=self._mask,
            position_ids=self._mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=self._cache,
            logits_to_keep=1,
        ).logits[:, -1]
        self._unread = None

    def _prefill(self, rows: Sequence[tuple[Sequence[int], SamplingParams]]) -> None:
        device = self._model.device
        width = max(len(prompt) for prompt, _ in rows)
        ids = [[0] * (width - len(prompt)) + list(prompt) for prompt, _ in rows]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in rows]
        fresh, cache = torch.tensor(mask, device=device), DynamicCache()
        logits = self._model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=fresh,
            position_ids=(fresh.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            logits_to_keep=last(width, 1, device),
        ).logits[:, -1]
        if len(self) == 0:
            self._mask, self._logits, self._cache = fresh, logits, cache
        else:
            self._mask = torch.cat(_same_width(self._mask, fresh))
            self._logits = torch.cat((self._logits, logits))
            for ours, theirs in zip(_layers(self._cache), _layers(cache), strict=True):
                ours.keys = torch.cat(_same_width(ours.keys, theirs.keys, dim=2))
                ours.values = torch.cat(_same_width(ours.values, theirs.values, dim=2))
        self._samplers += [Sampler(sampling, device) for _, sampling in rows]


def last(width: int, count: int, device: torch.device) -> Tensor:
    """The last `count` of `width` places, as `logits_to_keep` is best told.

    A number would make transformers take a view whose rows lie apart, and torch copy the output
    matrix once for every row before it multiplies.
    """
    return torch.arange(width - count, width, device=device)


def _layers(cache: DynamicCache) -> Sequence[_Layer]:
    return cast(Sequence[_Layer], cache.layers)


def _portions(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Where to cut a list of prompts, so that each part keeps to `PREFILL_TOKENS`."""
    portions, start = [], 0
    for end in range(1, len(lengths) + 1):
        following = max(lengths[start : end + 1]) * (end + 1 - start)
        if end == len(lengths) or following > PREFILL_TOKENS:
            portions.append((start, end))
            start = end
    return portions


def _same_width(one: Tensor, other: Tensor, *, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Both padded on the left, along `dim`, to the wider of the two."""
    width = max(one.shape[dim], other.shape[dim])
    after = (0, 0) * (one.dim() - dim - 1)
    return (
        pad(one, (*after, width - one.shape[dim], 0)),
        pad(other, (*after, width - other.shape[dim], 0)),
    )
