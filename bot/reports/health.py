"""HTTP endpoints for monitoring: `/healthz`, `/readyz` and Prometheus' `/metrics`."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from bot.errors import BotError
from bot.reports.metrics import Metrics
from store.database import Database
from store.errors import StoreError

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Longest wait for the database."""


@dataclass(frozen=True, kw_only=True)
class VitalSigns:
    """The state of the Telegram side at a moment."""

    silent_seconds: float | None
    """The time since Telegram last answered a poll or posted an update; None if not listening."""
    is_deaf: bool
    """True if no update can arrive."""
    under_way: int
    """Updates that wait or are being handled."""
    oldest_seconds: float
    """The age of the oldest of them."""
    waiting_to_be_sent: int

    @property
    def lines(self) -> tuple[str, ...]:
        """The signs in words, for people."""
        silent = "never" if self.silent_seconds is None else f"{self.silent_seconds:.0f} s ago"
        return (
            f"last heard of Telegram: {silent}",
            f"updates under way: {self.under_way}, the oldest for {self.oldest_seconds:.0f} s",
            f"messages waiting to be sent: {self.waiting_to_be_sent}",
        )


class Health:
    """The health of the process."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self.metrics = metrics
        self._signs: Callable[[], VitalSigns] | None = None
        self._database = database

    def watch(self, signs: Callable[[], VitalSigns]) -> None:
        """Ask `signs` from now on whether messages are taken."""
        self._signs = signs
        self.metrics.watch(signs)

    @property
    def signs(self) -> VitalSigns | None:
        """The state of the Telegram side now; None before the bot talks."""
        return self._signs() if self._signs else None

    async def trouble(self) -> str:
        """Return the reason why the process cannot take messages; empty if it can."""
        signs = self.signs
        if signs is None or signs.silent_seconds is None:
            return "not talking yet, or not any more"
        if signs.is_deaf:
            return f"Telegram was last heard {signs.silent_seconds:.0f} s ago"
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await asyncio.to_thread(self._database.check_at_head)
        except (StoreError, TimeoutError) as error:
            return f"the database: {str(error) or 'no answer'}"
        return ""

    @asynccontextmanager
    async def serve(self, listen: str) -> AsyncIterator[None]:
        """Serve the endpoints at HOST:PORT for the length of the block. Raises `BotError`."""
        host, _, port = listen.rpartition(":")
        routes = [("/healthz", _Alive), ("/readyz", _Ready), ("/metrics", _Metrics)]
        try:
            listening = socket.create_server((host, int(port)))
        except OSError as error:
            raise BotError(f"cannot listen at {listen} (RATCHET_HEALTH_LISTEN): {error}") from error
        listening.setblocking(False)
        server = HTTPServer(
            Application(
                [(path, handler, {"health": self}) for path, handler in routes],
                log_function=lambda handler: None,
            )
        )
        server.add_socket(listening)
        try:
            yield
        finally:
            server.stop()


class _Endpoint(RequestHandler):
    def initialize(self, health: Health) -> None:
        self.health = health
        self.set_header("Content-Type", "text/plain; charset=utf-8")

    def head(self) -> Awaitable[None] | None:
        """Answer as GET does; tornado leaves the body out."""
        return self.get()

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log only errors of ours, not of the request."""
        if not isinstance(value, HTTPError):
            logger.error("%s failed", self.request.path, exc_info=value)


class _Alive(_Endpoint):
    async def get(self) -> None:
        """Answer "ok" as long as the event loop runs."""
        self.write("ok\n")


class _Ready(_Endpoint):
    async def get(self) -> None:
        """Answer "ok" if messages are taken and can be stored."""
        trouble = await self.health.trouble()
        if trouble:
            self.set_status(503)
        signs = self.health.signs
        self.write("\n".join((trouble or "ok", *(signs.lines if signs else ()), "")))


class _Metrics(_Endpoint):
    async def get(self) -> None:
        """Answer with all metrics in Prometheus' text format."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                text = await asyncio.to_thread(generate_latest, self.health.metrics.registry)
        except (StoreError, TimeoutError) as error:
            self.set_status(503)
            self.write(f"the database: {str(error) or 'no answer'}\n")
            return
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(text)
