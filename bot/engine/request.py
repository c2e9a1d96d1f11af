"""A reply that is wanted, and what becomes of it: from the event loop to the engine and back."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TypeAlias

from bot.engine.base import Completion, SamplingParams
from bot.engine.detokenizer import Detokenizer
from bot.engine.errors import EngineError
from bot.engine.vocabulary import Vocabulary
from store.domain import FinishReason

Piece: TypeAlias = str | Completion | EngineError


@dataclass(kw_only=True, eq=False)
class Request:
    """A reply that is wanted. `pieces` holds at most one entry a token, so it is bounded."""

    prompt: list[int]
    sampling: SamplingParams
    adapter: str | None
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece]" = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    async def answers(self) -> AsyncGenerator[str | Completion, None]:
        """What it is given, its completion or error last; whoever closes this cancels it."""
        try:
            while True:
                piece = await self.pieces.get()
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            self.cancelled.set()

    def give(self, piece: Piece) -> None:
        """Hand a piece to the event loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.cancelled.set()


class Writing:
    """A reply that is being written, token by token."""

    def __init__(self, request: Request, vocabulary: Vocabulary) -> None:
        self.request = request
        self._end_tokens = vocabulary.end_tokens
        self._detokenizer = Detokenizer(vocabulary.tokenizer)
        room = vocabulary.context_tokens - len(request.prompt)
        self._limit = min(request.sampling.max_new_tokens, room)
        self._text = ""
        self.tokens: list[int] = []

    def add(self, token: int) -> Completion | None:
        """Write a token; the completion, if that was the end."""
        ended = token in self._end_tokens
        if not ended:
            self.tokens.append(token)
            self._show(self._detokenizer.add(token))
        if ended:
            return self.complete(FinishReason.STOP)
        if self.request.cancelled.is_set():
            return self.complete(FinishReason.CANCELLED)
        if self.room <= 0:
            return self.complete(FinishReason.LENGTH)
        return None

    @property
    def room(self) -> int:
        """Tokens that may follow."""
        return self._limit - len(self.tokens)

    def complete(self, reason: FinishReason) -> Completion:
        """The reply as it is, for the reason that it ends."""
        self._show(self._detokenizer.finish())
        return Completion(
            text=self._text,
            adapter=self.request.adapter,
            prompt_tokens=len(self.request.prompt),
            completion_tokens=len(self.tokens),
            finish_reason=reason,
            seconds=time.monotonic() - self.request.started,
        )

    def _show(self, piece: str) -> None:
        """Hand on what has become readable."""
        if piece:
            self._text += piece
            self.request.give(piece)
