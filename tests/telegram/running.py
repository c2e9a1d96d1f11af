"""A whole bot in the test's own event loop: real handlers and stores, a loopback Telegram."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from telegram.request import HTTPXRequest

from bot.allowance import Rate
from bot.app import Store, TelegramBot, make_store, make_telegram
from bot.serving import talk
from bot.telegram.announcements import Announcements
from bot.telegram.application import App
from bot.telegram.timing import Timing
from loopback import BotApi, Chat, Message, User
from store.database import Database
from store.domain import Message as PromptMessage
from store.domain import Rating, SentKind, Turn
from store.settings import Settings
from store.settings import make_settings as settings_of
from store.tables import Base
from tests.fakes import FakeEmbedder, FakeEngine, Reply, echo

ADMIN_ID = 99

NO_QUOTAS = {
    "quota_messages": 0,
    "quota_tokens": 0,
    "quota_at_once": 0,
    "quota_ratings": 0,
}
"""Settings without quotas, since tests write faster than people."""


HURRIED = Timing(
    first_words_seconds=0.05,
    draft_seconds=0.05,
    edit_seconds=0.05,
    tally_seconds=0.05,
    store_again_seconds=0.01,
    update_again_seconds=0.05,
    call_again_seconds=0.01,
    persons_rate=Rate(burst=1_000, per_second=1_000),
    chats_rate=Rate(burst=1_000, per_second=1_000),
)
"""Short pauses: progress is shown often and failures are retried soon."""

QUICK = replace(HURRIED, look_seconds=0.05)
"""Shorter pauses: the bot looks for news more often than once a second, too."""


class SteppingEngine(FakeEngine):
    """A fake that writes `words` words and then waits, as if `hold` had been cleared then."""

    def __init__(self, words: int, reply: Reply = echo) -> None:
        super().__init__(reply)
        self._left = words

    async def _held(self) -> None:
        if self._left == 0:
            self.hold.clear()
        self._left -= 1
        await super()._held()


@dataclass(frozen=True, kw_only=True)
class RunningBot:
    """A bot, and everything around it that a test may look at."""

    api: BotApi
    engine: FakeEngine
    settings: Settings
    store: Store
    application: App
    news: Announcements
    telegram: TelegramBot
    stop: asyncio.Event
    task: "asyncio.Task[None]"

    async def ask(self, chat: Chat, user: User, text: str, *, thread: int | None = None) -> Message:
        """Ask; return the reply once it is shown and stored as that turn's."""
        asked = await chat.send(user, text, thread=thread)
        reply = await chat.wait_reply(asked)
        await self.settle()
        return chat.message(reply.id)

    async def say(self, chat: Chat, user: User, text: str, **options: int) -> str:
        """Send something that is answered without buttons; return the answer's text."""
        sent = await chat.send(user, text, **options)
        await self.settle()
        return "\n".join(each.text for each in chat.bot_messages if each.id > sent)

    async def settle(self) -> None:
        """Wait until every update so far is handled, and the counts under replies are shown."""
        await self.api.wait_for(lambda: not self.api.pending, 10)
        async with asyncio.timeout(10):
            await self.telegram.dispatcher.idle()
            tallies = [task for task in asyncio.all_tasks() if task.get_name() == "tally"]
            await asyncio.gather(*tallies)

    def turn(self, reply: Message) -> Turn:
        """Return the turn that a reply with buttons belongs to."""
        return self.store.conversations.turn(turn_id(reply))

    def ratings(self, reply: Message) -> dict[int, Rating]:
        """Return the ratings of a reply by person."""
        ratings = self.store.feedback.ratings(turn_id(reply))
        return {feedback.person_id: feedback.rating for feedback in ratings}

    def shown(self, chat: Chat, turn: int) -> tuple[int, ...]:
        """Return the messages that are known to show a turn."""
        return self.store.conversations.shown_by(turn, chat.id)

    def is_reply(self, chat: Chat, message: Message) -> bool:
        """Return whether a message is known to show some turn."""
        found = self.store.conversations.shown_in(chat.id, message.id, SentKind.REPLY)
        return found is not None

    def count(self, table: type[Base]) -> int:
        """Return the number of a table's rows."""
        with self.store.database.reading() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    async def tap(self, chat: Chat, user: User, message: Message, button: str) -> Message:
        """Tap a button under a message; return the message afterwards."""
        await chat.tap(user, message.id, button)
        await self.settle()
        return chat.message(message.id)

    async def look_for_news(self) -> None:
        """Look for news, as the bot does about once a second."""
        await self.news.look(self.application.bot)

    async def add_document(self, name: str, text: str) -> None:
        """Put a document into the knowledge base, and index it."""
        self.store.knowledge.add(name, text.encode(), added_by=ADMIN_ID)
        await self.index()

    async def index(self) -> None:
        """Index new documents, as the indexer does once a second."""
        await asyncio.to_thread(self.store.knowledge.index_pending)

    async def close(self) -> None:
        """Stop the bot as SIGTERM would, or as a crash would when it does not stop."""
        self.stop.set()
        self.engine.hold.set()
        try:
            async with asyncio.timeout(15):
                await asyncio.gather(self.task, return_exceptions=True)
        finally:
            await self.application.bot.shutdown()  # does nothing after an orderly end
            self.store.knowledge.close()


def make_settings(api_url: str, **overrides: object) -> Settings:
    """Return default settings, but with the loopback, one admin, no quotas, and no `.env`."""
    values = {
        "telegram_token": "42:secret",
        "telegram_api_url": api_url,
        "admins": {ADMIN_ID},
        "access": "open",
        "promote": "auto",
        **NO_QUOTAS,
    }
    return settings_of(**{**values, **overrides})


def store_of(settings: Settings, database: Database) -> Store:
    """Return the real repositories; only the embedder stands in for a model."""
    return make_store(settings, database, FakeEmbedder())


def run(
    api: BotApi,
    store: Store,
    engine: FakeEngine | None = None,
    request: HTTPXRequest | None = None,
    timing: Timing = HURRIED,
) -> RunningBot:
    """Start a bot; it may take a while until it listens."""
    engine, stop = engine or FakeEngine(), asyncio.Event()
    telegram = make_telegram(store, engine, request, timing)
    return RunningBot(
        api=api,
        engine=engine,
        settings=store.settings,
        store=store,
        application=telegram.application,
        news=telegram.news,
        telegram=telegram,
        stop=stop,
        task=asyncio.create_task(talk(telegram, stop), name="bot"),
    )


def turn_id(reply: Message) -> int:
    """Return the id of the turn that a reply's buttons name."""
    (found,) = {re.sub(r"\D", "", button["callback_data"]) for button in reply.buttons}
    return int(found)


def prompt_text(prompt: Sequence[PromptMessage]) -> str:
    """Return everything a model was given, in one string."""
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


async def eventually(predicate: Callable[[], object], timeout_seconds: float = 5) -> None:
    """Wait for something that the loopback Telegram does not see. Raises TimeoutError."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            if predicate():
                return
            await asyncio.sleep(0.01)
