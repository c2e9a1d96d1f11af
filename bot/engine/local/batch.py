"""Replies that are written side by side: one forward pass gives each its next token, or several.

Invariant: a row's part of the cache is its own tokens in their order; what lies left of them or
between them is padding that the attention mask hides. So rows join and leave between two steps,
drafts that were wrong become padding, and a greedy reply is the same alone and in company, up to
the rounding of the arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bot.engine.base import SamplingParams
from bot.engine.local.cache import layers_of, new_cache
from bot.engine.local.prefix import Layers, Prefix, common
from bot.engine.local.prompt_lookup import PromptLookup, worthwhile
from bot.engine.local.sampler import Sampler, draw
from bot.engine.local.step import looks_everywhere, step_of

PREFILL_TOKENS = 4096
"""Prompt tokens, padding included, that go through the model at once."""

LEAST_SHARED = 8
"""Tokens: a shorter beginning is not worth a pass of its own."""

MOST_PADDING = 0.125
"""Of the longest row's tokens, that wrong drafts may leave in the cache."""


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
        self.prompts, self.samplings = prompts, samplings
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
        scores = self._forward(self._ids[:, part], self.mask[:, :end], self.cache, 1)
        self.logits = scores[:, -1]
        self._done = end
        return end == width


class Batch:
    """Rows over one key-value cache, each with up to `draft_tokens` drafted. For one thread."""

    def __init__(self, model: PreTrainedModel, *, draft_tokens: int = 0) -> None:
        self._model = model
        self._forward = step_of(model)
        self._draft_tokens = draft_tokens if looks_everywhere(model) else 0
        self._samplers: list[Sampler] = []
        self._lookups: list[PromptLookup] = []
        self._cache = new_cache()
        self._mask: Tensor  # (rows, tokens), 1 where a token is
        self._logits: Tensor  # (rows, 1 + drafted, vocabulary), of the tokens that come next
        self._unread: list[int] = []  # of each row the token drawn last, if it is not in the cache

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
        self._read([[] for _ in self._unread])  # those who join have drafted nothing yet
        logits = reading.logits[:, None]
        if len(self) == 0:
            self._mask, self._logits, self._cache = reading.mask, logits, reading.cache
        else:
            self._mask = torch.cat(_same_width(self._mask, reading.mask))
            self._logits = torch.cat((self._logits, logits))
            for ours, theirs in zip(layers_of(self._cache), layers_of(reading.cache), strict=True):
                ours.join(theirs)
        device = self._model.device
        self._samplers += [Sampler(sampling, device) for sampling in reading.samplings]
        self._lookups += [PromptLookup(prompt) for prompt in reading.prompts]

    @torch.inference_mode()
    def step(self) -> list[list[int]]:
        """Draw the next tokens of each row: one, and one more for each that was drafted right."""
        drafts = self._draft()
        self._read(drafts)
        drawn = self._draw(drafts)
        self._forget_wrong([len(tokens) - 1 for tokens in drawn])
        for lookup, tokens in zip(self._lookups, drawn, strict=True):
            lookup.said(tokens)
        self._unread = [tokens[-1] for tokens in drawn]
        return drawn

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let every other row go."""
        self._samplers = [self._samplers[row] for row in rows]
        self._lookups = [self._lookups[row] for row in rows]
        if not rows:
            self._cache, self._unread = new_cache(), []
            return
        index = torch.tensor(list(rows), device=self._model.device)
        self._mask, self._logits = self._mask[index], self._logits[index]
        self._unread = [self._unread[row] for row in rows] if self._unread else []
        used = self._mask.any(dim=0).nonzero()[:, 0]  # columns that some row has a token in
        self._mask = self._mask[:, used]
        for layer in layers_of(self._cache):
            layer.keep(index, used)

    @torch.inference_mode()
    def read(self, row: int, most: int) -> Layers:
        """A copy of what the model made of a row's first tokens; it has not read the last one."""
        used = self._mask[row].nonzero()[:most, 0]
        return [
            (layer.keys[row : row + 1, :, used], layer.values[row : row + 1, :, used])
            for layer in layers_of(self._cache)
        ]

    def _draft(self) -> list[list[int]]:
        """What each row may say after the token drawn last."""
        if not self._unread:
            return [[] for _ in self._samplers]
        for lookup, sampler in zip(self._lookups, self._samplers, strict=True):
            lookup.look(max(0, min(self._draft_tokens, sampler.room - 1)))
        count = worthwhile(self._lookups)
        return [lookup.draft[:count] for lookup in self._lookups]

    def _read(self, drafts: Sequence[Sequence[int]]) -> None:
        """Put into the model what is not yet there, and the drafts after it."""
        if not self._unread:
            return
        self._close_gaps()
        device = self._model.device
        lengths = [len(draft) for draft in drafts]
        width = max(lengths)
        rows = [
            [token, *draft, *[0] * (width - len(draft))]
            for token, draft in zip(self._unread, drafts, strict=True)
        ]
        ids = torch.tensor(rows, device=device)
        # What fills up a row has no place of its own, which may lie beyond the model's last.
        drafted = torch.tensor(lengths, device=device)[:, None]
        self._mask = torch.cat((self._mask, torch.arange(width + 1, device=device) <= drafted), 1)
        self._logits = self._forward(ids, self._mask, self._cache, width + 1)
        self._unread = []

    def _draw(self, drafts: Sequence[list[int]]) -> list[list[int]]:
        """Each row's next token, and those after it for as long as they are as drafted."""
        drawn: list[list[int]] = [[] for _ in self._samplers]
        going = list(range(len(self)))
        for place in range(self._logits.shape[1]):
            samplers = [self._samplers[row] for row in going]
            tokens = draw(samplers, self._logits[going, place])
            for row, token in zip(going, tokens, strict=True):
                drawn[row].append(token)
            going = [row for row in going if drafts[row][place : place + 1] == drawn[row][-1:]]
            if not going:
                break
        return drawn

    def _forget_wrong(self, right: Sequence[int]) -> None:
        """Hide all drafts but so many of each row."""
        drafted = self._logits.shape[1] - 1
        if not drafted:
            return
        surplus = drafted - max(right)
        width = self._mask.shape[1]
        device = self._mask.device
        counts = torch.tensor(right, device=device)[:, None]
        self._mask[:, width - drafted :] = torch.arange(drafted, device=device) < counts
        if surplus:
            self._mask = self._mask[:, : width - surplus]
            for layer in layers_of(self._cache):
                layer.drop_last(surplus)

    def _close_gaps(self) -> None:
        """Move what wrong drafts have left apart together again, when it is much."""
        longest = int(self._mask.sum(dim=1).max())
        if self._mask.shape[1] - longest <= MOST_PADDING * longest:
            return
        columns = self._mask.argsort(dim=1, stable=True)[:, -longest:]  # padding first
        self._mask = self._mask.gather(1, columns)
        for layer in layers_of(self._cache):
            layer.arrange(columns)


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
