"""Receives updates that Telegram posts to this process."""

import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

logger = logging.getLogger(__name__)

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"

MOST_BYTES = 2_000_000
"""Size of the largest body that is read; Telegram's updates are a hundredth of it."""


class Webhook:
    """The address at which Telegram posts updates; `receive` is given each, raw."""

    def __init__(
        self, path: str, secret: str, receive: Callable[[Sequence[Any]], Awaitable[None]]
    ) -> None:
        self.path = path
        self.secret = secret
        self.receive = receive
        self.last_good = time.monotonic()
        """The time of the last post that knew the secret."""

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[None]:
        """Listen for the length of the block. Raises `OSError`."""
        application = Application(
            [(re.escape(self.path), _Posted, {"webhook": self})], log_function=lambda handler: None
        )
        server = HTTPServer(application, max_body_size=10 * MOST_BYTES)
        server.listen(port, host)
        try:
            yield
        finally:
            server.stop()
            await server.close_all_connections()


@stream_request_body
class _Posted(RequestHandler):
    def initialize(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self._body = b""
        self._is_too_large = False
        self._is_known = False

    def prepare(self) -> None:
        """See who knows the secret, before anything of the body is kept."""
        given = self.request.headers.get(SECRET_HEADER, "")
        self._is_known = hmac.compare_digest(given.encode(), self._webhook.secret.encode())

    def data_received(self, chunk: bytes) -> None:
        """Collect the body; one that is too large, or a stranger's, is not kept."""
        if not self._is_known:
            return
        if len(self._body) + len(chunk) > MOST_BYTES:
            self._is_too_large, self._body = True, b""
        if not self._is_too_large:
            self._body += chunk

    async def post(self) -> None:
        """Take an update in; what cannot be read is confirmed, or it would be sent for ever."""
        if not self._is_known:
            raise HTTPError(403)
        self._webhook.last_good = time.monotonic()
        try:
            if self._is_too_large:
                raise ValueError(f"it is larger than {MOST_BYTES} bytes")
            update = json.loads(self._body)
        except (ValueError, RecursionError) as error:
            logger.error("an update cannot be read: %s", error)
            return
        await self._webhook.receive([update])

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log no refusals, and no words of an update."""
        if not isinstance(value, HTTPError):
            logger.error("a post failed: %s", type(value).__name__, exc_info=value)
