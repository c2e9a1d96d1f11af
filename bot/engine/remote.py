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
    AdapterUnusable,
    EngineBusy,
    EngineError,
    EngineStopped,
    EngineUnreachable,
    ModelUnusable,
    PromptTooLong,
    ServerLost,
)
from bot.engine.lora import read_adapter
from bot.engine.request import Request, Writing
from bot.engine.server import PROBE, Server
from bot.engine.vocabulary import Vocabulary
from store.domain import Adapter, FinishReason, Message

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 120.0
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
        self._loading = asyncio.Lock()
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
        async with aclosing(self._answers(self._submit(prompt, sampling, adapter))) as pieces:
            async for piece in pieces:
                yield piece

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`; a server that does not take it now is asked again later."""
        async with self._loading:
            if self._closed:
                raise EngineStopped
            if adapter.name in self._adapters:
                return
            await asyncio.to_thread(read_adapter, adapter, model=self.model)  # what is wrong?
            await self._load(adapter)
            await self._smoke(adapter)
            self._adapters[adapter.name] = adapter
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
        if adapter is not None and adapter not in self._adapters:
            raise AdapterNotLoaded(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        if adapter is None:
            return self._begin(prompt, sampling, None)
        self._adapters.move_to_end(adapter)
        return self._begin(prompt, sampling, self._adapters[adapter])

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
        # Those that are down come last, not never: they may have come back.
        order = sorted(self._servers, key=lambda server: (not server.up, server.open))
        try:
            for server in (*order, order[0]):  # which may only have forgotten the adapter
                try:
                    request.give(await self._write_on(server, writing, adapter))
                    return
                except (ServerLost, ModelUnusable, AdapterRefused) as trouble:
                    await self._suspect(server, trouble)
            request.give(self._unreachable())
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
        if not server.up:
            await server.greet(self._probe)
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

    async def _load(self, adapter: Adapter) -> None:
        """Have every server that is up hold it. Raises `AdapterRefused` if none will."""

        async def load(server: Server) -> EngineError | None:
            try:
                if not server.up:
                    await server.greet(self._probe)
                await server.load(adapter)
            except (ServerLost, ModelUnusable) as trouble:
                await self._suspect(server, trouble)
                return self._unreachable()
            except AdapterRefused as refused:
                return refused
            return None

        found = await asyncio.gather(*(load(server) for server in self._servers))
        if None in found:
            return
        refusals = [each for each in found if isinstance(each, AdapterRefused)]
        raise refusals[0] if refusals else self._unreachable()

    async def _smoke(self, adapter: Adapter) -> None:
        """Ask the adapter something, whoever else waits. Raises `AdapterUnusable`."""
        prompt = self._vocabulary.template.encode(SMOKE_PROMPT)
        request = self._begin(prompt, SMOKE_SAMPLING, adapter)
        async with aclosing(self._answers(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion) and not piece.completion_tokens:
                    raise AdapterUnusable(f"{adapter.name} says nothing to the smoke prompt")

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
            except Exception:  # the outermost edge of this task
                logger.exception("looking after the vLLM servers failed")

    async def _look(self) -> None:
        """How every server is; whoever was down is met anew. Raises `ModelUnusable`."""
        await asyncio.gather(*(self._look_at(server) for server in self._servers))

    async def _look_at(self, server: Server) -> None:
        try:
            if not server.up:
                await server.greet(self._probe)
            elif not await server.is_well():
                self._lose(server, "it is not well")
        except ServerLost as trouble:
            logger.debug("%s: %s", server.url, trouble)

    async def _suspect(self, server: Server, trouble: EngineError) -> None:
        """Something went wrong there; whether it is the server itself, it is asked."""
        if server.up and not await server.is_well():
            self._lose(server, str(trouble))
        else:
            logger.warning("%s: %s", server.url, trouble)

    def _lose(self, server: Server, why: str) -> None:
        logger.warning("%s is lost: %s", server.url, why)
        server.lose()

    def _unreachable(self) -> EngineUnreachable:
        return EngineUnreachable([server.url for server in self._servers])
