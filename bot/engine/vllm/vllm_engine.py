"""The engine on other machines: one or several vLLM servers that hold the same base model.

Each reply goes to the server with the fewest; if that one fails, another goes on with the reply
from the token that it broke off at. Adapters are loaded on every server by their names, which say
what is in them, and again on a server that was started anew.
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
from bot.engine.request import Request, Writing
from bot.engine.vllm.fleet import Fleet
from bot.engine.vllm.server import PROBE, Server
from bot.engine.vocabulary import Vocabulary
from store.domain import Adapter, FinishReason, Message

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 120.0
"""How long a server may say nothing before it is given up; a prompt waits its turn there, too."""

HEALTH_SECONDS = 5.0
"""How often the servers are asked how they are."""

SMOKE_SAMPLING = SamplingParams(max_new_tokens=4)


class VllmEngine:
    """An `Engine` over vLLM servers; made by `connect`."""

    def __init__(self, vocabulary: Vocabulary, fleet: Fleet, *, queue_size: int) -> None:
        self._vocabulary = vocabulary
        self._fleet = fleet
        self._queue_size = queue_size
        self._shelf = AdapterCache()
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
        """The engine over the servers at these addresses, of which one at least must answer.

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
        """The base model's name."""
        return self._vocabulary.name

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together, on every server that was seen."""
        ours = self._vocabulary.context_tokens
        return min(ours, self._fleet.context_tokens or ours)

    @property
    def unmerged(self) -> frozenset[str]:
        """None for want of memory: vLLM never merges."""
        return frozenset()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make."""
        return len(self._vocabulary.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._vocabulary.template.encode, messages)
        async with aclosing(self._answers(self._submit(prompt, sampling, adapter))) as pieces:
            async for piece in pieces:
                yield piece

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`; a server that does not take it now is asked again later."""
        if self._closed:
            raise EngineStopped
        if adapter.name in self._shelf:
            return
        async with self._shelf.loading:
            if adapter.name in self._shelf:
                return
            await asyncio.to_thread(read_adapter, adapter, model=self.model)  # what is wrong?
            await self._fleet.load(adapter)
            try:
                await self._smoke(adapter)
            except EngineError:
                await self._fleet.unload(adapter.name)
                raise
            answered = {request.adapter for request in self._open}
            for name in self._shelf.put(adapter, answered):
                await self._fleet.unload(name)

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        for request, task in self._open.items():
            task.cancel()
            request.give(EngineStopped())
        await self._fleet.close()

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> Request:
        if self._closed:
            raise EngineStopped
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        loaded = self._shelf.use(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        return self._begin(prompt, sampling, loaded)

    def _begin(
        self, prompt: list[int], sampling: SamplingParams, adapter: Adapter | None
    ) -> Request:
        request = Request(
            prompt=prompt,
            sampling=sampling,
            adapter=adapter.name if adapter else None,
            loop=asyncio.get_running_loop(),
        )
        self._open[request] = asyncio.create_task(self._write(request, adapter))
        return request

    async def _answers(self, request: Request) -> AsyncGenerator[str | Completion, None]:
        try:
            async with aclosing(request.answers()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._open.pop(request).cancel()

    async def _write(self, request: Request, adapter: Adapter | None) -> None:
        """A reply, by as many servers as it takes."""
        vocabulary = replace(self._vocabulary, context_tokens=self.context_tokens)
        writing = Writing(request, vocabulary)
        try:
            for server in self._fleet.in_turn():
                try:
                    request.give(await self._write_on(server, writing, adapter))
                    return
                except (ServerLost, ModelUnusable, AdapterRefused) as trouble:
                    await self._fleet.suspect(server, trouble)
            request.give(self._fleet.unreachable())
        except EngineError as error:
            request.give(error)
        except Exception as error:  # or whoever waits for the reply would wait for ever
            logger.exception("a reply failed")
            request.give(EngineError(f"a vLLM server said what nobody understands: {error}"))

    async def _write_on(
        self, server: Server, writing: Writing, adapter: Adapter | None
    ) -> Completion:
        """What is left of a reply.

        Raises `ServerLost`, `ModelUnusable` or `AdapterRefused`, and what is written so far stays;
        `EngineError` for what no server would do.
        """
        request = writing.request
        await self._fleet.meet(server)
        if adapter is not None:
            await server.load(adapter)
        tokens = server.write(
            [*request.prompt, *writing.tokens],
            replace(request.sampling, max_new_tokens=writing.room),
            adapter=request.adapter,
            ends=sorted(self._vocabulary.end_tokens),
        )
        async with aclosing(tokens) as coming:
            async for each in coming:
                if isinstance(each, FinishReason):
                    return writing.complete(each)
                if (completion := writing.add(each)) is not None:
                    return completion
        raise AssertionError("a server's tokens end with the reason")

    async def _smoke(self, adapter: Adapter) -> None:
        """Ask the adapter something, whoever else waits. Raises `AdapterUnusable`."""
        prompt = self._vocabulary.template.encode(SMOKE_PROMPT)
        request = self._begin(prompt, SMOKE_SAMPLING, adapter)
        async with aclosing(self._answers(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion) and not piece.completion_tokens:
                    raise AdapterUnusable(f"{adapter.name} says nothing to the smoke prompt")
