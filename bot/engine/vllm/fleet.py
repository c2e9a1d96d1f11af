"""Several vLLM servers as one: which are up, which to ask next, which adapters all should hold."""

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
"""Time limit of opening a connection to a server."""


class Fleet:
    """The servers of one base model; made by `connect`. `probe` is `PROBE` in its token ids."""

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
        """Connect to the servers at these addresses, of which at least one must answer.

        Raises `EngineUnreachable`, or `ModelUnusable` if a server has another model.
        """
        client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),  # the engine's queue bounds them
        )
        fleet = cls([Server(url, client) for url in urls], client, probe)
        try:
            await fleet._check_all()
            if not any(server.up for server in fleet._servers):
                raise fleet.unreachable()
        except BaseException:  # cancellation, too: the client must not stay open
            await client.aclose()
            raise
        fleet._watch = asyncio.create_task(fleet._watch_health(health_seconds))
        return fleet

    @property
    def context_tokens(self) -> int | None:
        """Smallest context of all servers that have answered; None before any has."""
        return min(
            (each.context_tokens for each in self._servers if each.context_tokens), default=None
        )

    def servers_to_try(self) -> list[Server]:
        """Return the servers to ask for a reply, in order: the one with the fewest replies first.

        Servers that are down come last, not never: they may have come back. The first is repeated
        at the end, for it may only have forgotten an adapter.
        """
        order = sorted(self._servers, key=lambda server: (not server.up, server.open_replies))
        return [*order, order[0]]

    async def ensure_up(self, server: Server) -> None:
        """Identify a server that was down before it is used.

        Raises `ServerLost` or `ModelUnusable`.
        """
        if not server.up:
            await server.identify(self._probe)

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter on every server that is up. Raises `AdapterRefused` if none takes it."""

        async def load(server: Server) -> EngineError | None:
            try:
                await self.ensure_up(server)
                await server.load(adapter)
            except (ServerLost, ModelUnusable) as error:
                await self.check_after_failure(server, error)
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
        """Unload an adapter from every server; one that is lost has none."""

        async def unload(server: Server) -> None:
            with suppress(ServerLost):
                await server.unload(name)

        await asyncio.gather(*(unload(server) for server in self._servers))

    async def check_after_failure(self, server: Server, error: EngineError) -> None:
        """Ask a server that failed for its health, and mark it down if it is not healthy."""
        if server.up and not await server.is_healthy():
            self._mark_down(server, str(error))
        else:
            logger.warning("%s: %s", server.url, error)

    def unreachable(self) -> EngineUnreachable:
        """Make the error that none of the servers answers."""
        return EngineUnreachable([server.url for server in self._servers])

    async def close(self) -> None:
        """Stop the health checks and close the connections."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self._client.aclose()

    async def _watch_health(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._check_all()
            except EngineError as error:  # a server came back with another model
                logger.error("%s", error)
            except Exception:  # edge: the outermost of this task
                logger.exception("checking the vLLM servers failed")

    async def _check_all(self) -> None:
        """Check every server; identify those that were down. Raises `ModelUnusable`."""
        await asyncio.gather(*(self._check(server) for server in self._servers))

    async def _check(self, server: Server) -> None:
        try:
            if not server.up:
                await server.identify(self._probe)
            elif not await server.is_healthy():
                self._mark_down(server, "its health check failed")
        except ServerLost as error:
            logger.debug("%s: %s", server.url, error)

    def _mark_down(self, server: Server, why: str) -> None:
        logger.warning("%s is lost: %s", server.url, why)
        server.mark_down()
