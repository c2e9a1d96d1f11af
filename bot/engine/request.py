"""A request for a reply, and the writer that turns its tokens into text for the event loop."""

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
    """A request for a reply. `pieces` holds at most one entry a token, so it is bounded."""

    prompt: list[int]
    sampling: SamplingParams
    adapter: str | None
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece]" = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    async def stream(self) -> AsyncGenerator[str | Completion, None]:
        """Yield the pieces, the completion last, or raise the error; closing this cancels."""
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

    def send(self, piece: Piece) -> None:
        """Hand a piece to the event loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.cancelled.set()


class ReplyWriter:
    """Decodes the tokens of one reply, sends its text, and decides where it ends."""

    def __init__(self, request: Request, vocabulary: Vocabulary) -> None:
        self.request = request
        self._end_tokens = vocabulary.end_tokens
        self._detokenizer = Detokenizer(vocabulary.tokenizer)
        room = vocabulary.context_tokens - len(request.prompt)
        self._limit = min(request.sampling.max_new_tokens, room)
        self._text = ""
        self.tokens: list[int] = []

    def add(self, token: int) -> Completion | None:
        """Add a token; return the completion if the reply ends with it."""
        if token in self._end_tokens:
            return self.complete(FinishReason.STOP)
        self.tokens.append(token)
        self._send(self._detokenizer.add(token))
        if self.request.cancelled.is_set():
            return self.complete(FinishReason.CANCELLED)
        if self.tokens_left <= 0:
            return self.complete(FinishReason.LENGTH)
        return None

    @property
    def tokens_left(self) -> int:
        """Tokens that may still follow."""
        return self._limit - len(self.tokens)

    def complete(self, reason: FinishReason) -> Completion:
        """End the reply as it is and return its completion."""
        self._send(self._detokenizer.finish())
        return Completion(
            text=self._text,
            adapter=self.request.adapter,
            prompt_tokens=len(self.request.prompt),
            completion_tokens=len(self.tokens),
            finish_reason=reason,
            seconds=time.monotonic() - self.request.started,
        )

    def _send(self, text: str) -> None:
        if text:
            self._text += text
            self.request.send(text)
