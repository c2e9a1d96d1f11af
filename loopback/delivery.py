"""Delivery of updates to the bot by long polling or a webhook, and the signal tests wait on.

Invariant: an update leaves the queue only when a later getUpdates passes it with its offset
or a webhook answers it with 2xx, so a bot that dies in between is given it again.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from loopback.wire import ApiError, JsonObject, Params, bad_request

T = TypeVar("T")

Clock = Callable[[], float]

MAX_POLL_SECONDS = 50
DELIVERY_TIMEOUT_SECONDS = 10
BY_REQUEST_ONLY = frozenset({"chat_member", "message_reaction", "message_reaction_count"})
SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")


class Signal:
    """A signal that wakes everyone who waits for a change, so that no test polls with sleeps."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        """Let every waiter look at its condition again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait_for(self, predicate: Callable[[], T], timeout_seconds: float) -> T:
        """Return the first truthy value of `predicate`, called again after every change.

        Raises:
            TimeoutError: when it stays falsy for `timeout_seconds`.
        """
        async with asyncio.timeout(timeout_seconds):
            while not (value := predicate()):
                future = asyncio.get_running_loop().create_future()
                self._waiting.add(future)
                try:
                    await future
                finally:
                    self._waiting.discard(future)
        return value


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """The address that setWebhook asked updates to be posted to."""

    url: str
    secret: str
    max_connections: int


class Updates:
    """The queue of updates of one bot."""

    def __init__(self, *, clock: Clock, changed: Callable[[], None], retry_seconds: float) -> None:
        self._clock = clock
        self._changed = changed
        self._retry_seconds = retry_seconds
        self._pending: deque[JsonObject] = deque()
        self._arrived = asyncio.Event()
        # Ids begin at an arbitrary number, so that no bot may count on 0 or 1.
        self._next_id = 1000 + int(clock()) % 100_000
        self._allowed: frozenset[str] = frozenset()
        self._held: asyncio.Future[None] | None = None
        self._webhook: Webhook | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._last_error: tuple[int, str] | None = None
        self._closed = False

    @property
    def pending(self) -> tuple[JsonObject, ...]:
        """Updates that are not confirmed yet."""
        return tuple(self._pending)

    @property
    def polling(self) -> bool:
        """True while a poll is held."""
        return self._held is not None

    def push(self, update: JsonObject) -> int | None:
        """Queue an update; return its id, or None if the bot did not ask for its kind.

        As at Telegram, the kinds of the latest getUpdates or setWebhook decide at the
        moment of the event: a reaction made before the bot asked for them is never sent.
        """
        kinds = update.keys() - {"update_id"}
        wanted = kinds & self._allowed if self._allowed else kinds - BY_REQUEST_ONLY
        if not wanted:
            return None
        update_id = int(update.get("update_id", self._next_id))
        self._next_id = max(self._next_id, update_id + 1)
        self._pending.append({**update, "update_id": update_id})
        self._arrived.set()
        self._release(None)
        return update_id

    async def poll(self, params: Params) -> list[JsonObject]:
        """Answer getUpdates. Raises ApiError 409 under a webhook or if another poll takes over."""
        if self._webhook is not None:
            raise ApiError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        self._remember_allowed(params)
        self._confirm(params.integer("offset"))
        self._release(
            "terminated by other getUpdates request; "
            "make sure that only one bot instance is running"
        )
        limit = min(max(params.integer("limit", 100), 1), 100)
        timeout_seconds = min(params.integer("timeout"), MAX_POLL_SECONDS)
        if not self._pending and timeout_seconds > 0 and not self._closed:
            held = self._held = asyncio.get_running_loop().create_future()
            self._changed()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_seconds):
                        await held
            finally:
                if self._held is held:
                    self._held = None
                self._changed()
        return list(self._pending)[:limit]

    async def set_webhook(self, params: Params) -> bool:
        """Answer setWebhook; an empty `url` removes it. Plain http is accepted on loopback only."""
        url, secret = params.text("url"), params.text("secret_token")
        if not url:
            return await self.delete_webhook(params)
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
        if secret and not SECRET.fullmatch(secret):
            raise bad_request("secret token contains unallowed characters")
        await self.delete_webhook(params)
        self._remember_allowed(params)
        self._release("terminated by setWebhook request")
        self._webhook = Webhook(
            url=url, secret=secret, max_connections=params.integer("max_connections", 40)
        )
        self._delivery = asyncio.create_task(self._deliver(self._webhook), name="webhook")
        return True

    async def delete_webhook(self, params: Params) -> bool:
        """Answer deleteWebhook; an update under delivery stays queued and is given again."""
        self._webhook = None
        self._last_error = None
        await self._stop_delivery()
        if params.flag("drop_pending_updates"):
            self._pending.clear()
        return True

    def webhook_info(self) -> JsonObject:
        """Answer getWebhookInfo."""
        info: JsonObject = {
            "url": self._webhook.url if self._webhook else "",
            "has_custom_certificate": False,
            "pending_update_count": len(self._pending),
        }
        if self._webhook:
            info["max_connections"] = self._webhook.max_connections
        if self._allowed:
            info["allowed_updates"] = sorted(self._allowed)
        if self._last_error:
            info["last_error_date"], info["last_error_message"] = self._last_error
        return info

    async def aclose(self) -> None:
        """End held polls with an empty batch and stop delivering."""
        self._closed = True
        self._release(None)
        await self._stop_delivery()

    def _remember_allowed(self, params: Params) -> None:
        if (allowed := params.names("allowed_updates")) is not None:
            self._allowed = frozenset(allowed)

    def _confirm(self, offset: int) -> None:
        if offset < 0:
            while len(self._pending) > -offset:
                self._pending.popleft()
        while offset > 0 and self._pending and self._pending[0]["update_id"] < offset:
            self._pending.popleft()
        self._changed()

    def _release(self, conflict: str | None) -> None:
        held, self._held = self._held, None
        if held is None or held.done():
            return
        if conflict is None:
            held.set_result(None)
        else:
            held.set_exception(ApiError(409, f"Conflict: {conflict}"))

    async def _stop_delivery(self) -> None:
        task, self._delivery = self._delivery, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _deliver(self, webhook: Webhook) -> None:
        total = aiohttp.ClientTimeout(total=DELIVERY_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=total) as session:
            while True:
                while not self._pending:
                    self._arrived.clear()
                    await self._arrived.wait()
                if await self._post(session, webhook, self._pending[0]):
                    self._pending.popleft()
                    self._changed()
                else:
                    await asyncio.sleep(self._retry_seconds)

    async def _post(
        self, session: aiohttp.ClientSession, webhook: Webhook, update: JsonObject
    ) -> bool:
        headers = {"X-Telegram-Bot-Api-Secret-Token": webhook.secret} if webhook.secret else {}
        try:
            async with session.post(webhook.url, json=update, headers=headers) as response:
                if 200 <= response.status < 300:
                    return True
                reason = f"Wrong response from the webhook: {response.status} {response.reason}"
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = f"Connection failed: {type(error).__name__}"
        self._last_error = (int(self._clock()), reason)
        return False
