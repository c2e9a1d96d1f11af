"""Outgoing calls: a chat that gets too much delays itself, and the least urgent is dropped."""

import asyncio
from typing import Any

import pytest
from telegram.error import NetworkError, RetryAfter

from bot.slots import Slots
from bot.telegram.outgoing import (
    GROUPS_PER_MINUTE,
    MOST_WAITING,
    NotSent,
    Outgoing,
    Urgency,
    sending,
)

GROUP, OTHER, ADMIN = -100, 5, 99


class Telegram:
    """A Telegram that notes what is sent."""

    def __init__(self) -> None:
        self.outgoing = Outgoing(admins=frozenset({ADMIN}), first_pause_seconds=0.01)
        self.sent: list[tuple[int, str]] = []
        self.failures: list[Exception] = []

    async def send(
        self, chat: int, text: str, urgency: Urgency = Urgency.ANSWER, *, edits: int | None = None
    ) -> str:
        async def call() -> str:
            if self.failures:
                raise self.failures.pop(0)
            self.sent.append((chat, text))
            return text

        data: dict[str, Any] = {"chat_id": chat} | ({"message_id": edits} if edits else {})
        endpoint = "editMessageText" if edits else "sendMessage"
        with sending(urgency):
            return str(await self.outgoing.process_request(call, (), {}, endpoint, data, None))

    def later(self, *given: Any, **named: Any) -> "asyncio.Task[str]":
        return asyncio.create_task(self.send(*given, **named))

    async def fill(self) -> None:
        """Use up what a group may get at once."""
        for number in range(GROUPS_PER_MINUTE):
            await self.send(GROUP, f"filling {number}")
        self.sent.clear()


@pytest.fixture
async def telegram() -> Telegram:
    return Telegram()


async def test_a_full_group_holds_up_no_other_chat(telegram: Telegram) -> None:
    await telegram.fill()
    waiting = [telegram.later(GROUP, f"{n}") for n in range(10)]
    async with asyncio.timeout(1):
        await telegram.send(OTHER, "hello")
    assert telegram.outgoing.waiting >= 9
    await telegram.outgoing.shutdown()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_replies_go_before_answers_and_notices_and_tallies_last(telegram: Telegram) -> None:
    await telegram.fill()
    tasks = [
        telegram.later(GROUP, "tally", Urgency.TALLY),
        telegram.later(GROUP, "notice", Urgency.NOTICE),
        telegram.later(GROUP, "answer", Urgency.ANSWER),
        telegram.later(GROUP, "reply", Urgency.REPLY),
    ]
    async with asyncio.timeout(10):
        await tasks[3]
    assert [text for _, text in telegram.sent] == ["reply"]
    await telegram.outgoing.shutdown()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_when_too_many_wait_notices_are_dropped_and_replies_never(
    telegram: Telegram,
) -> None:
    await telegram.fill()
    notices = [telegram.later(GROUP, f"n{n}", Urgency.NOTICE) for n in range(3)]
    answers = [telegram.later(GROUP, f"a{n}") for n in range(MOST_WAITING - 3)]
    await asyncio.sleep(0)
    one_more = telegram.later(GROUP, "one more")
    await asyncio.sleep(0.01)
    assert isinstance(notices[0].exception(), NotSent), "the oldest of the least urgent"
    assert not one_more.done()
    for _ in range(2):
        telegram.later(GROUP, "two more")
    await asyncio.sleep(0.01)
    with pytest.raises(NotSent):
        await telegram.send(GROUP, "too much")
    reply = telegram.later(GROUP, "reply", Urgency.REPLY)
    await asyncio.sleep(0.01)
    assert not reply.done()
    assert telegram.outgoing.waiting == MOST_WAITING + 1
    await telegram.outgoing.shutdown()
    await asyncio.gather(reply, one_more, *notices, *answers, return_exceptions=True)


async def test_a_newer_edit_takes_the_place_of_one_that_waits(telegram: Telegram) -> None:
    await telegram.fill()
    first = telegram.later(GROUP, "1", edits=7)
    second = telegram.later(GROUP, "2", edits=7)
    await asyncio.sleep(0)
    assert await first == await second == "2"
    assert telegram.sent == [(GROUP, "2")]


async def test_who_waits_for_telegram_holds_no_slot(telegram: Telegram) -> None:
    await telegram.fill()
    slots = Slots(total=1, reserve=0)

    async def work() -> None:
        async with slots.enter(1, GROUP):
            await telegram.send(GROUP, "waits")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    async with asyncio.timeout(0.5), slots.enter(2, 2):
        pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_flood_of_one_chat_stops_no_other(telegram: Telegram) -> None:
    telegram.failures = [RetryAfter(1)]
    flooded = telegram.later(GROUP, "later")
    await asyncio.sleep(0.01)
    async with asyncio.timeout(0.5):
        await telegram.send(OTHER, "now")
    await flooded
    assert telegram.sent == [(OTHER, "now"), (GROUP, "later")]


async def test_a_call_that_is_given_up_does_not_end_the_queue(telegram: Telegram) -> None:
    telegram.outgoing = Outgoing(tries=2, first_pause_seconds=0.001)
    telegram.failures = [NetworkError("away")] * 2
    with pytest.raises(NetworkError):
        await telegram.send(OTHER, "lost")
    assert await telegram.send(OTHER, "next") == "next"


async def test_when_the_bot_stops_only_replies_are_waited_for(telegram: Telegram) -> None:
    await telegram.fill()
    answer = telegram.later(GROUP, "answer")
    reply = telegram.later(GROUP, "reply", Urgency.REPLY)
    await asyncio.sleep(0)
    telegram.outgoing.drop_answers()
    with pytest.raises(NotSent):
        await answer
    assert await reply == "reply"
