"""The composition root: the only place in `bot/` that builds things."""

import asyncio
import hashlib
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bot.active_adapter import ActiveAdapter
from bot.chat import Chat
from bot.engine.base import Engine
from bot.indexer import Indexer
from bot.quotas import Quotas
from bot.reports.status import StatusReader
from store.adapters import Adapters
from store.audit import AuditEntries
from store.conversations import Conversations
from store.database import Database
from store.documents.documents import Documents
from store.domain import Adapter
from store.embedder import Embedder, SentenceEmbedder
from store.erasure import Eraser
from store.examples import Examples
from store.export import Exports
from store.groups import Groups
from store.index import ChromaIndex
from store.invitations import Invitations
from store.memories import Memories
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.settings import Settings
from store.suspects import Suspects
from store.teaching import Teaching, TeachingRule
from store.updates import Updates

if TYPE_CHECKING:  # the terminal needs none of it
    from telegram.request import HTTPXRequest

    from bot.telegram.announcements import Announcements
    from bot.telegram.application import App
    from bot.telegram.inbox import InboxQueue
    from bot.telegram.timing import Timing

logger = logging.getLogger(__name__)

WAITING_THREADS = 32
"""Threads for SQL, Chroma and the embedder; most of them wait, so the cores do not bound them."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Everything that keeps; enough for commands that need no model."""

    settings: Settings
    database: Database
    people: People
    groups: Groups
    invitations: Invitations
    inbox: Updates
    audit: AuditEntries
    conversations: Conversations
    feedback: Ratings
    knowledge: Documents
    memories: Memories
    adapters: Adapters
    examples: Examples
    eraser: Eraser
    exports: Exports
    teaching: Teaching
    runs: Runs
    quarantine: Suspects

    @property
    def status(self) -> StatusReader:
        """Reads how things are."""
        return StatusReader(
            engine=self.settings.engine,
            storage=self.settings.storage,
            train_cron=self.settings.train.cron,
            database=self.database,
            conversations=self.conversations,
            feedback=self.feedback,
            knowledge=self.knowledge,
            adapters=self.adapters,
            runs=self.runs,
        )


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The store, its schema checked. Raises `SchemaNotAtHead` or `DatabaseUnavailable`."""
    database = Database(settings.storage.database)
    try:
        database.check_at_head()
        shutil.rmtree(settings.storage.memory_path, ignore_errors=True)  # vectors are in SQL now
        store = make_store(settings, database, SentenceEmbedder(settings.retrieval.embedder))
        try:
            yield store
        finally:
            store.knowledge.close()
    finally:
        database.close()


def make_store(settings: Settings, database: Database, embedder: Embedder) -> Store:
    """Return the repositories of a database."""
    rule = TeachingRule.of(settings.admission, settings.privacy)
    return Store(
        settings=settings,
        database=database,
        people=People(database),
        groups=Groups(database),
        invitations=Invitations(database),
        inbox=Updates(database),
        audit=AuditEntries(database),
        conversations=Conversations(database),
        feedback=Ratings(database),
        knowledge=Documents(
            database, make_index(settings), embedder, chunk_chars=settings.retrieval.chunk_chars
        ),
        memories=Memories(database, embedder, rule),
        adapters=Adapters(database, settings.storage.adapters_path),
        examples=Examples(database, rule),
        eraser=Eraser(database),
        exports=Exports(database),
        teaching=Teaching(database, rule),
        runs=Runs(database),
        quarantine=Suspects(database),
    )


def make_index(settings: Settings) -> ChromaIndex:
    """The index of documents that the settings ask for, not yet opened."""
    return ChromaIndex(
        path=settings.storage.chroma_path,
        url=settings.storage.chroma_url,
        name=f"ratchet-chunks-{_digest(settings)}",
    )


def _digest(settings: Settings) -> str:
    return hashlib.sha256(settings.retrieval.embedder.encode()).hexdigest()[:8]


async def open_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for, its model loaded. Raises `EngineError`."""
    chosen, models_folder = settings.engine, settings.storage.models_path

    def load() -> Engine:
        from bot.engine.local import LocalEngine, load_weights  # torch takes seconds to import

        weights = load_weights(chosen.model, models_folder=models_folder, device=chosen.device)
        return LocalEngine(
            weights,
            queue_size=chosen.queue_size,
            batch_size=chosen.batch_size,
            prefix_bytes=chosen.prefix_megabytes * 2**20,
            draft_tokens=chosen.draft_tokens,
        )

    if not chosen.vllm_url:
        return await asyncio.to_thread(load)
    from bot.engine.vllm import VllmEngine
    from bot.engine.vocabulary import load_vocabulary

    return await VllmEngine.connect(
        await asyncio.to_thread(load_vocabulary, chosen.model, models_folder=models_folder),
        chosen.vllm_url,
        key=chosen.vllm_key.get_secret_value() if chosen.vllm_key else "",
        queue_size=chosen.queue_size,
    )


@asynccontextmanager
async def opened_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The engine, closed at the end of the block."""
    engine = await open_engine(settings)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_chat(
    store: Store, choose_adapter: Callable[[], Adapter | None] | None = None
) -> AsyncIterator[Chat]:
    """A chat over a loaded model.

    `choose_adapter` says what each reply is written with; by default the active adapter.
    """
    async with opened_engine(store.settings) as engine:
        if choose_adapter is not None and (chosen := choose_adapter()) is not None:
            await engine.load_adapter(chosen)  # asked for by name: not to be had is an error
        yield make_chat(store, engine, choose_adapter)


def make_chat(
    store: Store, engine: Engine, choose_adapter: Callable[[], Adapter | None] | None = None
) -> Chat:
    """A chat over an engine."""
    return Chat(
        reply=store.settings.reply,
        retrieval=store.settings.retrieval,
        conversations=store.conversations,
        knowledge=store.knowledge,
        memories=store.memories,
        engine=engine,
        choose_adapter=choose_adapter or store.adapters.active,
    )


def indexing(store: Store) -> AbstractAsyncContextManager[None]:
    """Documents are indexed in the background, whoever adds them."""
    return in_background(Indexer(store.knowledge).run(), name="indexer")


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Something goes on for as long as the block."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def serve_telegram(store: Store) -> None:
    """Talk in Telegram until SIGTERM or SIGINT. Raises `BotError` for a token nobody knows."""
    from bot.reports.health import Health  # the terminal needs neither
    from bot.reports.metrics import Metered, Metrics, StoreFigures

    settings, stop, main = store.settings, asyncio.Event(), asyncio.current_task()
    assert main is not None
    threads = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="ratchet")
    asyncio.get_running_loop().set_default_executor(threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop_or_quit, stop, main)
    metrics = Metrics()
    metrics.registry.register(StoreFigures(store.database))
    health = Health(store.database, metrics)
    listen = settings.monitoring.health_listen
    watched = health.serve(listen) if listen else nullcontext()
    logger.info("loading the model %s", settings.engine.model)
    async with watched, opened_engine(settings) as engine, indexing(store):
        telegram = make_telegram(store, Metered(engine, metrics))
        health.is_talking = lambda: telegram.is_listening and not stop.is_set()
        await talk(telegram, store, stop)


@dataclass(frozen=True, kw_only=True)
class TelegramBot:
    """An application, and what goes on beside it."""

    application: "App"
    inbox: "InboxQueue"
    news: "Announcements"
    timing: "Timing"

    @property
    def is_listening(self) -> bool:
        """Whether messages come in."""
        updater = self.application.updater
        return updater is not None and updater.running


def make_telegram(
    store: Store,
    engine: Engine,
    request: "HTTPXRequest | None" = None,
    timing: "Timing | None" = None,
) -> TelegramBot:
    """The Telegram side over an engine, not yet started."""
    from bot.telegram.admin import AdminHandlers
    from bot.telegram.admission import Admission
    from bot.telegram.announcements import Announcements
    from bot.telegram.application import build_application
    from bot.telegram.approval import ApprovalHandlers
    from bot.telegram.consent import Consent
    from bot.telegram.group import GroupHandlers
    from bot.telegram.inbox import InboxQueue
    from bot.telegram.invitation import InvitationHandlers
    from bot.telegram.order import CONCURRENT_UPDATES
    from bot.telegram.privacy import PrivacyHandlers
    from bot.telegram.quarantine import QuarantineHandlers
    from bot.telegram.questions import QuestionHandlers
    from bot.telegram.rating import RatingHandlers
    from bot.telegram.retries import RetryingRateLimiter
    from bot.telegram.stream import Pace
    from bot.telegram.timing import Timing
    from bot.telegram.training import TrainingHandlers
    from bot.telegram.uploads import UploadHandlers

    settings, chat = store.settings, make_chat(store, engine)
    timing = timing or Timing()
    admins = settings.admission.admins
    quotas = Quotas(
        quota=settings.quota,
        admins=admins,
        conversations=store.conversations,
        feedback=store.feedback,
        people=store.people,
    )
    news = Announcements(
        runs=store.runs,
        adapters=store.adapters,
        active=ActiveAdapter(adapters=store.adapters, engine=engine),
        admins=admins,
        look_seconds=timing.look_seconds,
    )
    inbox = InboxQueue(
        store.inbox, CONCURRENT_UPDATES, first_pause_seconds=timing.store_again_seconds
    )
    consent = Consent(people=store.people)
    talking = QuestionHandlers(
        answer_within=timedelta(minutes=settings.reply.answer_within),
        chat=chat,
        quotas=quotas,
        conversations=store.conversations,
        feedback=store.feedback,
        consent=consent,
        pace=Pace(
            first_words_seconds=timing.first_words_seconds,
            draft_seconds=timing.draft_seconds,
            edit_seconds=timing.edit_seconds,
        ),
    )
    application = build_application(
        settings.telegram,
        admins=admins,
        inbox=inbox,
        audit=store.audit,
        chat=chat,
        gate=Admission(
            settings=settings.admission,
            people=store.people,
            groups=store.groups,
            invitations=store.invitations,
        ),
        talking=talking,
        rating=RatingHandlers(
            conversations=store.conversations,
            feedback=store.feedback,
            people=store.people,
            quotas=quotas,
            chat=talking,
            teaching=store.teaching,
            consent=consent,
        ),
        documents=UploadHandlers(knowledge=store.knowledge),
        privacy=PrivacyHandlers(
            people=store.people,
            eraser=store.eraser,
            exports=store.exports,
            teaching=store.teaching,
            consent=consent,
            admins=admins,
            forget_days=settings.privacy.forget_days,
        ),
        consent=consent,
        admin=AdminHandlers(
            people=store.people, status=store.status, audit=store.audit, admins=admins
        ),
        learning=TrainingHandlers(
            database=store.database,
            runs=store.runs,
            adapters=store.adapters,
            news=news,
            base_model=engine.model,
        ),
        approval=ApprovalHandlers(memories=store.memories),
        quarantine=QuarantineHandlers(quarantine=store.quarantine),
        invitation=InvitationHandlers(invitations=store.invitations),
        group=GroupHandlers(groups=store.groups),
        limiter=RetryingRateLimiter(
            tries=timing.calls, first_pause_seconds=timing.call_again_seconds
        ),
        request=request,
    )
    return TelegramBot(application=application, inbox=inbox, news=news, timing=timing)


async def talk(telegram: TelegramBot, store: Store, stop: asyncio.Event) -> None:
    """Talk in Telegram until `stop` is set. Raises `BotError` for a token nobody knows."""
    from bot.telegram.listener import serve

    bot, settings = telegram.application.bot, store.settings
    async with (
        in_background(telegram.inbox.keep(bot, alone=store.database.alone), name="inbox"),
        in_background(telegram.news.run(bot), name="news"),
    ):
        await serve(
            telegram.application,
            settings.webhook,
            settings.admission.admins,
            stop,
            finish_seconds=telegram.timing.finish_seconds,
        )


def _stop_or_quit(stop: asyncio.Event, main: "asyncio.Task[None]") -> None:
    if stop.is_set():
        main.cancel()
        return
    logger.info("finishing the replies that are being written; once more to stop at once")
    stop.set()
