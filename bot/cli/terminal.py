"""The conversation in a terminal, with streaming, sources, ratings and corrections."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass

import click
from anyio.from_thread import BlockingPortal, start_blocking_portal
from rich.console import Console

from bot.app import Store, open_chat
from bot.chat import Chat
from bot.engine.errors import EngineError
from bot.errors import BotError, UsageError
from bot.indexer import Indexer
from bot.reports.why import why
from store.documents.documents import Documents
from store.domain import (
    TERMINAL_CHAT_ID,
    TERMINAL_PERSON_ID,
    Adapter,
    FinishReason,
    Place,
    Rating,
    RatingSource,
    Turn,
)
from store.errors import StoreError

HELP = """\
/good, /bad   rate the last answer         /fix TEXT   what it should have been
/again        another answer               /why        how it came about
/new          start over                   /quit       leave (or Ctrl-D)"""

HERE = Place(chat_id=TERMINAL_CHAT_ID)

ChooseAdapter = Callable[[], Adapter | None]
"""A function that returns the adapter to answer with; None is the base model."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The keys of `ratchet chat --once --json`."""

    reply: str
    turn_id: int
    adapter: str | None
    sources: list[dict[str, object]]
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def answer_of(turn: Turn) -> Answer:
    """Return what `ratchet chat --once --json` prints of a turn."""
    return Answer(
        reply=turn.completion,
        turn_id=turn.id,
        adapter=turn.adapter,
        sources=[
            {"document": each.title, "chunk": each.chunk_id, "score": each.score}
            for each in turn.passages
        ],
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        seconds=round(turn.seconds, 3),
    )


async def ask_once(
    store: Store,
    question: str,
    *,
    choose_adapter: ChooseAdapter | None = None,
    show: Callable[[str], None] = lambda piece: None,
) -> Turn:
    """Ask one question in a new conversation; `show` is called with each piece of the answer.

    Raises `BotError`, `EngineError` or `StoreError`, also when a running bot has the documents
    open: an answer without them would look like one with them.
    """
    if not question.strip():
        raise UsageError("--once needs a text to answer")
    store.people.see(TERMINAL_PERSON_ID, "terminal")
    await asyncio.to_thread(_bring_up_to_date, store.knowledge)
    async with open_chat(store, choose_adapter) as chat:
        await chat.start_new(HERE)
        return await _last(chat.answer(HERE, TERMINAL_PERSON_ID, question), show)


class Terminal:
    """A conversation with the person at this terminal.

    Lines are read in the main thread and the chat runs in another one, so that Ctrl-C stops an
    answer and not the program.
    """

    def __init__(
        self,
        store: Store,
        indexer: Indexer,
        console: Console,
        choose_adapter: ChooseAdapter | None,
    ) -> None:
        self._store = store
        self._indexer = indexer
        self._console = console
        self._choose_adapter = choose_adapter
        self._turn: Turn | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/good": lambda _: self._rate(Rating.UP),
            "/bad": lambda _: self._rate(Rating.DOWN),
            "/fix": self._fix,
            "/why": lambda _: self._console.print(
                why(self._rated(), sampling=True), highlight=False
            ),
            "/help": lambda _: self._console.print(HELP, highlight=False),
        }

    def run(self) -> None:
        """Talk until end of input. Raises `EngineError` if the model cannot be loaded."""
        self._store.people.see(TERMINAL_PERSON_ID, "terminal")
        self._say("Loading the model…")
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(open_chat(self._store, self._choose_adapter)) as chat,
        ):
            self._say("Ask me anything. /help shows the commands.")
            while (line := self._read()) is not None:
                if line in ("/quit", "/exit"):
                    return
                if line:
                    self._take(portal, chat, line)

    def _take(self, portal: BlockingPortal, chat: Chat, line: str) -> None:
        name, _, rest = line.partition(" ")
        try:
            if name in self._commands:
                self._commands[name](rest.strip())
            elif name == "/new":
                portal.call(chat.start_new, HERE)
                self._turn = None
                self._say("A new conversation.")
            elif name == "/again":
                self._stream(portal, chat.regenerate(self._rated(), TERMINAL_PERSON_ID))
            elif name.startswith("/"):
                self._say(f"I do not know {name}. /help shows the commands.")
            else:
                portal.call(self._indexer.look)
                self._stream(portal, chat.answer(HERE, TERMINAL_PERSON_ID, line))
        except (BotError, EngineError, StoreError) as error:
            self._console.print(str(error), style="red", highlight=False, markup=False)

    def _stream(self, portal: BlockingPortal, pieces: AsyncGenerator[str | Turn, None]) -> None:
        def show(piece: str) -> None:
            self._console.print(piece, end="", highlight=False, markup=False, soft_wrap=True)

        reply: Future[Turn] = portal.start_task_soon(_last, pieces, show)
        try:
            self._turn = reply.result()
        except KeyboardInterrupt:
            reply.cancel()
            self._turn = None  # or /good would rate the answer before it
            self._console.print()
            self._say("Stopped.")
            return
        self._console.print(" […]" if self._turn.finish_reason is FinishReason.LENGTH else "")
        for passage in self._turn.passages:
            self._say(f"  [{passage.score:.2f}] {passage.source}")

    def _rate(self, rating: Rating) -> None:
        turn = self._rated()
        self._store.feedback.rate(turn.id, TERMINAL_PERSON_ID, rating, RatingSource.TERMINAL)
        self._say("👍 recorded." if rating is Rating.UP else "👎 recorded. /fix TEXT corrects it.")

    def _fix(self, text: str) -> None:
        if not text:
            raise UsageError("please write what I should have said, as in /fix TEXT")
        self._store.feedback.correct(self._rated().id, TERMINAL_PERSON_ID, text)
        self._say("✏️  recorded.")

    def _rated(self) -> Turn:
        if self._turn is None:
            raise UsageError("there is no reply yet: please ask something first")
        return self._turn

    def _read(self) -> str | None:
        try:
            return input("\n> ").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            return ""

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False, markup=False)


def _bring_up_to_date(knowledge: Documents) -> None:
    if not knowledge.settled():
        click.echo("Indexing the documents first…", err=True)
        knowledge.index_pending()


async def _last(pieces: AsyncGenerator[str | Turn, None], show: Callable[[str], None]) -> Turn:
    turn: Turn | None = None
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Turn):
                turn = piece
            else:
                show(piece)
    assert turn is not None, "a reply ends with its turn"
    return turn
