"""The engine on other machines: one or several vLLM servers that hold the same base model.

Each reply goes to the server with the fewest; if that one fails, another continues the reply from
the token where it broke off. Adapters are loaded on every server, and again on one that was
restarted; their names contain a hash of their content.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from bot.engine.adapter_cache import AdapterCache
from bot.engine.base import SMOKE_PROMPT, Completion, SamplingParams
from bot.engine.errors import (
    AdapterRefused,
    AdapterUnusable,
    EngineBusy,
    EngineError,
    EngineStopped,
    ModelUnusable,
    PromptTooLong,
    ServerLost,
)
from bot.engine.lora import read_adapter
from bot.engine.request import ReplyWriter, Request
from bot.engine.vllm.fleet import Fleet
from bot.engine.vllm.server import PROBE, Server
from bot.engine.vocabulary import Vocabulary
from store.domain import Adapter, FinishReason, Message

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 120.0
"""Longest silence before a server is given up; the wait in the server's own queue counts."""

HEALTH_SECONDS = 5.0
"""Interval of the health checks."""

SMOKE_SAMPLING = SamplingParams(max_new_tokens=4)
"""Sampling of the smoke prompt's reply, of which only one token is needed."""


class VllmEngine:
    """An `Engine` over vLLM servers; made by `connect`."""

    def __init__(self, vocabulary: Vocabulary, fleet: Fleet, *, queue_size: int) -> None:
        self._vocabulary = vocabulary
        self._fleet = fleet
        self._queue_size = queue_size
        self._adapters = AdapterCache()
        self._open: dict[Request, asyncio.Task[None]] = {}
        self._closed = False

    @classmethod
    async def connect(
        cls,
        vocabulary: Vocabulary,
        urls: Sequence[str],
        *,
        key: str = "",
        queue_size: int = 64,
        silence_seconds: float = SILENCE_SECONDS,
        health_seconds: float = HEALTH_SECONDS,
    ) -> "VllmEngine":
        """Connect to the servers at these addresses, of which at least one must answer.

        Raises `EngineUnreachable`, or `ModelUnusable` if a server has another model.
        """
        fleet = await Fleet.connect(
            urls,
            vocabulary.tokenizer.encode(PROBE, add_special_tokens=False),
            key=key,
            silence_seconds=silence_seconds,
            health_seconds=health_seconds,
        )
        return cls(vocabulary, fleet, queue_size=queue_size)

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self._vocabulary.name

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and reply together, on every server that has answered."""
        ours = self._vocabulary.context_tokens
        return min(ours, self._fleet.context_tokens or ours)

    @property
    def unmerged(self) -> frozenset[str]:
        """Always empty; vLLM never merges adapters."""
        return frozenset()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """See `Engine.count_tokens`."""
        return len(self._vocabulary.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._vocabulary.template.encode, messages)
        async with aclosing(self._stream(self._submit(prompt, sampling, adapter))) as pieces:
            async for piece in pieces:
                yield piece

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`; a server that refuses now is asked again with a reply."""
        if self._closed:
            raise EngineStopped
        if adapter.name in self._adapters:
            return
        async with self._adapters.loading:
            if adapter.name in self._adapters:
                return
            await asyncio.to_thread(read_adapter, adapter, model=self.model)  # to check it
            await self._fleet.load(adapter)
            try:
                await self._smoke_test(adapter)
            except EngineError:
                await self._fleet.unload(adapter.name)
                raise
            in_use = {request.adapter for request in self._open}
            for name in self._adapters.put(adapter, in_use):
                await self._fleet.unload(name)

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        for request, task in self._open.items():
            task.cancel()
            request.send(EngineStopped())
        await self._fleet.close()

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> Request:
        if self._closed:
            raise EngineStopped
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        loaded = self._adapters.use(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        return self._start(prompt, sampling, loaded)

    def _start(
        self, prompt: list[int], sampling: SamplingParams, adapter: Adapter | None
    ) -> Request:
        request = Request(
            prompt=prompt,
            sampling=sampling,
            adapter=adapter.name if adapter else None,
            loop=asyncio.get_running_loop(),
        )
        self._open[request] = asyncio.create_task(self._generate(request, adapter))
        return request

    async def _stream(self, request: Request) -> AsyncGenerator[str | Completion, None]:
        try:
            async with aclosing(request.stream()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._open.pop(request).cancel()

    async def _generate(self, request: Request, adapter: Adapter | None) -> None:
        """Generate a reply, on as many servers as it takes."""
        vocabulary = replace(self._vocabulary, context_tokens=self.context_tokens)
        writer = ReplyWriter(request, vocabulary)
        try:
            for server in self._fleet.servers_to_try():
                try:
                    request.send(await self._generate_on(server, writer, adapter))
                    return
                except (ServerLost, ModelUnusable, AdapterRefused) as error:
                    await self._fleet.check_after_failure(server, error)
            request.send(self._fleet.unreachable())
        except EngineError as error:
            request.send(error)
        except Exception as error:  # edge: the reply must end, or its reader would wait for ever
            logger.exception("a reply failed")
            request.send(EngineError(f"a vLLM server gave an unexpected answer: {error}"))

    async def _generate_on(
        self, server: Server, writer: ReplyWriter, adapter: Adapter | None
    ) -> Completion:
        """Generate the rest of a reply on one server.

        Raises `ServerLost`, `ModelUnusable` or `AdapterRefused`, after which another server may
        continue; `EngineError` for a request that every server would refuse.
        """
        request = writer.request
        await self._fleet.ensure_up(server)
        if adapter is not None:
            await server.load(adapter)
        tokens = server.generate(
            [*request.prompt, *writer.tokens],
            replace(request.sampling, max_new_tokens=writer.tokens_left),
            adapter=request.adapter,
            ends=sorted(self._vocabulary.end_tokens),
        )
        async with aclosing(tokens) as coming:
            async for each in coming:
                if isinstance(each, FinishReason):
                    return writer.complete(each)
                if (completion := writer.add(each)) is not None:
                    return completion
        raise AssertionError("a server's tokens end with the finish reason")

    async def _smoke_test(self, adapter: Adapter) -> None:
        """Generate a reply to the smoke prompt, past the queue. Raises `AdapterUnusable`."""
        prompt = self._vocabulary.template.encode(SMOKE_PROMPT)
        request = self._start(prompt, SMOKE_SAMPLING, adapter)
        async with aclosing(self._stream(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion) and not piece.completion_tokens:
                    raise AdapterUnusable(f"{adapter.name} says nothing to the smoke prompt")
