"""The engine on other machines: one or several vLLM servers that hold the same base model.

Each reply goes to the server with the fewest; if that one fails, another goes on with the reply
from the token that it broke off at. Adapters are loaded on every server by their names, which say
what is in them, and again on a server that was started anew.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import httpx

from bot.engine.base import ADAPTERS_HELD, SMOKE_PROMPT, Completion, SamplingParams
from bot.engine.errors import (
    AdapterNotLoaded,
    AdapterRefused,
    EngineBusy,
    EngineError,
    EngineStopped,
    EngineUnreachable,
    PromptTooLong,
)
from bot.engine.lora import read_adapter
from bot.engine.request import Request, Writing
from bot.engine.server import PROBE, Server, ServerLost
from bot.engine.vocabulary import Vocabulary
from store.domain import Adapter, FinishReason, Message

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""How long a server may say nothing before it is given up; a prompt waits its turn there, too."""

HEALTH_SECONDS = 5.0
"""How often the servers are asked how they are."""

SMOKE_SAMPLING = SamplingParams(max_new_tokens=4)


class VllmEngine:
    """An `Engine` over vLLM servers; made by `connect`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        servers: Sequence[Server],
        client: httpx.AsyncClient,
        *,
        queue_size: int,
    ) -> None:
        self._vocabulary = vocabulary
        self._servers = servers
        self._client = client
        self._queue_size = queue_size
        self._probe = tuple(vocabulary.tokenizer.encode(PROBE, add_special_tokens=False))
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        """What is loaded, in the order of last use."""
        self._open: dict[Request, asyncio.Task[None]] = {}
        self._closed = False
        self._watch: asyncio.Task[None] | None = None

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
        client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),  # the queue bounds them
        )
        engine = cls(
            vocabulary, [Server(url, client) for url in urls], client, queue_size=queue_size
        )
        try:
            await engine._look()
            if not any(server.up for server in engine._servers):
                raise EngineUnreachable(urls)
        except BaseException:
            await client.aclose()
            raise
        engine._watch = asyncio.create_task(engine._keep_looking(health_seconds))
        return engine

    @property
    def model(self) -> str:
        """The base model's name."""
        return self._vocabulary.name

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together, on every server that was seen."""
        seen = [server.context_tokens for server in self._servers if server.context_tokens]
        return min([self._vocabulary.context_tokens, *seen])

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make."""
        return len(self._vocabulary.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._vocabulary.template.encode, messages)
        request = self._submit(prompt, sampling, adapter)
        try:
            while True:
                piece = await request.piece()
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            self._open.pop(request).cancel()

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`; a server that is down loads it when it is back."""
        if adapter.name in self._adapters:
            return
        await asyncio.to_thread(read_adapter, adapter, model=self.model)  # what is wrong with it?
        lost = 0
        for server in self._servers:
            try:
                await server.load(adapter)
            except ServerLost as trouble:
                self._lose(server, trouble)
                lost += 1
        if lost == len(self._servers):
            raise self._unreachable()
        self._adapters[adapter.name] = adapter
        try:
            await self._smoke(adapter.name)
        except EngineError:
            del self._adapters[adapter.name]
            raise
        await self._make_room(adapter.name)

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        for request, task in self._open.items():
            task.cancel()
            request.give(EngineStopped())
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self._client.aclose()

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> Request:
        if self._closed:
            raise EngineStopped
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        if adapter is not None:
            if adapter not in self._adapters:
                raise AdapterNotLoaded(adapter)
            self._adapters.move_to_end(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        loop = asyncio.get_running_loop()
        request = Request(prompt=prompt, sampling=sampling, adapter=adapter, loop=loop)
        self._open[request] = asyncio.create_task(self._write(request))
        return request

    async def _write(self, request: Request) -> None:
        """A reply, by as many servers as it takes."""
        vocabulary = replace(self._vocabulary, context_tokens=self.context_tokens)
        writing = Writing(request, vocabulary)
        # Those that are down come last, not never: they may have come back.
        order = sorted(self._servers, key=lambda server: (not server.up, server.open))
        try:
            for server in (*order, order[0]):  # which may only have forgotten the adapter
                try:
                    request.give(await self._write_on(server, writing))
                    return
                except ServerLost as trouble:
                    self._lose(server, trouble)
            request.give(self._unreachable())
        except EngineError as error:
            request.give(error)
        except Exception as error:  # or whoever waits for the reply would wait for ever
            logger.exception("a reply failed")
            request.give(EngineError(f"a vLLM server said what nobody understands: {error}"))

    async def _write_on(self, server: Server, writing: Writing) -> Completion:
        """What is left of a reply. Raises `ServerLost`, and what is written so far stays."""
        request = writing.request
        if request.adapter is not None:
            await server.load(self._adapters[request.adapter])
        tokens = server.write(
            [*request.prompt, *writing.tokens],
            replace(request.sampling, max_new_tokens=writing.room),
            adapter=request.adapter,
            ends=sorted(self._vocabulary.end_tokens),
        )
        async with aclosing(tokens) as coming:
            async for token in coming:
                if (completion := writing.add(token)) is not None:
                    return completion
        return writing.complete(FinishReason.STOP)

    async def _smoke(self, name: str) -> None:
        async with aclosing(self.stream(SMOKE_PROMPT, SMOKE_SAMPLING, adapter=name)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion) and not piece.completion_tokens:
                    raise AdapterRefused(f"{name} has nothing to say to the smoke prompt")

    async def _make_room(self, newest: str) -> None:
        used = {newest, *(request.adapter for request in self._open)}
        idle = [name for name in self._adapters if name not in used]
        for name in idle[: max(0, len(self._adapters) - ADAPTERS_HELD)]:
            del self._adapters[name]
            for server in self._servers:
                with suppress(ServerLost):
                    await server.unload(name)

    async def _keep_looking(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._look()
            except EngineError as error:  # it came back with another model
                logger.error("%s", error)

    async def _look(self) -> None:
        """How every server is; whoever was down is met anew. Raises `ModelUnusable`."""
        await asyncio.gather(*(self._look_at(server) for server in self._servers))

    async def _look_at(self, server: Server) -> None:
        try:
            if server.up and not await server.is_well():
                raise ServerLost("it is not well")
            if not server.up:
                await server.greet(self._probe)
        except ServerLost as trouble:
            self._lose(server, trouble)

    def _lose(self, server: Server, trouble: ServerLost) -> None:
        logger.warning("%s: %s", server.url, trouble)
        server.lose()

    def _unreachable(self) -> EngineUnreachable:
        return EngineUnreachable([server.url for server in self._servers])
