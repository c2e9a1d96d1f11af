"""Who is answered when: first come, first served, as many side by side as there are places.

Requests wait, are read, are written, and end. Reading a long prompt takes as long as many steps of
writing, so it goes on a little between two steps while others are being answered. Those with the
same adapter are written in one batch; two versions are written in turn, a step each.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bot.engine.errors import EngineError
from bot.engine.local.batch import PREFILL_TOKENS, Batch, Reading, portions
from bot.engine.local.prefix import Prefix, PrefixCache
from bot.engine.local.weights import Weights
from bot.engine.request import Piece, Request, Writing

logger = logging.getLogger(__name__)

JOINING = 8
"""Where many wait, an eighth of the places is filled at a time."""

READ_BESIDE = 128
"""Prompt tokens that are read between two steps of those who are being answered."""

End = Callable[[Request, Piece | None], None]
"""Told of every request that ends, with the last that is to be said."""


@dataclass(kw_only=True, eq=False)
class _Joining:
    """Prompts that are being read, to be answered with the same adapter."""

    adapter: str | None
    requests: list[Request]
    reading: Reading


class Scheduler:
    """The requests of one engine. For one thread."""

    def __init__(
        self,
        weights: Weights,
        *,
        places: int,
        prefixes: PrefixCache,
        end: End,
        draft_tokens: int = 0,
    ) -> None:
        self._weights = weights
        self._places = places
        self._draft_tokens = draft_tokens
        self._prefixes = prefixes
        self._end = end
        self._waiting: deque[Request] = deque()
        self._joining: deque[_Joining] = deque()
        self._batches: dict[str | None, tuple[Batch, list[Writing]]] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._joining or self._batches)

    def add(self, request: Request) -> None:
        """Let a request wait for a place."""
        self._waiting.append(request)

    def work(self) -> None:
        """Read some of what is to be read, and write on every reply."""
        self._let_go()
        self._admit()
        self._read()
        for adapter in list(self._batches):
            try:
                self._step(adapter)
            except Exception as error:
                _, rows = self._batches.pop(adapter)
                self._fail([row.request for row in rows], error)

    def _let_go(self) -> None:
        """Nobody waits for an answer that is no longer wanted, and nobody's place is kept."""
        for request in [each for each in self._waiting if each.cancelled.is_set()]:
            self._waiting.remove(request)
            self._end(request, None)
        for joining in list(self._joining):
            if all(request.cancelled.is_set() for request in joining.requests):
                self._joining.remove(joining)
                for request in joining.requests:
                    self._end(request, None)

    def _admit(self) -> None:
        """Begin to read the prompts of those who wait, as far as there is room."""
        writing = sum(len(rows) for _, rows in self._batches.values())
        reading = sum(len(joining.requests) for joining in self._joining)
        room = self._places - writing - reading
        if room < min(len(self._waiting), self._places // JOINING):
            return  # each time that prompts are read, everybody else waits
        together: dict[str | None, list[Request]] = {}
        while self._waiting and room > 0:
            request = self._waiting.popleft()
            room -= 1
            prefix = self._prefixes.find(request.adapter, request.prompt)
            if prefix is None:
                together.setdefault(request.adapter, []).append(request)
            else:
                self._join([request], prefix)
        for requests in together.values():
            for alike in _of_similar_length(requests):
                for start, end in portions([len(each.prompt) for each in alike]):
                    self._join(alike[start:end])

    def _join(self, requests: list[Request], prefix: Prefix | None = None) -> None:
        try:
            reading = Reading(
                self._weights.model,
                [each.prompt for each in requests],
                [each.sampling for each in requests],
                prefix=prefix,
            )
        except Exception as error:  # no room for what was read before, say
            self._fail(requests, error)
            return
        adapter = requests[0].adapter
        self._joining.append(_Joining(adapter=adapter, requests=requests, reading=reading))

    def _read(self) -> None:
        """Read on: a little while others are being answered, else as much as there is."""
        while self._joining:
            joining, beside = self._joining[0], bool(self._batches)
            try:
                self._weights.sets.use(joining.adapter)
                if joining.reading.advance(READ_BESIDE if beside else PREFILL_TOKENS):
                    self._joining.popleft()
                    self._begin(joining)
            except Exception as error:
                if joining in self._joining:
                    self._joining.remove(joining)
                self._fail(joining.requests, error)
            if beside:
                return

    def _begin(self, joining: _Joining) -> None:
        new = Batch(self._weights.model, draft_tokens=self._draft_tokens)
        batch, rows = self._batches.setdefault(joining.adapter, (new, []))
        try:
            batch.take(joining.reading)
        except Exception as error:  # who knows how far it got: nobody goes on from there
            del self._batches[joining.adapter]
            self._fail([row.request for row in rows], error)
            raise
        rows += [Writing(request, self._weights) for request in joining.requests]

    def _step(self, adapter: str | None) -> None:
        """Write on every reply with this adapter."""
        batch, rows = self._batches[adapter]
        self._weights.sets.use(adapter)
        going = []
        for number, (row, tokens) in enumerate(zip(rows, batch.step(), strict=True)):
            completion = next(filter(None, map(row.add, tokens)), None)
            if completion is None:
                going.append(number)
            else:
                self._remember(row, batch, number)
                self._end(row.request, completion)
        if len(going) < len(rows):
            batch.keep(going)
            rows[:] = [rows[number] for number in going]
        if not rows:
            del self._batches[adapter]

    def _remember(self, row: Writing, batch: Batch, number: int) -> None:
        """Keep what the model has read and written, for when the conversation goes on."""
        if self._prefixes.limit_bytes:
            tokens = (*row.request.prompt, *row.tokens)
            layers = batch.read(number, len(tokens))
            self._prefixes.keep(row.request.adapter, tokens[: layers[0][0].shape[2]], layers)

    def _fail(self, requests: Iterable[Request], error: Exception) -> None:
        """Whatever the model does to some requests, the engine goes on for the others."""
        logger.error("replies failed in the engine", exc_info=error)
        for request in requests:
            self._end(request, EngineError(f"the model failed: {type(error).__name__}"))


def _of_similar_length(requests: Iterable[Request]) -> list[list[Request]]:
    """The shortest prompts first; none is padded to more than about twice its tokens."""
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda each: len(each.prompt)):
        if groups and len(request.prompt) <= 2 * len(groups[-1][0].prompt):
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups
