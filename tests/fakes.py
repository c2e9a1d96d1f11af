"""Stand-ins for what is slow, each passing the contract suite of the thing it stands for."""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta

from bot.engine.adapter_cache import AdapterCache
from bot.engine.base import Completion, SamplingParams
from bot.engine.errors import (
    AdapterRefused,
    EngineBusy,
    EngineStopped,
    PromptTooLong,
)
from store.domain import Adapter, FinishReason, Message
from store.embedder import Vector

Reply = Callable[[Sequence[Message]], str]

WORD = re.compile(r"\s*\S+\s*")


def echo(messages: Sequence[Message]) -> str:
    """Say what was asked, so that a test can tell replies apart."""
    return f"You said: {messages[-1].content}"


class FakeEngine:
    """An `Engine` whose tokens are words. `reply` says what it answers.

    While `hold` is clear, replies wait before every word. `prompts` and `samplings` list what it
    was given, and `asked` is set from the first prompt on.
    """

    def __init__(
        self, reply: Reply = echo, *, context_tokens: int = 4096, queue_size: int = 64
    ) -> None:
        self.reply = reply
        self.hold = asyncio.Event()
        self.hold.set()
        self.prompts: list[tuple[Message, ...]] = []
        self.samplings: list[SamplingParams] = []
        self.asked = asyncio.Event()
        self.failure: Exception | None = None
        self.unmerged: frozenset[str] = frozenset()
        self._context_tokens = context_tokens
        self._queue_size = queue_size
        self._adapters = AdapterCache()
        self._waiting = 0
        self._closed = asyncio.Event()
        self._thread = asyncio.Lock()

    @property
    def model(self) -> str:
        return "fake"

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(2 + len(WORD.findall(message.content)) for message in messages)

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        prompt_tokens = self.count_tokens(messages)
        if self._closed.is_set():
            raise EngineStopped
        if prompt_tokens >= self._context_tokens:
            raise PromptTooLong(prompt_tokens, self._context_tokens - 1)
        self._adapters.use(adapter)
        if self._waiting >= self._queue_size:
            raise EngineBusy(self._waiting)
        started = time.monotonic()
        self.prompts.append(tuple(messages))
        self.samplings.append(sampling)
        self.asked.set()
        self._waiting += 1
        try:
            async with self._thread:
                if self.failure is not None:
                    raise self.failure
                words = WORD.findall(self.reply(messages))
                limit = min(sampling.max_new_tokens, self._context_tokens - prompt_tokens)
                for word in words[:limit]:
                    await self._held()
                    yield word
                yield Completion(
                    text="".join(words[:limit]),
                    adapter=adapter,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=len(words[:limit]),
                    finish_reason=(
                        FinishReason.STOP if len(words) < limit else FinishReason.LENGTH
                    ),
                    seconds=time.monotonic() - started,
                )
        finally:
            self._waiting -= 1

    async def load_adapter(self, adapter: Adapter) -> None:
        if adapter.base_model != self.model:
            raise AdapterRefused(f"{adapter.name} was trained on {adapter.base_model}")
        self._adapters.put(adapter, ())

    async def close(self) -> None:
        self._closed.set()

    async def _held(self) -> None:
        waits = {asyncio.ensure_future(each.wait()) for each in (self.hold, self._closed)}
        _, unfinished = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in unfinished:
            wait.cancel()
        if self._closed.is_set():
            raise EngineStopped
        await asyncio.sleep(0)


class FakeEmbedder:
    """An `Embedder` that counts words: texts that share words are near each other."""

    def __init__(self, name: str = "words", *, dimensions: int = 256) -> None:
        self._name = name
        self._dimensions = dimensions
        self.embedded: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.embedded.extend(texts)
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> Vector:
        counts = [1e-6] * self._dimensions  # a text without a word still has a direction
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.sha256(word.encode()).digest()
            counts[int.from_bytes(digest[:4], "big") % self._dimensions] += 1.0
        length = math.sqrt(sum(count * count for count in counts))
        return [count / length for count in counts]


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, *, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
