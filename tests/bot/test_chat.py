"""Answers: how they are made, and what is stored of them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest

from bot.chat import Chat
from bot.engine.errors import EngineBusy, EngineError
from bot.errors import QuestionTooLong, ReplyFailed
from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database
from store.documents.documents import Documents
from store.domain import Message, PartKind, Place, Rating, Turn, TurnState
from store.errors import EmbedderNotFound
from store.index import ChromaIndex
from store.memories import Memories
from store.people import People
from store.settings import make_settings
from store.tables import TurnRow
from tests.conftest import MakeAdapter
from tests.fakes import FakeEmbedder, FakeEngine
from tests.store.talk import correct, rate

HERE = Place(chat_id=5)
ADA = 1


@dataclass(kw_only=True)
class Setup:
    """A chat with everything around it."""

    chat: Chat
    engine: FakeEngine
    knowledge: Documents
    memories: Memories
    conversations: Conversations
    adapters: Adapters
    database: Database

    async def ask(self, question: str, place: Place = HERE) -> Turn:
        """Ask a question, and return the turn it ends with."""
        return await last(self.chat.answer(place, ADA, question))

    def stored(self) -> list[TurnRow]:
        """Return every turn as SQL has it."""
        with self.database.reading() as session:
            return list(session.query(TurnRow).order_by(TurnRow.id))


MakeSetup = Callable[..., Setup]


async def last(pieces: AsyncGenerator[str | Turn, None]) -> Turn:
    async with aclosing(pieces):
        items = [piece async for piece in pieces]
    assert isinstance(items[-1], Turn)
    return items[-1]


@pytest.fixture
def make_setup(sqlite: Database, tmp_path: Path) -> Iterator[MakeSetup]:
    index = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    knowledge = Documents(sqlite, index, FakeEmbedder(), chunk_chars=240)
    memories = Memories(sqlite, FakeEmbedder())
    People(sqlite).see(ADA, "Ada")

    def make(engine: FakeEngine | None = None, **settings: object) -> Setup:
        engine, chosen = engine or FakeEngine(), make_settings(**settings)
        adapters = Adapters(sqlite, tmp_path / "adapters")
        chat = Chat(
            reply=chosen.reply,
            retrieval=chosen.retrieval,
            conversations=Conversations(sqlite),
            knowledge=knowledge,
            memories=memories,
            engine=engine,
            choose_adapter=adapters.active,
        )
        return Setup(
            chat=chat,
            engine=engine,
            knowledge=knowledge,
            memories=memories,
            conversations=Conversations(sqlite),
            adapters=adapters,
            database=sqlite,
        )

    yield make
    knowledge.close()


@pytest.fixture
def setup(make_setup: MakeSetup) -> Setup:
    return make_setup()


async def test_a_reply_is_stored_before_it_is_final(setup: Setup) -> None:
    turn = await setup.ask("Hello")

    assert setup.conversations.turn(turn.id) == turn
    assert (turn.state, turn.completion) == (TurnState.FINAL, "You said: Hello")


async def test_a_question_is_stored_before_the_model_is_asked(setup: Setup) -> None:
    setup.engine.hold.clear()
    asking = asyncio.create_task(setup.ask("Hello"))
    await setup.engine.asked.wait()

    [row] = setup.stored()
    setup.engine.hold.set()
    await asking

    assert (row.state, row.question) == (TurnState.PENDING, "Hello")
    assert row.messages[-1]["content"] == "Hello"


@pytest.mark.bad_input("invalid UTF-8")
async def test_what_is_no_text_is_taken_out_of_a_question(setup: Setup) -> None:
    await setup.ask("caf\udce9 or t\0ea?")

    assert setup.stored()[0].messages[-1]["content"] == "caf? or tea?"


async def test_a_turn_keeps_exactly_what_the_model_was_given(setup: Setup) -> None:
    setup.knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)
    setup.knowledge.index_pending()

    turn = await setup.ask("When does the harbour open?")

    assert turn.messages == setup.engine.prompts[0]
    assert "The harbour opens at nine." in turn.messages[-1].content
    assert [passage.title for passage in turn.passages] == ["Hours"]


async def test_the_conversation_so_far_is_given_without_its_passages(setup: Setup) -> None:
    setup.knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)
    setup.knowledge.index_pending()
    await setup.ask("When does the harbour open?")

    await setup.ask("Thanks")

    assert setup.engine.prompts[1][1] == Message(role="user", content="When does the harbour open?")


async def test_a_new_conversation_starts_from_nothing(setup: Setup) -> None:
    await setup.ask("Hello")

    await setup.chat.start_new(HERE)
    await setup.ask("Hello again")

    assert [message.role for message in setup.engine.prompts[1]] == ["system", "user"]


async def test_places_do_not_hear_each_other(setup: Setup) -> None:
    await setup.ask("Hello")

    await setup.ask("Hello", Place(chat_id=6))

    assert setup.engine.prompts[0] == setup.engine.prompts[1]


async def test_nothing_is_retrieved_when_nothing_fits(setup: Setup) -> None:
    setup.knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)
    setup.knowledge.index_pending()

    turn = await setup.ask("Who wrote Hamlet?")

    assert turn.passages == ()
    assert turn.messages[-1].content == "Who wrote Hamlet?"


async def test_an_index_that_fails_costs_the_sources_and_not_the_answer(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup.knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)
    other = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    other.open()

    turn = await setup.ask("When does the harbour open?")
    other.close()

    assert (turn.state, turn.passages) == (TurnState.FINAL, ())
    assert "answering without sources" in caplog.text


async def test_answering_again_is_linked_to_the_first_answer_however_often(setup: Setup) -> None:
    await setup.ask("Before")
    first = await setup.ask("Hello")
    second = await last(setup.chat.regenerate(first, ADA))

    third = await last(setup.chat.regenerate(second, ADA))

    assert (second.regenerates_id, third.regenerates_id) == (first.id, first.id)
    assert third.messages == first.messages
    assert third.sampling["temperature"] > first.sampling["temperature"]  # type: ignore[operator]


async def test_only_the_last_answer_to_a_question_is_history(setup: Setup) -> None:
    first = await setup.ask("Hello")
    setup.engine.reply = lambda messages: "another"
    await last(setup.chat.regenerate(first, ADA))

    await setup.ask("And now?")

    said = [message.content for message in setup.engine.prompts[-1]]
    assert said[1:] == ["Hello", "another", "And now?"]


async def test_a_reply_that_nobody_waits_for_is_kept_as_cancelled(setup: Setup) -> None:
    async with aclosing(setup.chat.answer(HERE, ADA, "Hello")) as pieces:
        begun, first = await anext(pieces), await anext(pieces)

    [row] = setup.stored()

    assert (isinstance(begun, Turn), first) == (True, "You ")
    assert (row.state, row.completion) == (TurnState.CANCELLED, "You ")


async def test_a_finished_turn_stays_finished_whatever_becomes_of_showing_it(setup: Setup) -> None:
    async with aclosing(setup.chat.answer(HERE, ADA, "Hello")) as pieces:
        async for piece in pieces:
            if isinstance(piece, Turn) and piece.state is TurnState.FINAL:
                break

    [row] = setup.stored()

    assert (row.state, row.completion) == (TurnState.FINAL, "You said: Hello")


async def test_a_cancelled_task_keeps_what_there_was(setup: Setup) -> None:
    setup.engine.hold.clear()
    asking = asyncio.create_task(setup.ask("Hello"))
    await setup.engine.asked.wait()

    asking.cancel()
    await asyncio.wait([asking])

    assert [row.state for row in setup.stored()] == [TurnState.CANCELLED]


async def test_a_failing_engine_fails_the_turn_and_chains_the_cause(setup: Setup) -> None:
    setup.engine.failure = EngineError("the model failed")

    with pytest.raises(ReplyFailed) as failed:
        await setup.ask("Hello")

    assert isinstance(failed.value.__cause__, EngineError)
    assert [row.state for row in setup.stored()] == [TurnState.FAILED]


async def test_a_busy_engine_says_so_and_fails_the_turn(make_setup: MakeSetup) -> None:
    setup = make_setup(FakeEngine(queue_size=1))
    setup.engine.hold.clear()
    first = asyncio.create_task(setup.ask("Hello"))
    await setup.engine.asked.wait()

    with pytest.raises(EngineBusy):
        await setup.ask("Hello", Place(chat_id=6))
    setup.engine.hold.set()
    await first

    assert [row.state for row in setup.stored()] == [TurnState.FINAL, TurnState.FAILED]


async def test_a_question_that_does_not_fit_is_refused_and_kept_as_failed(
    make_setup: MakeSetup,
) -> None:
    setup = make_setup(FakeEngine(context_tokens=100), max_new_tokens=20)

    with pytest.raises(QuestionTooLong):
        await setup.ask("word " * 200)

    assert [row.state for row in setup.stored()] == [TurnState.FAILED]


async def test_a_reply_is_written_with_the_active_adapter(
    setup: Setup, make_adapter: MakeAdapter
) -> None:
    made = make_adapter("fake")
    adapter = setup.adapters.add(Path(made.path), base_model="fake")
    before = await setup.ask("Hello")
    setup.adapters.promote(adapter.name, base_model="fake", reason="a test")

    after = await setup.ask("Hello")

    assert (before.adapter, after.adapter) == (None, adapter.name)


async def test_an_active_adapter_that_does_not_load_leaves_the_base_model_talking(
    setup: Setup, make_adapter: MakeAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = setup.adapters.add(Path(make_adapter("x").path), base_model="another model")
    setup.adapters.promote(adapter.name, base_model="another model", reason="a test")

    turn = await setup.ask("Hello")

    assert (turn.state, turn.adapter) == (TurnState.FINAL, None)
    assert adapter.name in caplog.text


async def test_an_active_adapter_that_does_not_load_leaves_the_one_before_talking(
    setup: Setup, make_adapter: MakeAdapter
) -> None:
    good = setup.adapters.add(Path(make_adapter("fake").path), base_model="fake")
    setup.adapters.promote(good.name, base_model="fake", reason="a test")
    await setup.ask("Hello")
    bad = setup.adapters.add(Path(make_adapter("x").path), base_model="another model")
    setup.adapters.promote(bad.name, base_model="another model", reason="a test")

    assert (await setup.ask("Hello")).adapter == good.name

    setup.adapters.rollback(reason="a test")  # to the base: the good one is of another model

    assert (await setup.ask("Hello")).adapter is None


async def test_a_reply_from_documents_is_free_to_quote_them(make_setup: MakeSetup) -> None:
    setup = make_setup(repetition_penalty=1.2)
    setup.knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)
    setup.knowledge.index_pending()

    with_passages = await setup.ask("When does the harbour open?")
    without = await setup.ask("Who wrote Hamlet?")

    assert with_passages.sampling["repetition_penalty"] == 1.0
    assert without.sampling["repetition_penalty"] == 1.2


async def test_what_was_sampled_with_is_kept_with_its_seed(make_setup: MakeSetup) -> None:
    turn = await make_setup(temperature=0.5, top_p=0.8).ask("Hello")

    assert (turn.sampling["temperature"], turn.sampling["top_p"]) == (0.5, 0.8)
    assert isinstance(turn.sampling["seed"], int)


OPEN, OLD_OPEN = "When does the harbour open?", "When does the old harbour open?"


async def test_a_liked_answer_helps_with_a_close_question_and_is_kept_with_the_turn(
    setup: Setup,
) -> None:
    setup.engine.reply = lambda messages: "At nine."
    liked = await setup.ask(OPEN)
    rate(setup.database, liked.id, Rating.UP, ADA)
    await setup.chat.start_new(HERE)

    turn = await setup.ask(OLD_OPEN)

    assert turn.messages == setup.engine.prompts[1]
    assert [message.content for message in turn.messages[1:3]] == [OPEN, "At nine."]
    assert [message.role for message in turn.messages] == ["system", "user", "assistant", "user"]
    [memory] = turn.memories
    assert (memory.turn_id, memory.question, memory.answer) == (liked.id, OPEN, "At nine.")
    assert setup.conversations.turn(turn.id) == turn


async def test_a_correction_stands_in_the_history_in_place_of_the_reply(setup: Setup) -> None:
    setup.engine.reply = lambda messages: "At nine."
    disliked = await setup.ask(OPEN)
    rate(setup.database, disliked.id, Rating.DOWN, ADA)
    correct(setup.database, disliked.id, "At ten.", ADA)

    turn = await setup.ask(OLD_OPEN)

    assert [message.content for message in turn.messages[1:]] == [OPEN, "At ten.", OLD_OPEN]
    [part] = [each for each in turn.parts if each.kind is PartKind.EXCHANGE]
    assert part.turn_id == disliked.id
    assert part.correction_id is not None


async def test_a_correction_helps_in_the_next_conversation_of_the_place(setup: Setup) -> None:
    disliked = await setup.ask(OPEN)
    correct(setup.database, disliked.id, "At ten.", ADA)
    await setup.chat.start_new(HERE)

    turn = await setup.ask(OLD_OPEN)

    assert [memory.answer for memory in turn.memories] == ["At ten."]


async def test_a_liked_answer_helps_with_no_other_question(setup: Setup) -> None:
    rate(setup.database, (await setup.ask(OPEN)).id, Rating.UP, ADA)

    turn = await setup.ask("Who wrote Hamlet?")

    assert turn.memories == ()
    assert [part.kind for part in turn.parts].count(PartKind.EXAMPLE) == 0


async def test_a_liked_answer_helps_in_another_chat_once_it_is_approved(setup: Setup) -> None:
    liked = await setup.ask(OPEN)
    rate(setup.database, liked.id, Rating.UP, ADA)
    before = await setup.ask(OLD_OPEN, Place(chat_id=6))
    [proposal] = setup.memories.proposals()
    setup.memories.decide(liked.id, proposal.sha256, ADA, approved=True)

    after = await setup.ask(OLD_OPEN, Place(chat_id=7))

    assert before.memories == ()
    assert [memory.turn_id for memory in after.memories] == [liked.id]


@pytest.mark.parametrize("settings", [{"memories": 0}, {"memory_floor": 0.99}])
async def test_earlier_answers_do_not_help_where_the_settings_say_so(
    make_setup: MakeSetup, settings: dict[str, object]
) -> None:
    setup = make_setup(**settings)
    rate(setup.database, (await setup.ask(OPEN)).id, Rating.UP, ADA)

    assert (await setup.ask(OLD_OPEN)).memories == ()


async def test_no_more_earlier_answers_help_than_the_settings_say(make_setup: MakeSetup) -> None:
    setup = make_setup(memories=1)
    for question in (OPEN, "When does the old harbour open today?"):
        rate(setup.database, (await setup.ask(question)).id, Rating.UP, ADA)
    await setup.chat.start_new(HERE)

    turn = await setup.ask(OLD_OPEN)

    assert len(turn.memories) == 1


async def test_a_memory_that_fails_costs_the_examples_and_not_the_answer(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rate(setup.database, (await setup.ask(OPEN)).id, Rating.UP, ADA)
    monkeypatch.setattr(setup.memories, "recall", Mock(side_effect=EmbedderNotFound("gone")))

    turn = await setup.ask(OLD_OPEN)

    assert (turn.state, turn.memories) == (TurnState.FINAL, ())
    assert "answering without examples" in caplog.text
