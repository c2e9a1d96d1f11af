"""One simulated process: a whole bot over the shared database, on a bad connection to Telegram."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from telegram.error import NetworkError, TelegramError, TimedOut
from telegram.request import BaseRequest, RequestData

from bot.app import TelegramBot, make_telegram
from loopback import BotApi
from store.errors import StoreError
from store.settings import Settings
from store.tables import UpdateRow
from tests.fakes import FakeEngine
from tests.simulation.faults import FaultyDatabase, Plan
from tests.telegram.running import store_of

logger = logging.getLogger(__name__)

CALL_SECONDS = 0.3
"""Longest time that a call to Telegram takes."""


class Connection(BaseRequest):
    """A connection to the loopback Telegram on which calls are lost, late, refused or repeated."""

    def __init__(self, api: BotApi, plan: Plan, database: FaultyDatabase) -> None:
        self._api = api
        self._plan = plan
        self._database = database

    @property
    def read_timeout(self) -> float:
        """Longest time that an answer is waited for."""
        return 10.0

    async def initialize(self) -> None:
        """Do nothing."""

    async def shutdown(self) -> None:
        """Do nothing."""

    async def do_request(
        self,
        url: str,
        method: str,
        request_data: RequestData | None = None,
        read_timeout: Any = None,
        write_timeout: Any = None,
        connect_timeout: Any = None,
        pool_timeout: Any = None,
    ) -> tuple[int, bytes]:
        """Make a call, unless it goes wrong."""
        plan = self._plan
        await asyncio.sleep(plan.draw.uniform(0, CALL_SECONDS))
        if self._database.is_dead:
            await asyncio.Event().wait()  # a dead process does nothing any more
        fault = ""
        if plan.in_trouble and plan.draw.random() < plan.network:
            fault = plan.draw.choice(["lost", "late", "flood", "gateway"])
        if fault == "lost":
            raise NetworkError("the connection was lost")
        if fault == "flood":
            seconds = plan.draw.choice([1, 3, 8])
            answer = {
                "ok": False,
                "error_code": 429,
                "description": f"Too Many Requests: retry after {seconds}",
                "parameters": {"retry_after": seconds},
            }
            return 429, json.dumps(answer).encode()
        if fault == "gateway":
            return 502, b"<html>Bad Gateway</html>"
        values = request_data.json_parameters if request_data else {}
        status, body = await self._api.call(url.rpartition("/")[2], values)
        if fault == "late":
            plan.ambiguous += 1
            raise TimedOut("no answer came")
        return status, json.dumps(body).encode()


class Replica:
    """A bot that handles updates until it dies."""

    def __init__(
        self,
        api: BotApi,
        plan: Plan,
        settings: Settings,
        file: Path,
        *,
        dies_at_write: int | None,
        alone: bool,
    ) -> None:
        self.database = FaultyDatabase(
            f"sqlite:///{file}", plan, dies_at_write=dies_at_write, alone=alone
        )
        self.store = store_of(settings, self.database)
        connection = Connection(api, plan, self.database)
        self.telegram: TelegramBot = make_telegram(self.store, FakeEngine(), connection)  # type: ignore[arg-type]
        self.is_ready = False
        self.died = self.database.died
        self._alone = alone
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def is_dead(self) -> bool:
        """True once a write has killed it."""
        return self.database.is_dead

    @property
    def is_idle(self) -> bool:
        """True if nothing is under way, or it is dead."""
        return self.is_dead or (self.is_ready and self.telegram.dispatcher.under_way == 0)

    @property
    def unfinished(self) -> int:
        """The number of updates that no process has finished."""
        with self.database.reading() as session:
            waiting = UpdateRow.handled_at.is_(None) & UpdateRow.failure.is_(None)
            return session.scalar(select(func.count()).where(waiting)) or 0

    async def start(self) -> None:
        """Begin, as `bot/serving.py` does; whatever fails at first is tried again."""
        while not self.is_dead:
            try:
                await asyncio.to_thread(self.store.eraser.resume)
                await self.telegram.application.initialize()
                await self.telegram.application.start()
                break
            except (StoreError, TelegramError) as error:
                logger.info("cannot begin yet: %s", error)
                await asyncio.sleep(1)
        if self.is_dead:
            return
        bot = self.telegram.application.bot
        keeping = self.telegram.inbox.keep(bot, alone=self._alone)
        self._tasks.append(asyncio.create_task(keeping, name="keep"))
        self.is_ready = True

    async def receive(self, updates: list[Any]) -> None:
        """Take in updates, as if they had been posted."""
        await self.telegram.inbox.receive(updates, self.telegram.application.bot)

    def close(self) -> None:
        """Close the files; nothing of the process goes on."""
        self.database.is_dead = True
        self.database.close()
