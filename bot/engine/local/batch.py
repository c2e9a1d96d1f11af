"""A batch of replies: one forward pass gives each row its next token, or several.

Invariant: a row's part of the cache is its own tokens in order; everything left of them or between
them is padding that the attention mask hides. So rows join and leave between two steps, rejected
drafts become padding, and a greedy reply is the same alone and in a batch, up to the rounding of
the arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bot.engine.base import SamplingParams
from bot.engine.local.cache import layers_of, new_cache
from bot.engine.local.prefix import Layers, Prefix, common_prefix_length
from bot.engine.local.prompt_lookup import PromptLookup, choose_draft_length
from bot.engine.local.sampler import Sampler, draw
from bot.engine.local.step import has_full_attention, make_forward_pass

PREFILL_TOKENS = 4096
"""Most prompt tokens in one forward pass, padding included; bounds its memory."""

MIN_SHARED_TOKENS = 8
"""Shortest shared prefix that is prefilled once for all, by a forward pass of its own."""

MAX_PADDING = 0.125
"""Most padding that rejected drafts may leave in the cache, as a share of the longest row."""


class Prefill:
    """Prompts that are prefilled a slice at a time, before their rows join a batch.

    They may share a `prefix` that is prefilled already; their padding comes after it.
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
        self._forward = make_forward_pass(model)
        self.cache = new_cache()
        if prefix is not None:
            shape = (len(prompts), -1, -1, -1)
            for number, (keys, values) in enumerate(prefix.layers):
                self.cache.update(keys.expand(shape), values.expand(shape), number)
        self.logits: Tensor  # (rows, vocabulary), of the tokens that come next

    @torch.inference_mode()
    def advance(self, tokens: int = PREFILL_TOKENS) -> bool:
        """Prefill about this many more tokens over all rows; return whether all are done."""
        rows, width = self._ids.shape
        end = min(width, self._done + max(1, tokens // rows))
        part = slice(self._done, end)
        logits = self._forward(self._ids[:, part], self.mask[:, :end], self.cache, 1)
        self.logits = logits[:, -1]
        self._done = end
        return end == width


class Batch:
    """Rows over one key-value cache, each with a draft of up to `draft_tokens`. For one thread."""

    def __init__(self, model: PreTrainedModel, *, draft_tokens: int = 0) -> None:
        self._model = model
        self._forward = make_forward_pass(model)
        self._draft_tokens = draft_tokens if has_full_attention(model) else 0
        self._samplers: list[Sampler] = []
        self._lookups: list[PromptLookup] = []
        self._cache = new_cache()
        self._mask: Tensor  # (rows, tokens), 1 where a token is
        self._logits: Tensor  # (rows, 1 + drafted, vocabulary), of the tokens that come next
        self._pending: list[int] = []  # each row's last token drawn, while it is not in the cache

    def __len__(self) -> int:
        return len(self._samplers)

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[SamplingParams],
        *,
        prefix: Prefix | None = None,
    ) -> None:
        """Prefill prompts and append their rows, in their order."""
        for start, end in split_by_size([len(prompt) for prompt in prompts]):
            prefill = Prefill(self._model, prompts[start:end], samplings[start:end], prefix=prefix)
            while not prefill.advance():
                pass
            self.join_prefilled(prefill)

    @torch.inference_mode()
    def join_prefilled(self, prefill: Prefill) -> None:
        """Append the rows of a finished prefill, in their order."""
        self._forward_pending([[] for _ in self._pending])  # new rows have no drafts yet
        logits = prefill.logits[:, None]
        if len(self) == 0:
            self._mask, self._logits, self._cache = prefill.mask, logits, prefill.cache
        else:
            self._mask = torch.cat(_pad_to_same_width(self._mask, prefill.mask))
            self._logits = torch.cat((self._logits, logits))
            for ours, theirs in zip(layers_of(self._cache), layers_of(prefill.cache), strict=True):
                ours.append_rows(theirs)
        device = self._model.device
        self._samplers += [Sampler(sampling, device) for sampling in prefill.samplings]
        self._lookups += [PromptLookup(prompt) for prompt in prefill.prompts]

    @torch.inference_mode()
    def step(self) -> list[list[int]]:
        """Draw each row's next tokens: one, and one more for each drafted token that was right."""
        drafts = self._propose_drafts()
        self._forward_pending(drafts)
        drawn = self._draw_tokens(drafts)
        self._drop_rejected([len(tokens) - 1 for tokens in drawn])
        for lookup, tokens in zip(self._lookups, drawn, strict=True):
            lookup.observe(tokens)
        self._pending = [tokens[-1] for tokens in drawn]
        return drawn

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self._samplers = [self._samplers[row] for row in rows]
        self._lookups = [self._lookups[row] for row in rows]
        if not rows:
            self._cache, self._pending = new_cache(), []
            return
        index = torch.tensor(list(rows), device=self._model.device)
        self._mask, self._logits = self._mask[index], self._logits[index]
        self._pending = [self._pending[row] for row in rows] if self._pending else []
        used = self._mask.any(dim=0).nonzero()[:, 0]  # columns in which some row has a token
        self._mask = self._mask[:, used]
        for layer in layers_of(self._cache):
            layer.select(index, used)

    @torch.inference_mode()
    def copy_prefix(self, row: int, most: int) -> Layers:
        """Copy keys and values of a row's first `most` tokens; its last token has none yet."""
        used = self._mask[row].nonzero()[:most, 0]
        return [
            (layer.keys[row : row + 1, :, used], layer.values[row : row + 1, :, used])
            for layer in layers_of(self._cache)
        ]

    def _propose_drafts(self) -> list[list[int]]:
        """Return for each row the draft of what follows its last token; none after a prefill."""
        if not self._pending:
            return [[] for _ in self._samplers]
        for lookup, sampler in zip(self._lookups, self._samplers, strict=True):
            lookup.propose(max(0, min(self._draft_tokens, sampler.tokens_left - 1)))
        count = choose_draft_length(self._lookups)
        return [lookup.draft[:count] for lookup in self._lookups]

    def _forward_pending(self, drafts: Sequence[Sequence[int]]) -> None:
        """Run each row's pending token, and the draft after it, through the model."""
        if not self._pending:
            return
        self._compact()
        device = self._model.device
        lengths = [len(draft) for draft in drafts]
        width = max(lengths)
        rows = [
            [token, *draft, *[0] * (width - len(draft))]
            for token, draft in zip(self._pending, drafts, strict=True)
        ]
        ids = torch.tensor(rows, device=device)
        # Masked: the padding after a draft gets no position, which may exceed the model's last.
        drafted = torch.tensor(lengths, device=device)[:, None]
        self._mask = torch.cat((self._mask, torch.arange(width + 1, device=device) <= drafted), 1)
        self._logits = self._forward(ids, self._mask, self._cache, width + 1)
        self._pending = []

    def _draw_tokens(self, drafts: Sequence[list[int]]) -> list[list[int]]:
        """Draw each row's next token, and those after it while they equal the drafted ones."""
        drawn: list[list[int]] = [[] for _ in self._samplers]
        going = list(range(len(self)))
        for position in range(self._logits.shape[1]):
            samplers = [self._samplers[row] for row in going]
            tokens = draw(samplers, self._logits[going, position])
            for row, token in zip(going, tokens, strict=True):
                drawn[row].append(token)
            going = [
                row for row in going if drafts[row][position : position + 1] == drawn[row][-1:]
            ]
            if not going:
                break
        return drawn

    def _drop_rejected(self, accepted: Sequence[int]) -> None:
        """Mask all drafted tokens after each row's accepted ones; drop columns without any."""
        drafted = self._logits.shape[1] - 1
        if not drafted:
            return
        surplus = drafted - max(accepted)
        width = self._mask.shape[1]
        device = self._mask.device
        counts = torch.tensor(accepted, device=device)[:, None]
        self._mask[:, width - drafted :] = torch.arange(drafted, device=device) < counts
        if surplus:
            self._mask = self._mask[:, : width - surplus]
            for layer in layers_of(self._cache):
                layer.drop_last_tokens(surplus)

    def _compact(self) -> None:
        """Close the gaps that rejected drafts have left in the cache, if they are many."""
        longest = int(self._mask.sum(dim=1).max())
        if self._mask.shape[1] - longest <= MAX_PADDING * longest:
            return
        columns = self._mask.argsort(dim=1, stable=True)[:, -longest:]  # padding first
        self._mask = self._mask.gather(1, columns)
        for layer in layers_of(self._cache):
            layer.gather_columns(columns)


def prefill_shared_prefix(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> Prefix | None:
    """Prefill what all prompts begin with; None if that is too short.

    Also None for a model with sliding windows, which would count the padding that follows.
    """
    shortest = min(len(prompt) for prompt in prompts)
    tokens = min(common_prefix_length(prompts[0], prompt) for prompt in prompts)
    tokens = min(tokens, shortest - 1)  # the last token's logits are needed
    if tokens < MIN_SHARED_TOKENS or not has_full_attention(model):
        return None
    prefill = Prefill(model, [prompts[0][:tokens]], [SamplingParams()])
    while not prefill.advance():
        pass
    layers = [(layer.keys, layer.values) for layer in layers_of(prefill.cache)]
    return Prefix(tokens=tokens, layers=layers)


def split_by_size(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Split prompts of these lengths so that each part, padded, keeps to `PREFILL_TOKENS`.

    Returns the start and end of each part; a longer prompt is a part by itself.
    """
    parts, start = [], 0
    for end in range(1, len(lengths) + 1):
        following = max(lengths[start : end + 1]) * (end + 1 - start)
        if end == len(lengths) or following > PREFILL_TOKENS:
            parts.append((start, end))
            start = end
    return parts


def _pad_to_same_width(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Pad both on the left to the wider of the two."""
    width = max(one.shape[1], other.shape[1])
    return pad(one, (width - one.shape[1], 0)), pad(other, (width - other.shape[1], 0))
