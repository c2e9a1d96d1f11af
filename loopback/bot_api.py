"""The loopback Telegram's HTTP side: routes, faults and the front door."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from loopback.delivery import Clock, Signal, Updates
from loopback.methods import Methods, scope_key
from loopback.objects import (
    Attachment,
    Call,
    User,
)
from loopback.rates import Rates
from loopback.telegram_chat import Chat
from loopback.wire import (
    ApiError,
    Fault,
    FaultKind,
    JsonObject,
    params_of,
    read_params,
    too_many_requests,
)
from loopback.world import World

T = TypeVar("T")

TOKEN = "123456:loopback-token"
# Telegram's 50 MB are for the file; the other parts of a form need a little more.
MAX_UPLOAD_BYTES = 50 * 1024 * 1024 + 64 * 1024
# A server left running by hand must not remember every poll of every day.
MAX_CALLS = 10_000
DOWNLOAD = "download"


class BotApi:
    """One bot's Telegram, served while the `async with` lasts.

    `clock` gives seconds since the epoch and decides dates, the 30 s of drafts, the 15 s in
    which a tap may be answered, and rates; holds and timeouts are always real time.
    """

    def __init__(
        self,
        token: str = TOKEN,
        *,
        port: int = 0,
        bot_name: str = "Ratchet",
        bot_username: str = "ratchet_bot",
        enforce_rates: bool = False,
        webhook_retry_seconds: float = 0.1,
        clock: Clock = time.time,
    ) -> None:
        self.token = token
        bot_id = int(token.partition(":")[0]) if token.partition(":")[0].isdigit() else 1
        self.bot = User(id=bot_id, first_name=bot_name, username=bot_username, is_bot=True)
        self.calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self._clock = clock
        self._port = port
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        signal = Signal()
        updates = Updates(clock=clock, changed=signal.changed, retry_seconds=webhook_retry_seconds)
        self._world = World(bot=self.bot, clock=clock, signal=signal, updates=updates)
        self._methods = Methods(self._world, Rates(clock) if enforce_rates else None)
        self._names = {name.lower(): name for name in self._methods.by_name}
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=MAX_UPLOAD_BYTES)
        app.router.add_route("*", "/bot{token}/{method}", self._answer)
        app.router.add_get("/file/bot{token}/{path:.+}", self._answer)
        # A client that goes away must free its held poll, or the next one would conflict.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def aclose(self) -> None:
        """Stop: held polls get an empty batch, held faults end, and nothing more is sent."""
        self._closing.set()
        await self._world.updates.aclose()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """The server's root, such as `http://127.0.0.1:40001`."""
        return f"http://127.0.0.1:{self._port}"

    def user(
        self,
        user_id: int,
        *,
        first_name: str = "Ada",
        last_name: str | None = None,
        username: str | None = None,
        language_code: str | None = None,
    ) -> User:
        """Make a person with an account; asking again for an id replaces its profile."""
        user = User(
            id=user_id,
            first_name=first_name,
            last_name=last_name,
            username=username,
            language_code=language_code,
        )
        self._world.users[user_id] = user
        return user

    def private(self, user: User) -> Chat:
        """Return the person's private chat with the bot, opened on the first call."""
        if user.id not in self._world.chats:
            self._world.chats[user.id] = Chat(self._world, user.id, members=[user])
        self._world.chats[user.id].members[user.id] = user
        return self._world.chats[user.id]

    def group(
        self,
        group_id: int,
        title: str,
        members: Sequence[User],
        *,
        forum: bool = False,
        admins: Sequence[User] | None = None,
        bot_is_admin: bool = True,
    ) -> Chat:
        """Make a group with the bot in it, owned by its first admin, by default the first member.

        Ids from -1000000000000 down are supergroups, others basic groups. A bot that is not
        an administrator gets no reactions.
        """
        if group_id >= 0:
            raise ValueError("the id of a group is negative")
        self._world.chats[group_id] = Chat(
            self._world,
            group_id,
            members=members,
            title=title,
            forum=forum,
            admins=members[:1] if admins is None else admins,
            bot_is_admin=bot_is_admin,
        )
        return self._world.chats[group_id]

    def topic(self, group: Chat, name: str) -> int:
        """Open a topic in a forum as its first member; return its message_thread_id."""
        return group.add_topic(next(iter(group.members.values())), name)

    def chats(self) -> list[Chat]:
        """Return every chat."""
        return list(self._world.chats.values())

    def block(self, user: User) -> None:
        """Block the bot as this person: it is told, and its messages are refused with 403."""
        self._world.set_blocked(user, True)

    def unblock(self, user: User) -> None:
        """Unblock the bot as this person; the bot is told."""
        self._world.set_blocked(user, False)

    def push(self, update: JsonObject) -> int | None:
        """Queue any update as it is; return its id, or None if the bot did not ask for its kind."""
        return self._world.push(update)

    def file(self, file_id: str) -> Attachment:
        """Return a stored file. Raises KeyError when there is none."""
        return self._world.files[file_id]

    def commands(self, scope: JsonObject | None = None, language_code: str = "") -> list[str]:
        """Return the names of the commands set for a scope, by default the default one."""
        commands = self._world.commands.get((scope_key(scope), language_code), [])
        return [str(each["command"]) for each in commands]

    @property
    def pending(self) -> tuple[JsonObject, ...]:
        """Updates that the bot has not confirmed."""
        return self._world.updates.pending

    @property
    def polling(self) -> bool:
        """True while a long poll of the bot is held."""
        return self._world.updates.polling

    def calls_to(self, method: str) -> list[Call]:
        """Return the calls of one method so far, oldest first; `download` for files."""
        return [call for call in self.calls if call.method == method]

    def inject(self, method: str, fault: Fault, times: int = 1) -> None:
        """Let the next `times` calls of a method (or `download`) go wrong, in order."""
        if method != DOWNLOAD and method not in self._methods.by_name:
            raise ValueError(f"no method {method}")
        self._faults[method].extend([fault] * times)

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 5) -> T:
        """Return the first truthy value of `predicate`, called again after every change.

        Raises TimeoutError, with the end of every chat, when it stays falsy.
        """
        return await self._world.wait_for(predicate, timeout)

    async def wait_polling(self, timeout: float = 10) -> None:
        """Wait until the bot polls or has set a webhook, which is when it is ready."""
        await self.wait_for(
            lambda: self.polling or bool(self._world.updates.webhook_info()["url"]),
            timeout,
        )

    async def call(self, method: str, values: Mapping[str, object]) -> tuple[int, JsonObject]:
        """Call a method without HTTP; return the status and the body of the answer.

        `values` may be encoded as in a form. Neither faults nor the log of calls apply.
        """
        try:
            result = await self._methods.by_name[method](params_of(values))
        except ApiError as error:
            return error.code, error.body()
        finally:
            self._world.changed()
        return 200, {"ok": True, "result": result}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = request.match_info.get("method", DOWNLOAD)
        call = Call(method=self._names.get(asked.lower(), asked), params={}, at=self._clock())
        self.calls.append(call)
        try:
            if request.match_info["token"] != self.token:
                raise ApiError(401, "Unauthorized")
            response = await self._faulty(request, call)
        except ApiError as error:
            call.error = error.description
            response = web.json_response(error.body(), status=error.code)
        if call.status is None:
            call.status = response.status
        self._world.changed()
        return response

    async def _faulty(self, request: web.Request, call: Call) -> web.StreamResponse:
        faults = self._faults[call.method]
        fault = faults.popleft() if faults else None
        if fault is None:
            return await self._served(request, call)
        call.fault = fault.kind.value
        match fault.kind:
            case FaultKind.FLOOD:
                call.params = (await read_params(request)).logged()
                raise too_many_requests(int(fault.seconds))
            case FaultKind.SERVER_ERROR:
                page = "<html><body><h1>502 Bad Gateway</h1></body></html>"
                return web.Response(status=502, text=page, content_type="text/html")
            case FaultKind.TIMEOUT:
                self._world.changed()
                with suppress(TimeoutError):
                    async with asyncio.timeout(fault.seconds):
                        await self._closing.wait()
            case FaultKind.DROP_AFTER:
                with suppress(ApiError):
                    await self._served(request, call)
            case FaultKind.DROP_BEFORE:
                pass
        call.status = 0
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    async def _served(self, request: web.Request, call: Call) -> web.StreamResponse:
        if call.method == DOWNLOAD:
            path = request.match_info["path"]
            call.params = {"path": path}
            for attachment in self._world.files.values():
                if attachment.file_path == path:
                    return web.Response(body=attachment.data, content_type=attachment.mime_type)
            raise ApiError(404, "Not Found")
        if call.method not in self._methods.by_name:
            raise ApiError(404, "Not Found: method not found")
        params = await read_params(request)
        call.params = params.logged()
        self._world.changed()
        result = await self._methods.by_name[call.method](params)
        return web.json_response({"ok": True, "result": result})
