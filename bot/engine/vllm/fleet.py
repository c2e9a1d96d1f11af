"""Several vLLM servers as one: which are up, which comes next, what all of them are to hold."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import httpx

from bot.engine.errors import (
    AdapterRefused,
    EngineError,
    EngineUnreachable,
    ModelUnusable,
    ServerLost,
)
from bot.engine.vllm.server import Server
from store.domain import Adapter

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0


class Fleet:
    """The servers of one base model; made by `connect`. `probe` is how that model reads `PROBE`."""

    def __init__(self, servers: Sequence[Server], client: httpx.AsyncClient, probe: Sequence[int]):
        self._servers = servers
        self._client = client
        self._probe = probe
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        urls: Sequence[str],
        probe: Sequence[int],
        *,
        key: str,
        silence_seconds: float,
        health_seconds: float,
    ) -> "Fleet":
        """The servers at these addresses, of which one at least must answer.

        Raises `EngineUnreachable`, or `ModelUnusable` if a server has another model.
        """
        client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),  # the engine's queue bounds them
        )
        fleet = cls([Server(url, client) for url in urls], client, probe)
        try:
            await fleet._look()
            if not any(server.up for server in fleet._servers):
                raise fleet.unreachable()
        except BaseException:
            await client.aclose()
            raise
        fleet._watch = asyncio.create_task(fleet._keep_looking(health_seconds))
        return fleet

    @property
    def context_tokens(self) -> int | None:
        """The smallest context of all that were met."""
        return min(
            (each.context_tokens for each in self._servers if each.context_tokens), default=None
        )

    def in_turn(self) -> list[Server]:
        """Whom to ask for a reply, one after another: the one with the fewest first.

        Those that are down come last, not never: they may have come back. And the first of all once
        more, which may only have forgotten an adapter.
        """
        order = sorted(self._servers, key=lambda server: (not server.up, server.open))
        return [*order, order[0]]

    async def meet(self, server: Server) -> None:
        """Look at a server that is down before it is used. Raises `ServerLost`, `ModelUnusable`."""
        if not server.up:
            await server.greet(self._probe)

    async def load(self, adapter: Adapter) -> None:
        """Have every server that is up hold it. Raises `AdapterRefused` if none will."""

        async def load(server: Server) -> EngineError | None:
            try:
                await self.meet(server)
                await server.load(adapter)
            except (ServerLost, ModelUnusable) as trouble:
                await self.suspect(server, trouble)
                return self.unreachable()
            except AdapterRefused as refused:
                return refused
            return None

        found = await asyncio.gather(*(load(server) for server in self._servers))
        if None in found:
            return
        refusals = [each for each in found if isinstance(each, AdapterRefused)]
        raise refusals[0] if refusals else self.unreachable()

    async def unload(self, name: str) -> None:
        """Have every server let an adapter go; one that is lost has."""

        async def unload(server: Server) -> None:
            with suppress(ServerLost):
                await server.unload(name)

        await asyncio.gather(*(unload(server) for server in self._servers))

    async def suspect(self, server: Server, trouble: EngineError) -> None:
        """Something went wrong there; whether it is the server itself, it is asked."""
        if server.up and not await server.is_well():
            self._lose(server, str(trouble))
        else:
            logger.warning("%s: %s", server.url, trouble)

    def unreachable(self) -> EngineUnreachable:
        """That none of them answers."""
        return EngineUnreachable([server.url for server in self._servers])

    async def close(self) -> None:
        """Leave them alone."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self._client.aclose()

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

    def _lose(self, server: Server, why: str) -> None:
        logger.warning("%s is lost: %s", server.url, why)
        server.lose()
