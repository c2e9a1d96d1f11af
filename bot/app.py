"""The composition root: the only place in `bot/` that builds repositories, engines and handlers.

A test checks this. `bot/serving.py` runs what is built here.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

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
from store.domain import Access, Adapter
from store.embedder import Embedder, SentenceEmbedder
from store.erasure import Eraser
from store.examples import Examples
from store.export import Exports
from store.golden_answers import GoldenAnswers
from store.groups import Groups
from store.imports import Imports
from store.index import ChromaIndex
from store.invitations import Invitations
from store.memories import Memories
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.settings import Settings
from store.settings_slices import StorageSettings
from store.statistics import Statistics
from store.suspects import Suspects
from store.teaching import Teaching, TeachingRule
from store.updates import Updates

if TYPE_CHECKING:  # the terminal needs none of it
    from telegram.request import HTTPXRequest

    from bot.reports.health import Health, VitalSigns
    from bot.telegram.announcements import Announcements
    from bot.telegram.application import App
    from bot.telegram.dispatcher import Dispatcher
    from bot.telegram.handlers import Handlers
    from bot.telegram.inbox import Inbox
    from bot.telegram.listener import Listener
    from bot.telegram.outgoing import Outgoing
    from bot.telegram.timing import Timing


@dataclass(frozen=True, kw_only=True)
class Store:
    """Every repository of one database; enough for commands that need no model."""

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
    imports: Imports
    golden: GoldenAnswers
    eraser: Eraser
    exports: Exports
    teaching: Teaching
    runs: Runs
    quarantine: Suspects
    statistics: Statistics

    @property
    def status(self) -> StatusReader:
        """The reader of the figures that `ratchet status` and /status show."""
        return StatusReader(
            engine=self.settings.engine,
            storage=self.settings.storage,
            train_cron=self.settings.train.cron,
            database=self.database,
            conversations=self.conversations,
            knowledge=self.knowledge,
            adapters=self.adapters,
            runs=self.runs,
            statistics=self.statistics,
        )


@contextmanager
def open_database(storage: StorageSettings) -> Iterator[Database]:
    """Open the database, whatever its schema, and close it at the end of the block.

    Raises `DatabaseUnavailable`.
    """
    database = Database(storage.database)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """Open the store for the length of the block.

    Raises `SchemaNotAtHead` or `DatabaseUnavailable`.
    """
    with open_database(settings.storage) as database:
        database.check_at_head()
        shutil.rmtree(settings.storage.memory_path, ignore_errors=True)  # vectors are in SQL now
        store = make_store(settings, database, SentenceEmbedder(settings.retrieval.embedder))
        try:
            yield store
        finally:
            store.knowledge.close()


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
        adapters=make_adapters(settings.storage, database),
        examples=Examples(database, rule),
        imports=Imports(database),
        golden=GoldenAnswers(database, rule),
        eraser=Eraser(database),
        exports=Exports(database),
        teaching=Teaching(database, rule),
        runs=Runs(database),
        quarantine=Suspects(database),
        statistics=Statistics(database),
    )


def make_adapters(storage: StorageSettings, database: Database) -> Adapters:
    """Return the repository of adapters, whose files lie in the data folder."""
    return Adapters(database, storage.adapters_path)


def make_index(settings: Settings) -> ChromaIndex:
    """Return the index of documents, not yet opened."""
    return ChromaIndex(
        path=settings.storage.chroma_path,
        url=settings.storage.chroma_url,
        name=f"ratchet-chunks-{_digest(settings)}",
    )


def _digest(settings: Settings) -> str:
    return hashlib.sha256(settings.retrieval.embedder.encode()).hexdigest()[:8]


async def open_engine(settings: Settings) -> Engine:
    """Return the engine that the settings ask for, its model loaded. Raises `EngineError`."""
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
    """Open the engine and close it at the end of the block. Raises `EngineError`."""
    engine = await open_engine(settings)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_chat(
    store: Store, choose_adapter: Callable[[], Adapter | None] | None = None
) -> AsyncIterator[Chat]:
    """Open a chat over a loaded model for the length of the block.

    `choose_adapter` returns the adapter of each reply; by default it is the active one.
    """
    async with opened_engine(store.settings) as engine:
        if choose_adapter is not None and (chosen := choose_adapter()) is not None:
            # It was asked for by name, so an error ends the command.
            await engine.load_adapter(chosen)
        yield make_chat(store, engine, choose_adapter)


def make_chat(
    store: Store, engine: Engine, choose_adapter: Callable[[], Adapter | None] | None = None
) -> Chat:
    """Return a chat over an engine."""
    return Chat(
        reply=store.settings.reply,
        retrieval=store.settings.retrieval,
        conversations=store.conversations,
        knowledge=store.knowledge,
        memories=store.memories,
        engine=engine,
        choose_adapter=choose_adapter or store.adapters.active,
    )


def make_indexer(store: Store) -> Indexer:
    """Return the indexer, which indexes documents in the background, whoever adds them."""
    return Indexer(store.knowledge)


def make_health(store: Store) -> "Health":
    """Return the endpoints for monitoring, not yet served."""
    from bot.reports.health import Health  # the terminal needs neither
    from bot.reports.metrics import Metrics, StoreFigures

    metrics = Metrics()
    metrics.registry.register(StoreFigures(store.statistics))
    return Health(store.database, metrics)


@dataclass(frozen=True, kw_only=True)
class TelegramBot:
    """An application and the tasks that run beside it."""

    application: "App"
    inbox: "Inbox"
    dispatcher: "Dispatcher"
    outgoing: "Outgoing"
    listener: "Listener"
    news: "Announcements"

    def vital_signs(self) -> "VitalSigns":
        """Return what is under way now, and since when Telegram was not heard."""
        from bot.reports.health import VitalSigns

        return VitalSigns(
            silent_seconds=self.listener.silent_seconds,
            is_deaf=self.listener.is_deaf,
            under_way=self.dispatcher.under_way,
            oldest_seconds=self.dispatcher.oldest_seconds,
            waiting_to_be_sent=self.outgoing.waiting,
        )


def make_telegram(
    store: Store,
    engine: Engine,
    request: "HTTPXRequest | None" = None,
    timing: "Timing | None" = None,
) -> TelegramBot:
    """Return the Telegram side over an engine, not yet started."""
    from bot.telegram.announcements import Announcements
    from bot.telegram.application import build_application
    from bot.telegram.dispatcher import Dispatcher
    from bot.telegram.error_messages import ErrorMessages
    from bot.telegram.inbox import Inbox
    from bot.telegram.listener import Listener
    from bot.telegram.outgoing import Outgoing
    from bot.telegram.timing import Timing

    settings, chat = store.settings, make_chat(store, engine)
    timing, errors = timing or Timing(), ErrorMessages()
    admins = settings.admission.admins
    news = Announcements(
        runs=store.runs,
        adapters=store.adapters,
        active=ActiveAdapter(adapters=store.adapters, engine=engine),
        admins=admins,
        look_seconds=timing.look_seconds,
    )
    outgoing = Outgoing(
        admins=admins, tries=timing.calls, first_pause_seconds=timing.call_again_seconds
    )
    application = build_application(
        settings.telegram,
        _make_handlers(store, engine, chat, news, timing),
        admins=admins,
        audit=store.audit,
        errors=errors,
        outgoing=outgoing,
        request=request,
    )
    dispatcher = Dispatcher(
        chat=chat,
        errors=errors,
        admins=admins,
        again_within=timedelta(minutes=settings.reply.answer_within),
        first_pause_seconds=timing.update_again_seconds,
    )
    inbox = Inbox(
        store.inbox,
        dispatcher.dispatch,
        admins=admins,
        speaks_to=partial(_speaks_to, store),
        persons_rate=timing.persons_rate,
        chats_rate=timing.chats_rate,
        first_pause_seconds=timing.store_again_seconds,
    )
    dispatcher.connect(inbox, application.process_update)
    listener = Listener(
        application,
        inbox,
        dispatcher,
        outgoing,
        webhook=settings.webhook,
        admins=admins,
        is_alone=store.database.alone,
        finish_seconds=timing.finish_seconds,
    )
    return TelegramBot(
        application=application,
        inbox=inbox,
        dispatcher=dispatcher,
        outgoing=outgoing,
        listener=listener,
        news=news,
    )


def _speaks_to(store: Store, person_id: int | None, chat_id: int) -> bool:
    """Return whether the bot may say something in a chat that a person wrote in."""
    person = store.people.find(person_id) if person_id is not None else None
    is_denied = person is not None and person.access is Access.DENIED
    return not is_denied and store.groups.rules(chat_id).answers


def _make_handlers(
    store: Store, engine: Engine, chat: Chat, news: "Announcements", timing: "Timing"
) -> "Handlers":
    from bot.telegram.access import AccessHandlers
    from bot.telegram.admin import AdminHandlers
    from bot.telegram.admission import Admission
    from bot.telegram.approval import ApprovalHandlers
    from bot.telegram.consent import Consent
    from bot.telegram.golden import GoldenHandlers
    from bot.telegram.group import GroupHandlers
    from bot.telegram.handlers import Handlers
    from bot.telegram.invitation import InvitationHandlers
    from bot.telegram.privacy import PrivacyHandlers
    from bot.telegram.quarantine import QuarantineHandlers
    from bot.telegram.questions import QuestionHandlers
    from bot.telegram.rating import RatingHandlers
    from bot.telegram.stream import Pace
    from bot.telegram.training import TrainingHandlers
    from bot.telegram.uploads import UploadHandlers
    from bot.telegram.welcome import WelcomeHandlers

    settings, admins = store.settings, store.settings.admission.admins
    consent = Consent(people=store.people)
    quotas = Quotas(
        quota=settings.quota,
        admins=admins,
        conversations=store.conversations,
        feedback=store.feedback,
        people=store.people,
    )
    talking = QuestionHandlers(
        answer_within=timedelta(minutes=settings.reply.answer_within),
        admins=admins,
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
        link_hosts=settings.reply.link_hosts,
        now=store.database.now,
    )
    return Handlers(
        gate=Admission(
            settings=settings.admission,
            people=store.people,
            groups=store.groups,
            invitations=store.invitations,
        ),
        welcome=WelcomeHandlers(admins=admins),
        talking=talking,
        rating=RatingHandlers(
            conversations=store.conversations,
            feedback=store.feedback,
            people=store.people,
            quotas=quotas,
            chat=talking,
            teaching=store.teaching,
            consent=consent,
            tally_seconds=timing.tally_seconds,
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
        access=AccessHandlers(
            people=store.people, admins=admins, is_open=settings.admission.access == "open"
        ),
        admin=AdminHandlers(status=store.status, audit=store.audit),
        learning=TrainingHandlers(
            statistics=store.statistics,
            runs=store.runs,
            adapters=store.adapters,
            news=news,
            base_model=engine.model,
        ),
        approval=ApprovalHandlers(memories=store.memories),
        golden=GoldenHandlers(conversations=store.conversations, golden=store.golden),
        quarantine=QuarantineHandlers(quarantine=store.quarantine),
        invitation=InvitationHandlers(invitations=store.invitations),
        group=GroupHandlers(groups=store.groups, audit=store.audit),
    )
