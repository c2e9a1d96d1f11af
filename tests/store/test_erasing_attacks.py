"""Ways in which erased, refused or outvoted words could stay in use. On both databases."""

from pathlib import Path

import pytest
from sqlalchemy import select, text

from bot.prompt import render
from store import erasure
from store.conversations import Conversations
from store.database import Database
from store.domain import (
    Access,
    ExampleCounts,
    Memory,
    Origin,
    OriginKind,
    Passage,
    Place,
    Rating,
    Sample,
    Split,
    TurnState,
)
from store.erasure import Eraser
from store.errors import TurnNotFound
from store.examples import Examples
from store.groups import Groups
from store.memories import Memories
from store.people import People
from store.runs import Runs
from store.settings import make_settings
from store.suspects import Suspects
from store.tables import ChunkRow, DocumentRow, MemoryRow, RunRow, TurnRow
from tests.fakes import FakeEmbedder
from tests.store.talk import ADA, BOB, CLEO, GROUP, begin, correct, meet, rate, read_export, talk
from trainer.examples.dataset import take_snapshot
from trainer.recipe import Recipe

UP = Rating.UP
SECRET = "xylophone"


def left(database: Database, word: str = SECRET) -> list[str]:
    """Return the columns of turns that still hold a word."""
    with database.reading() as session:
        rows = session.scalars(select(TurnRow)).all()
    return [
        f"{row.id}.{name}"
        for row in rows
        for name in ("question", "completion", "messages")
        if word in str(getattr(row, name))
    ]


def taught(database: Database, word: str = SECRET) -> list[object]:
    return [each.origin for each in Examples(database).collect().every if word in str(each)]


def document(database: Database, words: str) -> tuple[int, Passage]:
    with database.session() as session:
        row = DocumentRow(
            name="d",
            title="d",
            media_type="text/plain",
            sha256="x",
            size_bytes=1,
            chunk_chars=800,
            indexed_in=None,
            added_by=ADA,
            created_at=database.now(),
        )
        session.add(row)
        session.flush()
        chunk = ChunkRow(document_id=row.id, ordinal=0, section="", text=words)
        session.add(chunk)
        session.flush()
        found = Passage(
            chunk_id=chunk.id, document_id=row.id, title="d", section="", text=words, score=0.9
        )
        return row.id, found


@pytest.mark.parametrize("first", [ADA, BOB])
def test_asker_and_corrector_are_erased_one_after_the_other(database: Database, first: int) -> None:
    asked = talk(database, f"{SECRET} question", "reply", person_id=BOB)
    correct(database, asked, f"{SECRET} correction", ADA)
    quoting = talk(database, "cleo asks", "told", person_id=CLEO)

    for person_id in (first, ADA + BOB - first):
        Eraser(database).erase_person(person_id)

    assert left(database) == []
    assert Conversations(database).turn(quoting).messages[-1].content == "cleo asks"


def test_a_question_that_somebody_else_regenerated_is_the_first_askers(database: Database) -> None:
    hers = talk(database, f"{SECRET} question", "one", person_id=ADA)
    again = talk(database, f"{SECRET} question", "two", person_id=BOB, regenerates_id=hers)
    quoting = talk(database, "bob asks on", "told", person_id=BOB)
    for turn_id in (again, quoting):
        rate(database, turn_id, UP, BOB)
    memories = Memories(database, FakeEmbedder())
    people, suspects = People(database), Suspects(database)
    for forbid, permit in (
        (lambda: people.opt_out(ADA, True), lambda: people.opt_out(ADA, False)),
        (
            lambda: people.decide(ADA, Access.DENIED),
            lambda: people.decide(ADA, Access.ALLOWED),
        ),
        (lambda: suspects.hold(ADA, "votes"), lambda: suspects.release(ADA)),
    ):
        memories.embed_pending()
        assert taught(database)
        forbid()
        assert taught(database) == []
        with database.reading() as session:
            assert session.get_one(MemoryRow, again).vector is None
        permit()


def test_a_group_that_moved_is_silenced_with_all_that_was_said_before(database: Database) -> None:
    old, new = -100, -1001234
    rate(database, talk(database, f"{SECRET} asked", place=Place(chat_id=old)), UP, BOB)
    groups, memories = Groups(database), Memories(database, FakeEmbedder())
    groups.decide(new, answers=False)

    groups.move(old, new)

    assert not groups.rules(new).answers, "what was decided there stands"
    assert taught(database)
    groups.decide(new, teaches=False)
    assert taught(database) == []
    assert memories.proposals() == ()


def test_replies_from_a_removed_document_leave_the_prompts_that_quote_them(
    database: Database,
) -> None:
    meet(database, ADA)
    document_id, passage = document(database, f"{SECRET} is 42")
    first = talk(database, "what is it?", f"{SECRET} is 42", person_id=BOB, passages=(passage,))
    second = talk(database, "sure?", f"yes, {SECRET}", person_id=BOB)
    example = Memory(turn_id=first, question="what is it?", answer=f"{SECRET} is 42", score=0.9)
    third = talk(
        database, "and what is it", person_id=CLEO, place=Place(chat_id=9), memories=(example,)
    )
    for turn_id in (second, third):
        rate(database, turn_id, UP, CLEO)

    Eraser(database).erase_document(document_id)

    assert [each for each in left(database) if "messages" in each] == []
    assert taught(database) == []
    conversations = Conversations(database)
    assert SECRET not in str(conversations.history(conversations.current(GROUP).id))


def test_a_document_that_is_removed_before_its_prompt_is_stored_is_blanked(
    database: Database,
) -> None:
    meet(database, ADA)
    document_id, passage = document(database, f"{SECRET} is 42")
    conversations, turn_id = Conversations(database), begin(database, "what?", person_id=BOB)
    served = render("", (), (), (passage,), "what?")

    Eraser(database).erase_document(document_id)
    conversations.record_prompt(turn_id, served, {})
    conversations.finish_turn(turn_id, state=TurnState.FINAL, completion=f"{SECRET} it is")

    assert left(database) == [f"{turn_id}.completion"]
    assert conversations.history(conversations.current(GROUP).id) == ()


def test_replies_that_may_repeat_erased_words_go_on_nowhere(database: Database) -> None:
    talk(database, f"{SECRET} question", "reply", person_id=ADA)
    echo = talk(database, "what did she say?", f"she said {SECRET}", person_id=BOB)
    quoting = talk(database, "sure?", "yes", person_id=BOB)

    Eraser(database).erase_person(ADA)
    later = talk(database, "and now?", "nothing", person_id=BOB)
    for turn_id in (echo, quoting, later):
        rate(database, turn_id, UP, CLEO)

    assert taught(database) == []
    assert f"{later}.messages" not in left(database)


def test_somebody_who_was_asked_stays_asked_after_forget(database: Database) -> None:
    meet(database, ADA)
    People(database).ask(ADA)
    Eraser(database).erase_person(ADA)

    rate(database, talk(database, SECRET, person_id=ADA), UP, BOB)

    assert taught(database) == []


def test_an_erased_person_is_found_in_copies_that_a_run_merged(database: Database) -> None:
    turns = {}
    for number in range(40):
        for person_id in (ADA, BOB):
            place = Place(chat_id=person_id, thread_id=number + 1)
            turn_id = talk(
                database, f"question {number}", f"reply {number}", person_id=person_id, place=place
            )
            rate(database, turn_id, UP if number % 2 else Rating.DOWN, person_id)
            turns[turn_id] = person_id
    snapshot = take_snapshot(
        Examples(database).collect(), Recipe.of(make_settings().train), system_prompt=""
    )
    learned = {turns[origin.turn_id or 0] for origin in snapshot.origins[Split.TRAIN]}
    assert learned == {ADA, BOB}


def run_of(database: Database) -> int:
    runs = Runs(database)
    run, _ = runs.queue("a test")
    runs.take()
    return run.id


def is_marked(database: Database, run_id: int) -> bool:
    with database.reading() as session:
        return session.get_one(RunRow, run_id).erased_at is not None


@pytest.mark.parametrize("during", [False, True])
def test_a_run_that_read_before_an_erasure_and_records_after_is_marked(
    database: Database, during: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(database, f"{SECRET} question", "reply", person_id=ADA)
    his = talk(database, "bob asks", "told", person_id=BOB)
    rate(database, his, UP, CLEO)
    run_id, read = run_of(database), Examples(database).collect()
    origins = {Split.TRAIN: [each.origin for each in read.every]}

    def record() -> None:
        Runs(database).choose(run_id, ExampleCounts(), origins)

    erase = Eraser._erase_sources

    def erase_and_record(self: Eraser, sources: object) -> None:
        record()
        erase(self, sources)  # type: ignore[arg-type]

    if during:
        monkeypatch.setattr(Eraser, "_erase_sources", erase_and_record)
    Eraser(database).erase_person(ADA)
    if not during:
        record()

    assert is_marked(database, run_id)


def test_samples_that_were_measured_before_an_erasure_are_not_kept(database: Database) -> None:
    talk(database, f"{SECRET} question", "reply", person_id=ADA)
    his = talk(database, "bob asks", "told", person_id=BOB)
    origin = Origin(kind=OriginKind.RATED, turn_id=his)
    runs, run_id = Runs(database), run_of(database)
    runs.choose(run_id, ExampleCounts(), {Split.HELD_OUT: [origin]})
    Eraser(database).erase_person(ADA)

    runs.keep_samples(run_id, [(origin, Sample(question="q", before=SECRET, after=SECRET))])
    assert runs.samples(run_id) == ()
    runs.record_sample_message(run_id, 999, 7)
    assert [each.message_id for each in runs.unwanted_messages()] == [7]


def test_one_person_does_not_put_an_answer_in_the_place_of_a_liked_one(database: Database) -> None:
    attacker = 66
    liked = talk(database, "who pays", "the club", person_id=ADA)
    for person_id in (ADA, BOB, CLEO):
        rate(database, liked, UP, person_id)
    again = talk(database, "who pays", "nobody", person_id=attacker, regenerates_id=liked)
    correct(database, again, "you do", attacker)
    own = talk(
        database,
        "who pays",
        "nobody",
        person_id=attacker,
        place=Place(chat_id=GROUP.chat_id, thread_id=4),
    )
    correct(database, own, "you do", attacker)

    conversations, memories = Conversations(database), Memories(database, FakeEmbedder())
    found = memories.recall(
        "who pays", chat_id=GROUP.chat_id, conversation_id=10**6, count=3, floor=0.5
    )

    history = conversations.history(conversations.current(GROUP).id)
    assert [each.reply for each in history] == ["the club"]
    assert [each.answer for each in found] == ["the club"]


def test_the_correction_that_most_people_give_replaces_the_reply(database: Database) -> None:
    turn_id = talk(database, "who pays", "nobody")
    for person_id in (ADA, BOB):
        correct(database, turn_id, "the club", person_id)
    correct(database, turn_id, "you do", CLEO)

    conversations = Conversations(database)
    [exchange] = conversations.history(conversations.current(GROUP).id)
    assert exchange.reply == "the club"


def test_an_erasure_cut_short_still_finds_answers_that_others_asked_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = talk(database, "hello", person_id=ADA)
    asked = talk(database, f"{SECRET} question", person_id=ADA)
    talk(database, f"{SECRET} question", "bob's", person_id=BOB, regenerates_id=asked)
    monkeypatch.setattr(erasure, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(erasure, "STEP_SECONDS", 0)
    delete, calls = erasure._delete_turns, iter(range(10))

    def die(*arguments: object, **named: object) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        delete(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(erasure, "_delete_turns", die)
    with pytest.raises(KeyboardInterrupt):
        Eraser(database).erase_person(ADA)
    monkeypatch.setattr(erasure, "_delete_turns", delete)

    assert Eraser(database).resume() == 1
    assert left(database) == []
    assert first


def test_words_are_quoted_and_asked_again_by_nobody_while_they_are_erased(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [talk(database, f"{SECRET} {number}", person_id=ADA) for number in range(3)]
    talk(database, f"{SECRET} 0", "bob's", person_id=BOB, regenerates_id=asked[0])
    refused = []
    erase = Eraser._erase_sources

    def erase_while_others_talk(self: Eraser, sources: object) -> None:
        if not refused:
            refused.append(True)
            talk(database, "bob asks meanwhile", person_id=BOB)
            with pytest.raises(TurnNotFound):
                begin(database, "again", person_id=BOB, regenerates_id=asked[1])
        erase(self, sources)  # type: ignore[arg-type]

    monkeypatch.setattr(Eraser, "_erase_sources", erase_while_others_talk)
    Eraser(database).erase_person(ADA)

    assert refused
    assert left(database) == []


def test_a_prompt_that_is_stored_while_its_source_goes_is_blanked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt was built before the erasure began, and is stored between two of its steps."""
    talk(database, f"{SECRET} question", "reply", person_id=ADA)
    conversations, turn_id = Conversations(database), begin(database, "bob asks", person_id=BOB)
    history = conversations.history(conversations.current(GROUP).id, before=turn_id)
    served = render("", (), history, (), "bob asks")
    mark = Eraser._mark

    def store_meanwhile(self: Eraser, *arguments: object) -> dict[int, str]:
        with database.session() as session:  # as if it had been stored a moment earlier
            session.execute(text("DELETE FROM erasures"))
        conversations.record_prompt(turn_id, served, {})
        return mark(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Eraser, "_mark", store_meanwhile)
    Eraser(database).erase_person(ADA)

    assert left(database) == []


def test_the_id_of_an_erased_correction_goes_to_no_other(database: Database) -> None:
    turn_id = talk(database, person_id=BOB)
    number = correct(database, turn_id, SECRET, ADA)
    Eraser(database).erase_person(ADA)

    assert correct(database, turn_id, "better", CLEO) > number


def test_the_bytes_of_words_and_vectors_are_overwritten_at_once(
    sqlite: Database, tmp_path: Path
) -> None:
    memories = Memories(sqlite, FakeEmbedder())

    def files() -> bytes:
        folder = Path(str(sqlite.engine.url.database)).parent
        return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())

    decisions = (
        lambda: People(sqlite).opt_out(ADA, True),
        lambda: Groups(sqlite).decide(GROUP.chat_id, teaches=False),
        lambda: Suspects(sqlite).hold(ADA, "votes"),
        lambda: People(sqlite).decide(ADA, Access.DENIED),
    )
    for number, decide in enumerate(decisions):
        turn_id = talk(sqlite, f"a long question about {SECRET} {number}", person_id=ADA)
        rate(sqlite, turn_id, UP, BOB)
        memories.embed_pending()
        with sqlite.reading() as session:
            vector = session.get_one(MemoryRow, turn_id).vector
        assert vector is not None
        assert vector in files()
        decide()
        assert vector not in files()
        Groups(sqlite).decide(GROUP.chat_id, teaches=True)
        People(sqlite).decide(ADA, Access.ALLOWED)
        People(sqlite).opt_out(ADA, False)
        Suspects(sqlite).release(ADA)

    document_id, passage = document(sqlite, "zither is 42")
    talk(sqlite, "what?", person_id=BOB, passages=(passage,))
    Eraser(sqlite).erase_document(document_id)
    assert b"zither" not in files()


def test_ratings_that_do_not_count_neither_forget_nor_block(database: Database) -> None:
    turn_id = talk(database, "when does it open", "at nine", person_id=ADA)
    rate(database, turn_id, UP, ADA)
    rate(database, turn_id, Rating.DOWN, BOB)
    memories = Memories(database, FakeEmbedder())
    assert memories.proposals() == ()

    People(database).opt_out(BOB, True)
    assert [each.turn_id for each in memories.proposals()] == [turn_id]

    for _ in range(30):  # newer answers, liked only by somebody who does not count
        rate(database, talk(database, person_id=ADA), UP, BOB)
    assert [each.turn_id for each in memories.proposals()] == [turn_id]


def test_an_export_has_neither_corrections_nor_questions_of_others(database: Database) -> None:
    hers = talk(database, "ada asks", "reply", person_id=ADA)
    correct(database, hers, "bobs correction", BOB)
    again = talk(database, "ada asks", "second", person_id=CLEO, regenerates_id=hers)
    rate(database, again, UP, BOB)
    memories = Memories(database, FakeEmbedder())
    for each in memories.proposals():
        memories.decide(each.turn_id, each.sha256, 999, approved=True)
    origin = Origin(kind=OriginKind.RATED, turn_id=again)
    runs, run_id = Runs(database), run_of(database)
    runs.choose(run_id, ExampleCounts(), {Split.HELD_OUT: [origin]})
    runs.keep_samples(run_id, [(origin, Sample(question="ada asks", before="x", after="y"))])

    assert "bobs correction" not in str(read_export(database, ADA))
    assert "999" not in str(read_export(database, ADA))
    assert "ada asks" not in str(read_export(database, CLEO))
    assert "bobs correction" in str(read_export(database, BOB)["learning_from_opinions.json"])
