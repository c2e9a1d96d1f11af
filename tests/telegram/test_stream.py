"""Streaming: what is shown of unfinished replies, and how often, however many there are."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from telegram import Bot

from bot.telegram.stream import Pace, ReplyStream
from loopback import BotApi, Chat, flood
from store.domain import Place

Streamed = Callable[[Pace, Chat], ReplyStream]


async def remember(_message_id: int) -> None:
    pass


def hurried() -> Pace:
    return Pace(first_words_seconds=0.05, draft_seconds=0.05, edit_seconds=0.05)


@pytest.fixture
async def streamed(api: BotApi) -> AsyncIterator[Streamed]:
    """Yield a maker of streams of a reply to a chat."""
    async with Bot("42:secret", base_url=f"{api.url}/bot") as bot:
        yield lambda pace, chat: ReplyStream(
            bot,
            pace,
            Place(chat_id=chat.id),
            private=chat.id > 0,
            reply_to=None,
            on_sent=remember,
        )


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Return a pace at which a thousand others wait, and “typing” is never shown for this one."""
    monkeypatch.setattr("random.random", lambda: 0.99)
    pace = hurried()
    pace.waiting = 1000
    return pace


async def typing(api: BotApi) -> None:
    await api.wait_for(lambda: api.calls_to("sendChatAction"))


async def test_words_are_shown_soon_however_many_others_wait(
    streamed: Streamed, api: BotApi, chat: Chat, crowd: Pace
) -> None:
    async with streamed(crowd, chat) as reply:
        await asyncio.sleep(0.05)
        reply.add("Hello")
        await api.wait_for(lambda: chat.drafts)
        reply.add(" there")
        await api.wait_for(lambda: chat.drafts[0].text == "Hello there")

    assert not api.calls_to("sendChatAction")
    assert (crowd.waiting, crowd.writing) == (1000, 0)


async def test_a_flood_of_typing_holds_words_back_no_longer_than_telegram_asks(
    streamed: Streamed, api: BotApi, chat: Chat
) -> None:
    pace = hurried()
    api.inject("sendChatAction", flood(1))

    async with streamed(pace, chat) as reply:
        await typing(api)
        pace.waiting += 1000
        reply.add("Hello")
        await api.wait_for(lambda: chat.drafts)


async def test_blank_beginnings_are_no_words(streamed: Streamed, chat: Chat) -> None:
    pace = hurried()

    async with streamed(pace, chat) as reply:
        reply.add("\n")
        assert (pace.waiting, pace.writing) == (1, 0)
        reply.add("Hello")
        assert (pace.waiting, pace.writing) == (0, 1)

    assert (pace.waiting, pace.writing) == (0, 0)


async def test_what_is_finished_at_once_is_not_drafted(
    streamed: Streamed, api: BotApi, chat: Chat
) -> None:
    slow = Pace(first_words_seconds=60)

    async with asyncio.timeout(3), streamed(slow, chat) as reply:
        await typing(api)
        reply.add("Hello")
        await asyncio.sleep(0.05)

    assert not chat.draft_history


async def test_in_a_group_the_first_words_are_a_message(
    streamed: Streamed, api: BotApi, group: Chat
) -> None:
    async with streamed(hurried(), group) as reply:
        await typing(api)
        reply.add("Hello")
        await api.wait_for(lambda: group.bot_messages)

    assert group.bot_messages[0].text == "Hello"


def test_those_who_begin_together_are_shown_one_after_another() -> None:
    pace = hurried()
    pace.writing = 240

    first = sorted(pace.before_first_words() for _ in range(240))

    assert sum(each < 5 for each in first) < 120  # of 60 that 12 a second are
    assert first[-1] <= pace.before_update(1.0) == 20


def test_those_who_wait_take_turns() -> None:
    pace = hurried()
    pace.waiting = 13
    assert all(pace.may_type() for _ in range(100))

    pace.waiting = 270
    assert 0 < sum(pace.may_type() for _ in range(270)) < 60  # 13.5 can be expected
