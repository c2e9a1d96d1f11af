"""Load by many people at once, through Telegram's protocol: `python -m benchmarks.load`.

`ratchet bot` runs as a process of its own against a loopback Bot API server. Many people ask in
private chats, and ask again when they have their answer: a few times, or for `--minutes`. The wait
for the first words ends with what people see first: a draft, or the answer itself.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial

import psutil

from benchmarks.results import keep, show
from examples.scratch import let_teach, scratch_settings
from loopback import BotApi, Chat
from store.settings import load_settings

RATCHET = (sys.executable, "-c", "from bot.cli.main import main; main()")
TOKEN = "42:load"
FIRST_PERSON = 1000
TURNS = 5
START_SECONDS = 120
REPLY_SECONDS = 600
NEW_TOKENS = 32
MIB = 2**20


@dataclass(kw_only=True)
class Load:
    """Measurements with one number of people."""

    people: int
    asked: int = 0
    seconds: float = 0.0
    first_words: list[float] = field(default_factory=list)
    """Seconds from each question until its answer begins to show."""
    answers: list[float] = field(default_factory=list)
    """Seconds from each question to its whole answer."""
    peak_mib: float = 0.0
    """Peak memory of the bot's process."""

    @property
    def lost(self) -> int:
        """Number of questions without an answer."""
        return self.asked - len(self.answers)


@asynccontextmanager
async def bot(api: BotApi) -> AsyncIterator[psutil.Process]:
    """Run a bot that polls; yield its process."""
    process = await asyncio.create_subprocess_exec(
        *(*RATCHET, "bot"),
        env={
            **os.environ,
            "RATCHET_TELEGRAM_TOKEN": TOKEN,
            "RATCHET_TELEGRAM_API_URL": api.url,
            "RATCHET_ACCESS": "open",
            "RATCHET_LOG_LEVEL": "ERROR",
        },
    )
    try:
        await api.wait_polling(timeout=START_SECONDS)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def person(api: BotApi, number: int, load: Load, until: float | None) -> None:
    """Ask, wait for the answer, ask again: `TURNS` times, or until a time of `perf_counter`."""
    user = api.user(FIRST_PERSON + number)
    chat = api.private(user)
    turn = 0
    while time.perf_counter() < until if until else turn < TURNS:
        shown, started = len(chat.draft_history), time.perf_counter()
        load.asked += 1
        asked = await chat.send(user, f"Tell me about the number {100 * number + turn}.")
        with suppress(TimeoutError):
            await api.wait_for(partial(_answered, chat, shown, asked), REPLY_SECONDS)
            load.first_words.append(time.perf_counter() - started)
            await chat.wait_reply(asked, timeout=REPLY_SECONDS)
            load.answers.append(time.perf_counter() - started)
        turn += 1


def _answered(chat: Chat, shown: int, asked: int) -> bool:
    """True if any of the answer can be read."""
    drafts, messages = chat.draft_history[shown:], chat.bot_messages[-1:]
    return any(each.text for each in drafts) or any(each.id > asked for each in messages)


async def _watch(process: psutil.Process, load: Load) -> None:
    while True:
        load.peak_mib = max(load.peak_mib, process.memory_info().rss / MIB)
        await asyncio.sleep(1)


async def measure(counts: list[int], minutes: float | None) -> list[Load]:
    """Measure each number of people in turn, against one bot."""
    found: list[Load] = []
    known = range(FIRST_PERSON, FIRST_PERSON + 1 + sum(counts))
    let_teach(load_settings().storage.database, known)
    async with BotApi(TOKEN) as api, bot(api) as process:
        await person(api, 0, Load(people=1), None)  # warm up
        first = 1
        for count in counts:
            load = Load(people=count)
            watching = asyncio.create_task(_watch(process, load))
            started = time.perf_counter()
            until = started + 60 * minutes if minutes else None
            await asyncio.gather(*(person(api, first + n, load, until) for n in range(count)))
            load.seconds = time.perf_counter() - started
            watching.cancel()
            first += count
            found.append(load)
    return found


def main() -> None:
    """Measure, print, write `measured/load.json`; exit with 1 if an answer was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", nargs="+", type=int, default=[1, 10, 50])
    parser.add_argument("--minutes", type=float, help="go on so long, not a few questions each")
    options = parser.parse_args()
    with scratch_settings(max_new_tokens=NEW_TOKENS, queue_size=1000, quota_messages=0):
        found = asyncio.run(measure(options.people, options.minutes))
    rows = [
        (
            str(each.people),
            str(each.asked),
            str(each.lost),
            f"{len(each.answers) / each.seconds:.2f}",
            f"{_within(each.first_words, 0.5)} / {_within(each.first_words, 0.95)}",
            f"{_within(each.answers, 0.5)} / {_within(each.answers, 0.95)}",
            f"{each.peak_mib:.0f}",
        )
        for each in found
    ]
    waits = ("first words after, p50 / p95", "answer after, p50 / p95")
    show(("people", "asked", "lost", "answers a second", *waits, "peak MiB"), rows)
    keep("load", [asdict(each) for each in found])
    sys.exit(any(each.lost for each in found))


def _within(waits: list[float], share: float) -> str:
    """Return the seconds within which that share of the answers came."""
    return f"{sorted(waits)[int(share * (len(waits) - 1))]:.1f} s" if waits else "–"


if __name__ == "__main__":
    main()
