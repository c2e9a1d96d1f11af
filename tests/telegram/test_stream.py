"""What is shown of a reply on its way, and how often, however many are on theirs."""

import asyncio
from typing import Any, cast

import pytest
from telegram import Bot

from bot.telegram import stream
from bot.telegram.stream import Pace, ReplyStream
from store.domain import Place

CHAT = Place(chat_id=5)


class Shown:
    """A bot that notes what it is asked to show."""

    def __init__(self) -> None:
        self.typing = asyncio.Event()
        self.drafts: asyncio.Queue[str] = asyncio.Queue()
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    async def send_chat_action(self, *_: Any) -> None:
        self.typing.set()

    async def send_message_draft(self, _chat: int, _id: int, text: str, **_kwargs: Any) -> None:
        self.drafts.put_nowait(text)

    async def send_message(self, _chat: int, text: str, **_kwargs: Any) -> Any:
        self.sent.put_nowait(text)
        return type("Sent", (), {"message_id": 7})


async def remember(_message_id: int) -> None:
    pass


def streamed(bot: Shown, pace: Pace, *, private: bool = True) -> ReplyStream:
    return ReplyStream(cast(Bot, bot), pace, CHAT, private=private, reply_to=None, on_sent=remember)


@pytest.fixture
def shown() -> Shown:
    return Shown()


async def next_of(shown: "asyncio.Queue[str]") -> str:
    async with asyncio.timeout(3):
        return await shown.get()


async def test_words_are_shown_soon_however_many_others_wait(shown: Shown) -> None:
    pace = Pace()
    pace.waiting = 1000

    async with streamed(shown, pace) as reply:
        await shown.typing.wait()
        reply.add("Hello")
        first = await next_of(shown.drafts)
        reply.add(" there")
        second = await next_of(shown.drafts)

    assert (first, second) == ("Hello", "Hello there")
    assert (pace.waiting, pace.writing) == (1000, 0)


async def test_blank_beginnings_are_no_words(shown: Shown) -> None:
    pace = Pace()

    async with streamed(shown, pace) as reply:
        reply.add("\n")
        assert (pace.waiting, pace.writing) == (1, 0)
        reply.add("Hello")
        assert (pace.waiting, pace.writing) == (0, 1)

    assert (pace.waiting, pace.writing) == (0, 0)


async def test_what_is_finished_at_once_is_not_drafted(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_WORDS_SECONDS", 60)

    async with asyncio.timeout(3), streamed(shown, Pace()) as reply:
        await shown.typing.wait()
        reply.add("Hello")
        await asyncio.sleep(0.05)

    assert shown.drafts.empty()


async def test_in_a_group_the_first_words_are_a_message(shown: Shown) -> None:
    async with streamed(shown, Pace(), private=False) as reply:
        await shown.typing.wait()
        reply.add("Hello")
        assert await next_of(shown.sent) == "Hello"


def test_together_they_stay_under_the_limit() -> None:
    pace = Pace()
    pace.waiting, pace.writing = 300, 60

    updates, typing = 60 / pace.before_update(1.0), 300 / pace.before_typing()

    assert updates + typing == stream.UPDATES_PER_SECOND + stream.TYPING_PER_SECOND == 15
