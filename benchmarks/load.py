"""Many people at once, through Telegram's protocol: `python -m benchmarks.load`.

`ratchet bot` as a process of its own, in front of a loopback Bot API server; so many people ask in
private chats, and ask again when they have their answer.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.results import keep, show, spread
from benchmarks.scratch import scratch_settings
from tests.botapi import BotApi

RATCHET = (sys.executable, "-c", "from bot.cli import main; main()")
TOKEN = "42:load"
TURNS = 5
START_SECONDS = 120
REPLY_SECONDS = 600
NEW_TOKENS = 32


@asynccontextmanager
async def bot(api: BotApi) -> AsyncIterator[None]:
    """A bot that polls."""
    process = await asyncio.create_subprocess_exec(
        *(*RATCHET, "bot"),
        env={
            **os.environ,
            "RATCHET_TELEGRAM_TOKEN": TOKEN,
            "RATCHET_TELEGRAM_API_URL": api.url,
            "RATCHET_LOG_LEVEL": "ERROR",
        },
    )
    try:
        await api.wait_polling(timeout=START_SECONDS)
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def person(api: BotApi, number: int) -> list[float]:
    """Seconds from each question to its whole answer."""
    user = api.user(1000 + number)
    chat = api.private(user)
    seconds = []
    for turn in range(TURNS):
        started = time.perf_counter()
        asked = await chat.send(user, f"Tell me about the number {100 * number + turn}.")
        await chat.wait_reply(asked, timeout=REPLY_SECONDS)
        seconds.append(time.perf_counter() - started)
    return seconds


async def measure(counts: list[int]) -> list[dict[str, Any]]:
    """So many people, one number after another; the bot stays."""
    found: list[dict[str, Any]] = []
    async with BotApi(TOKEN) as api, bot(api):
        await person(api, 0)  # whoever comes first warms it up
        first = 1
        for count in counts:
            started = time.perf_counter()
            each = await asyncio.gather(*(person(api, first + n) for n in range(count)))
            took = time.perf_counter() - started
            first += count
            waits = [seconds for one in each for seconds in one]
            found.append({"people": count, "seconds": took, "waits": waits})
    return found


def main() -> None:
    """Measure, print, write `results/load.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", nargs="+", type=int, default=[1, 10, 50])
    options = parser.parse_args()
    with scratch_settings(max_new_tokens=NEW_TOKENS, queue_size=1000):
        found = asyncio.run(measure(options.people))
    rows = []
    for each in found:
        waits = sorted(each["waits"])
        late = waits[int(0.95 * (len(waits) - 1))]
        rate = len(waits) / each["seconds"]
        rows.append(
            (str(each["people"]), str(len(waits)), f"{rate:.2f}", spread(waits, 1), f"{late:.1f}")
        )
    show(
        ("people", "answers", "answers a second", "seconds to an answer", "95 of 100 within"), rows
    )
    keep("load", found)


if __name__ == "__main__":
    main()
