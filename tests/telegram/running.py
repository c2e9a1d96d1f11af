"""A whole bot in the test's own event loop: real handlers and stores, a loopback Telegram."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from telegram.request import HTTPXRequest

from bot.app import Store, in_background, make_chat, make_index, make_memory_index
from bot.quotas import Quotas
from bot.telegram.admin import AdminHandlers
from bot.telegram.application import App, build_application, serve
from bot.telegram.chat import ChatHandlers
from bot.telegram.documents import DocumentHandlers
from bot.telegram.gate import Gate
from bot.telegram.inbox import InboxQueue
from bot.telegram.learning import LearningHandlers
from bot.telegram.news import News
from bot.telegram.order import CONCURRENT_UPDATES
from bot.telegram.privacy import PrivacyHandlers
from bot.telegram.rating import RatingHandlers
from store.adapters import Adapters
from store.audit import AuditLog
from store.conversations import Conversations
from store.database import Database
from store.domain import Message as PromptMessage
from store.domain import Rating, SentKind, Turn
from store.examples import ExampleBook
from store.feedback import FeedbackBook
from store.inbox import Inbox
from store.knowledge import Knowledge
from store.memory import MemoryBook
from store.people import People
from store.runs import Runs
from store.settings import Settings, load_settings
from store.tables import Base
from tests.botapi import BotApi, Chat, Message, User
from tests.fakes import FakeEmbedder, FakeEngine, Reply, echo

ADMIN_ID = 99

NO_QUOTAS = {
    "quota_messages": 0,
    "quota_tokens": 0,
    "quota_at_once": 0,
    "stranger_messages": 0,
    "stranger_tokens": 0,
}
"""People in tests write faster than people."""


class SteppingEngine(FakeEngine):
    """Writes `words` words and then waits, as if `hold` had been cleared at that moment."""

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
    news: News
    stop: asyncio.Event
    task: "asyncio.Task[None]"

    async def ask(self, chat: Chat, user: User, text: str, *, thread: int | None = None) -> Message:
        """Ask, and wait until the reply is shown and known to be that turn's."""
        asked = await chat.send(user, text, thread=thread)
        reply = await chat.wait_reply(asked)
        await self.settle()
        return chat.message(reply.id)

    async def say(self, chat: Chat, user: User, text: str, **options: int) -> str:
        """Send something that is answered without buttons; that answer's text."""
        sent = await chat.send(user, text, **options)
        await self.settle()
        return "\n".join(each.text for each in chat.bot_messages if each.id > sent)

    async def settle(self) -> None:
        """Wait until every update so far is dealt with."""
        await self.api.wait_for(lambda: not self.api.pending, 10)
        async with asyncio.timeout(10):
            await self.application.update_queue.join()

    def turn(self, reply: Message) -> Turn:
        """The turn that a reply with buttons belongs to."""
        return self.store.conversations.turn(turn_id(reply))

    def ratings(self, reply: Message) -> dict[int, Rating]:
        """Who rated a reply, and how."""
        ratings = self.store.feedback.ratings(turn_id(reply))
        return {feedback.person_id: feedback.rating for feedback in ratings}

    def shown(self, chat: Chat, turn: int) -> tuple[int, ...]:
        """The messages that are known to show a turn."""
        return self.store.conversations.shown_by(turn, chat.id)

    def is_reply(self, chat: Chat, message: Message) -> bool:
        """Whether a message is known to show some turn."""
        found = self.store.conversations.shown_in(chat.id, message.id, SentKind.REPLY)
        return found is not None

    def count(self, table: type[Base]) -> int:
        """The rows of a table."""
        with self.store.database.reading() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    async def tap(self, chat: Chat, user: User, message: Message, button: str) -> Message:
        """Tap a button under a message; the message afterwards."""
        await chat.tap(user, message.id, button)
        await self.settle()
        return chat.message(message.id)

    async def look_for_news(self) -> None:
        """What the bot does about once a second beside talking."""
        await self.news.look(self.application.bot)

    async def add_document(self, name: str, text: str) -> None:
        """Put a document into the knowledge base, to be found at once."""
        self.store.knowledge.add(name, text.encode(), added_by=ADMIN_ID)
        await self.index()

    async def index(self) -> None:
        """What the indexer does once a second."""
        await asyncio.to_thread(self.store.knowledge.index_pending)

    async def close(self) -> None:
        """Stop it as SIGTERM would, or as a crash would when it does not stop."""
        self.stop.set()
        self.engine.hold.set()
        try:
            async with asyncio.timeout(15):
                await asyncio.gather(self.task, return_exceptions=True)
        finally:
            await self.application.bot.shutdown()  # does nothing after an orderly end
            self.store.knowledge.close()
            self.store.memories.close()


def make_store(settings: Settings, database: Database) -> Store:
    """Real repositories; only the embedder stands in for a model."""
    embedder = FakeEmbedder()
    return Store(
        settings=settings,
        database=database,
        people=People(database),
        inbox=Inbox(database),
        audit=AuditLog(database),
        conversations=Conversations(database),
        feedback=FeedbackBook(database),
        knowledge=Knowledge(
            database, make_index(settings), embedder, chunk_chars=settings.chunk_chars
        ),
        memories=MemoryBook(database, make_memory_index(settings), embedder),
        adapters=Adapters(database, settings.data_dir / "adapters"),
        examples=ExampleBook(
            database, open_access=settings.access == "open", admins=settings.admins
        ),
        runs=Runs(database),
    )


def make_settings(api_url: str, **overrides: object) -> Settings:
    """The defaults, but for the loopback Telegram, one admin, no quotas, and no `.env`."""
    values = {
        "telegram_token": "42:secret",
        "telegram_api_url": api_url,
        "admins": {ADMIN_ID},
        **NO_QUOTAS,
    }
    return load_settings(_env_file=None, **{**values, **overrides})


def make_news(store: Store, engine: FakeEngine) -> News:
    """What tells the admins of runs."""
    return News(
        runs=store.runs, adapters=store.adapters, engine=engine, admins=store.settings.admins
    )


def make_application(
    store: Store,
    engine: FakeEngine,
    inbox: InboxQueue,
    news: News,
    request: HTTPXRequest | None = None,
) -> App:
    """What `bot.app` builds, over a given engine."""
    settings, chat = store.settings, make_chat(store, engine)
    talking = ChatHandlers(
        settings=settings,
        chat=chat,
        quotas=Quotas(settings=settings, conversations=store.conversations, people=store.people),
        conversations=store.conversations,
        feedback=store.feedback,
    )
    return build_application(
        settings,
        inbox=inbox,
        audit=store.audit,
        chat=chat,
        gate=Gate(settings=settings, people=store.people),
        talking=talking,
        rating=RatingHandlers(
            settings=settings,
            conversations=store.conversations,
            feedback=store.feedback,
            people=store.people,
            chat=talking,
        ),
        documents=DocumentHandlers(knowledge=store.knowledge),
        privacy=PrivacyHandlers(people=store.people),
        admin=AdminHandlers(
            people=store.people, status=store.status, audit=store.audit, admins=settings.admins
        ),
        learning=LearningHandlers(
            database=store.database,
            runs=store.runs,
            adapters=store.adapters,
            memories=store.memories,
            news=news,
            base_model=engine.model,
        ),
        request=request,
    )


async def serve_beside(
    application: App, inbox: InboxQueue, news: News, settings: Settings, stop: asyncio.Event
) -> None:
    """What `bot.app` does with what it has built."""
    async with (
        in_background(inbox.keep(application.bot, alone=True), name="inbox"),
        in_background(news.run(application.bot), name="news"),
    ):
        await serve(application, settings, stop)


def run(
    api: BotApi,
    store: Store,
    engine: FakeEngine | None = None,
    request: HTTPXRequest | None = None,
) -> RunningBot:
    """Start a bot; it may take a while until it listens."""
    engine = engine or FakeEngine()
    news, stop = make_news(store, engine), asyncio.Event()
    inbox = InboxQueue(store.inbox, CONCURRENT_UPDATES)
    application = make_application(store, engine, inbox, news, request)
    serving = serve_beside(application, inbox, news, store.settings, stop)
    return RunningBot(
        api=api,
        engine=engine,
        settings=store.settings,
        store=store,
        application=application,
        news=news,
        stop=stop,
        task=asyncio.create_task(serving, name="bot"),
    )


def turn_id(reply: Message) -> int:
    """The turn that a reply's buttons speak of."""
    (found,) = {re.sub(r"\D", "", button["callback_data"]) for button in reply.buttons}
    return int(found)


def prompt_text(prompt: Sequence[PromptMessage]) -> str:
    """Everything a model was given, in one string."""
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


async def eventually(predicate: Callable[[], object], timeout_seconds: float = 5) -> None:
    """Wait for something that the loopback Telegram does not see. Raises TimeoutError."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            if predicate():
                return
            await asyncio.sleep(0.01)
