"""A backup that is taken while people talk, restored elsewhere."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from loopback import BotApi, User
from store.adapters import Adapters, hash_adapter
from store.database import Database
from store.domain import TurnState
from store.tables import Base, FeedbackRow, TurnRow
from tests.conftest import MakeAdapter
from tests.e2e.conftest import Home, StartBot
from tests.telegram.running import eventually

SECONDS = 60


@asynccontextmanager
async def people_talk(api: BotApi, *users: User) -> AsyncIterator[None]:
    """Let each person ask, rate the reply, and ask again, until the end of the block."""

    async def talk(user: User) -> None:
        chat = api.private(user)
        while True:
            asked = await chat.send(user, "What is tea?")
            reply = await chat.wait_reply(asked, timeout=SECONDS)
            await chat.tap(user, reply.id, "👍", timeout=SECONDS)

    talking = [asyncio.create_task(talk(user)) for user in users]
    try:
        yield
    finally:
        for task in talking:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def count(database: Database, table: type[Base]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    database = Database(url)
    with database.reading() as session:
        found = {
            table.name: [dict(row._mapping) for row in session.execute(select(table))]
            for table in Base.metadata.sorted_tables
        }
    database.close()
    return found


async def test_what_is_backed_up_while_people_talk_is_restored_row_by_row(
    home: Home, api: BotApi, start_bot: StartBot, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    live = Database(home.database_url)
    users = [api.user(number) for number in (7, 8, 9)]
    elsewhere = tmp_path / "elsewhere"
    async with start_bot(max_new_tokens="16"):
        made = Path(make_adapter("another", seed=1).path)
        kept = Adapters(live, home.folder / "adapters").add(made, base_model="another")
        async with people_talk(api, *users):
            await eventually(lambda: count(live, FeedbackRow) >= 3, SECONDS)
            before = count(live, TurnRow)
            taken = await home.ratchet("backup", "backup")
            after = count(live, TurnRow)
            await eventually(lambda: count(live, TurnRow) > after, SECONDS)
    key = str(home.folder / "backup.key")
    restored = await home.ratchet(
        "restore", "backup", "--signing-key", key, data_dir=str(elsewhere)
    )
    live.close()

    assert (taken.code, restored.code) == (0, 0), taken.err + restored.err
    copied = home.folder / "backup" / "ratchet.db"
    there = rows(f"sqlite:///{elsewhere / 'ratchet.db'}")
    [restoring] = there.pop("audit")[-1:]
    assert restoring["action"] == "restore backup"
    copied_rows = rows(f"sqlite:///{copied}")
    del copied_rows["audit"]
    assert there == copied_rows
    assert before <= len(there["turns"]) <= after
    now = {row["id"]: row for row in rows(home.database_url)["turns"]}
    final = [row for row in there["turns"] if row["state"] == TurnState.FINAL]
    assert final
    assert all(now[row["id"]] == row for row in final)
    assert hash_adapter(elsewhere / "adapters" / kept.name) == kept.sha256
    assert hashlib.sha256(copied.read_bytes()).hexdigest() in (
        home.folder / "backup" / "manifest.json"
    ).read_text(encoding="utf-8")
