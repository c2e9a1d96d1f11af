"""The order of requests: first come, first served, in a limited number of places.

A request waits, is prefilled, is decoded, and ends. Prefilling a long prompt takes as long as many
decode steps, so while others are decoded it is done in slices between two steps. Requests with the
same adapter are decoded in one batch; batches of several versions alternate, a step each.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bot.engine.base import Completion
from bot.engine.errors import EngineError
from bot.engine.local.batch import PREFILL_TOKENS, Batch, Prefill, split_by_size
from bot.engine.local.prefix import Prefix, PrefixCache
from bot.engine.local.weights import Weights
from bot.engine.request import Piece, ReplyWriter, Request

logger = logging.getLogger(__name__)

ADMISSION_DIVISOR = 8
"""Where many wait, prompts are admitted only once an eighth of the places is free."""

PREFILL_SLICE_TOKENS = 128
"""Prompt tokens prefilled between two decode steps of other requests."""

OnEnd = Callable[[Request, Piece | None], None]
"""Called once per finished request with its last piece; None if it was cancelled."""


@dataclass(kw_only=True, eq=False)
class _PrefillGroup:
    """Requests with the same adapter that are prefilled together."""

    adapter: str | None
    requests: list[Request]
    prefill: Prefill


class Scheduler:
    """The requests of one engine. For one thread."""

    def __init__(
        self,
        weights: Weights,
        *,
        places: int,
        prefixes: PrefixCache,
        on_end: OnEnd,
        draft_tokens: int = 0,
    ) -> None:
        self._weights = weights
        self._places = places
        self._draft_tokens = draft_tokens
        self._prefixes = prefixes
        self._on_end = on_end
        self._waiting: deque[Request] = deque()
        self._prefills: deque[_PrefillGroup] = deque()
        self._batches: dict[str | None, tuple[Batch, list[ReplyWriter]]] = {}

    @property
    def idle(self) -> bool:
        """True if there is no request."""
        return not (self._waiting or self._prefills or self._batches)

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def work(self) -> None:
        """Prefill a slice, and decode one step of every batch."""
        self._drop_cancelled()
        self._admit()
        self._prefill()
        for adapter in list(self._batches):
            try:
                self._decode(adapter)
            except Exception as error:  # edge: the batch fails, the engine goes on
                _, rows = self._batches.pop(adapter)
                self._fail([row.request for row in rows], error)

    def _drop_cancelled(self) -> None:
        """Drop cancelled requests that wait, and prefills in which all are cancelled."""
        for request in [each for each in self._waiting if each.cancelled.is_set()]:
            self._waiting.remove(request)
            self._on_end(request, None)
        for group in list(self._prefills):
            if all(request.cancelled.is_set() for request in group.requests):
                self._prefills.remove(group)
                for request in group.requests:
                    self._on_end(request, None)

    def _admit(self) -> None:
        """Start to prefill waiting requests, as far as places are free."""
        decoding = sum(len(rows) for _, rows in self._batches.values())
        prefilling = sum(len(group.requests) for group in self._prefills)
        room = self._places - decoding - prefilling
        if room < min(len(self._waiting), self._places // ADMISSION_DIVISOR):
            return  # everybody else waits for each prefill, so it should be worth it
        by_adapter: dict[str | None, list[Request]] = {}
        while self._waiting and room > 0:
            request = self._waiting.popleft()
            room -= 1
            prefix = self._prefixes.find(request.adapter, request.prompt)
            if prefix is None:
                by_adapter.setdefault(request.adapter, []).append(request)
            else:
                self._start_prefill([request], prefix)
        for requests in by_adapter.values():
            for similar in _group_by_length(requests):
                for start, end in split_by_size([len(each.prompt) for each in similar]):
                    self._start_prefill(similar[start:end])

    def _start_prefill(self, requests: list[Request], prefix: Prefix | None = None) -> None:
        try:
            prefill = Prefill(
                self._weights.model,
                [each.prompt for each in requests],
                [each.sampling for each in requests],
                prefix=prefix,
            )
        except Exception as error:  # edge: out of memory for the prefix, for example
            self._fail(requests, error)
            return
        adapter = requests[0].adapter
        self._prefills.append(_PrefillGroup(adapter=adapter, requests=requests, prefill=prefill))

    def _prefill(self) -> None:
        """Prefill one slice if others are being decoded, else all that waits for it."""
        while self._prefills:
            group, decoding = self._prefills[0], bool(self._batches)
            try:
                self._weights.merged.switch_to(group.adapter)
                if group.prefill.advance(PREFILL_SLICE_TOKENS if decoding else PREFILL_TOKENS):
                    self._prefills.popleft()
                    self._start_decoding(group)
            except Exception as error:  # edge: these requests fail, the engine goes on
                if group in self._prefills:
                    self._prefills.remove(group)
                self._fail(group.requests, error)
            if decoding:
                return

    def _start_decoding(self, group: _PrefillGroup) -> None:
        """Let a prefilled group join the batch of its adapter."""
        new = Batch(self._weights.model, draft_tokens=self._draft_tokens)
        batch, rows = self._batches.setdefault(group.adapter, (new, []))
        try:
            batch.join_prefilled(group.prefill)
        except Exception as error:  # edge: the batch may be half changed, so all its rows fail
            del self._batches[group.adapter]
            self._fail([row.request for row in rows], error)
            raise
        rows += [ReplyWriter(request, self._weights) for request in group.requests]

    def _decode(self, adapter: str | None) -> None:
        """Decode one step of the batch with this adapter, and let finished rows go."""
        batch, rows = self._batches[adapter]
        self._weights.merged.switch_to(adapter)
        going = []
        for number, (row, tokens) in enumerate(zip(rows, batch.step(), strict=True)):
            completion = _add_tokens(row, tokens)
            if completion is None:
                going.append(number)
            else:
                self._save_prefix(row, batch, number)
                self._on_end(row.request, completion)
        if len(going) < len(rows):
            batch.keep(going)
            rows[:] = [rows[number] for number in going]
        if not rows:
            del self._batches[adapter]

    def _save_prefix(self, row: ReplyWriter, batch: Batch, number: int) -> None:
        """Keep a row's keys and values in the prefix cache, for when the conversation goes on."""
        if self._prefixes.limit_bytes:
            tokens = (*row.request.prompt, *row.tokens)
            layers = batch.copy_prefix(number, len(tokens))
            self._prefixes.put(row.request.adapter, tokens[: layers[0][0].shape[2]], layers)

    def _fail(self, requests: Iterable[Request], error: Exception) -> None:
        """End requests for which the model failed; the engine goes on for the others."""
        logger.error("the model failed while replies were generated", exc_info=error)
        for request in requests:
            self._on_end(request, EngineError(f"the model failed: {type(error).__name__}"))


def _add_tokens(row: ReplyWriter, tokens: Sequence[int]) -> Completion | None:
    """Add tokens to a reply up to its end; return the completion if it has ended."""
    for token in tokens:
        completion = row.add(token)
        if completion is not None:
            return completion
    return None


def _group_by_length(requests: Iterable[Request]) -> list[list[Request]]:
    """Group requests, shortest prompts first; none is padded to more than twice its tokens."""
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda each: len(each.prompt)):
        if groups and len(request.prompt) <= 2 * len(groups[-1][0].prompt):
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups
