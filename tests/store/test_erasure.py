"""Erasure: all that is held about a person is exported, and all of it goes. On both databases."""

import random
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from bot.prompt import render
from store.adapter_files import FILES
from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database
from store.domain import (
    Access,
    ExampleCounts,
    Memory,
    Origin,
    OriginKind,
    Place,
    Rating,
    RatingSource,
    RunStatus,
    Sample,
    SentKind,
    SentSample,
    Split,
    TurnState,
)
from store.erasure import Eraser
from store.errors import TurnNotFound
from store.examples import Examples
from store.parts import ERASED
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.tables import Base, TurnRow
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, GROUP, begin, correct, meet, rate, talk

DAY = 86_400

SECRET = "xylophone"
"""Word in every text that Ada writes or is told, and nowhere else."""


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


@pytest.fixture
def eraser(database: Database) -> Eraser:
    return Eraser(database)


def rated(turn_id: int) -> Origin:
    return Origin(kind=OriginKind.RATED, turn_id=turn_id)


def rows(database: Database) -> dict[str, list[dict[str, object]]]:
    """Return every row in the database."""
    with database.reading() as session:
        return {
            name: [dict(row) for row in session.execute(select(table)).mappings()]
            for name, table in Base.metadata.tables.items()
        }


def has_rows_of(person_id: int, table: list[dict[str, object]]) -> bool:
    return any(row.get("person_id") == person_id for row in table)


def orphans(database: Database) -> list[str]:
    """Return the rows that refer to a missing row."""
    held = rows(database)
    return [
        f"{name}.{column.name} = {row[column.name]}"
        for name, table in Base.metadata.tables.items()
        for column in table.columns
        for key in column.foreign_keys
        for row in held[name]
        if row[column.name] is not None
        and row[column.name] not in {each[key.column.name] for each in held[key.column.table.name]}
    ]


def live(database: Database) -> tuple[int, int]:
    """Let Ada and Bob talk in a group and rate each other; return a turn of each."""
    conversations, feedback = Conversations(database), Ratings(database)
    hers = talk(database, f"{SECRET} of Ada?", f"{SECRET} for Ada")
    his = talk(database, "Bob asks", "Bob is told", person_id=BOB)
    again = talk(database, f"{SECRET} of Ada?", f"{SECRET} again", regenerates_id=hers)
    talk(database, f"{SECRET} in private?", place=Place(chat_id=ADA))
    begin(database, f"{SECRET} pending?")
    conversations.record_sent(hers, GROUP.chat_id, (1, 2), SentKind.REPLY)
    conversations.record_sent(his, GROUP.chat_id, (3,), SentKind.REPLY)
    for turn_id in (hers, his, again):
        feedback.rate(turn_id, ADA, Rating.DOWN, RatingSource.BUTTON)
        feedback.rate(turn_id, ADA, Rating.UP, RatingSource.BUTTON)
        feedback.rate(turn_id, BOB, Rating.UP, RatingSource.BUTTON)
        feedback.correct(turn_id, ADA, f"{SECRET} correction")
    feedback.correct(his, BOB, "Bob corrects")
    return hers, his


def test_erasing_leaves_none_of_their_rows_and_no_orphans(
    database: Database, eraser: Eraser, people: People
) -> None:
    live(database)
    assert eraser.erase_person(ADA).turns == 4
    assert people.find(ADA) is None
    assert orphans(database) == []
    held = {name for name, table in rows(database).items() if has_rows_of(ADA, table)}
    assert held == {"spent"}, "numbers that keep a quota for a day, and no words"


def test_erasing_leaves_none_of_their_words_anywhere(database: Database, eraser: Eraser) -> None:
    _, his = live(database)
    assert SECRET in str(Conversations(database).turn(his).messages)
    eraser.erase_person(ADA)
    assert SECRET not in str(rows(database))


def test_erasing_leaves_none_of_their_words_in_the_files_of_the_database(sqlite: Database) -> None:
    live(sqlite)
    files = [Path(f"{make_url(sqlite.url).database}{end}") for end in ("", "-wal")]
    assert any(SECRET.encode() in file.read_bytes() for file in files)
    Eraser(sqlite).erase_person(ADA)
    assert not any(SECRET.encode() in file.read_bytes() for file in files)


def test_erasing_blanks_their_words_in_the_prompts_of_others(
    database: Database, eraser: Eraser
) -> None:
    _, his = live(database)
    eraser.erase_person(ADA)
    served = Conversations(database).turn(his).messages
    assert [message.content for message in served] == [ERASED, ERASED, "Bob asks"]
    assert [message.role for message in served] == ["user", "assistant", "user"]


def test_erasing_leaves_others_what_is_theirs(database: Database, eraser: Eraser) -> None:
    hers, his = live(database)
    eraser.erase_person(ADA)
    turn, feedback = Conversations(database).turn(his), Ratings(database)
    assert (turn.question, turn.completion) == ("Bob asks", "Bob is told")
    assert [each.person_id for each in feedback.ratings(his)] == [BOB]
    assert [each.text for each in feedback.corrections(his)] == ["Bob corrects"]
    assert Conversations(database).shown_in(GROUP.chat_id, 3, SentKind.REPLY) == his
    assert Conversations(database).shown_in(GROUP.chat_id, 1, SentKind.REPLY) is None
    assert feedback.ratings(hers) == ()


def test_erasing_leaves_words_of_others_that_are_the_same_as_theirs(
    database: Database, eraser: Eraser
) -> None:
    talk(database, "hello", "Hello, Ada.")
    his = talk(database, "hello", "Hello, Bob.", person_id=BOB)
    eraser.erase_person(ADA)
    served = Conversations(database).turn(his).messages
    assert [message.content for message in served] == [ERASED, ERASED, "hello"]


def test_erasing_reaches_their_question_that_somebody_else_had_answered_again(
    database: Database, eraser: Eraser
) -> None:
    question = f"{SECRET}?"
    hers = talk(database, question)
    talk(database, question, "again", person_id=BOB, regenerates_id=hers)
    eraser.erase_person(ADA)
    assert SECRET not in str(rows(database))


def test_erasing_reaches_their_question_under_the_passages_it_was_served_with(
    database: Database, eraser: Eraser
) -> None:
    question = f"{SECRET}?"
    hers = talk(database, question)
    prompt = f"Read this text:\n\nTea is hot.\n\nUse the text to answer this question: {question}"
    talk(database, question, "again", person_id=BOB, regenerates_id=hers, prompt=prompt)
    eraser.erase_person(ADA)
    assert SECRET not in str([row["messages"] for row in rows(database)["turns"]])


def test_erasing_ends_conversations_that_nobody_else_had(
    database: Database, eraser: Eraser
) -> None:
    live(database)
    eraser.erase_person(ADA)
    assert [row["chat_id"] for row in rows(database)["conversations"]] == [GROUP.chat_id]


def test_a_reply_under_way_for_an_erased_person_is_not_kept(
    database: Database, eraser: Eraser
) -> None:
    turn_id = begin(database)
    eraser.erase_person(ADA)
    with pytest.raises(TurnNotFound):
        Conversations(database).finish_turn(turn_id, state=TurnState.FINAL, completion="late")


def test_erasing_is_no_way_around_a_denial(
    database: Database, eraser: Eraser, people: People
) -> None:
    live(database)
    people.decide(ADA, Access.DENIED)
    eraser.erase_person(ADA)
    person = people.find(ADA)
    assert person is not None
    assert (person.access, person.name) == (Access.DENIED, "")


def test_erasing_keeps_the_wish_not_to_be_trained_on(
    database: Database, eraser: Eraser, people: People
) -> None:
    live(database)
    people.opt_out(ADA, True)
    eraser.erase_person(ADA)
    person = people.find(ADA)
    assert person is not None
    assert (person.opted_out, person.name) == (True, "")


def test_erasing_twice_is_fine(database: Database, eraser: Eraser) -> None:
    live(database)
    eraser.erase_person(ADA)
    before = rows(database)
    assert eraser.erase_person(ADA).turns == 0
    assert rows(database) == before


def test_erasing_a_stranger_is_fine(database: Database, eraser: Eraser, people: People) -> None:
    meet(database, BOB)
    assert eraser.erase_person(404).turns == 0
    assert people.find(BOB) is not None


def test_an_erased_person_can_begin_anew(
    database: Database, eraser: Eraser, people: People
) -> None:
    live(database)
    eraser.erase_person(ADA)
    talk(database, "hello again")
    assert [each["question"] for each in rows(database)["turns"] if each["person_id"] == ADA] == [
        "hello again"
    ]


def test_the_id_of_an_erased_turn_is_not_given_to_another(database: Database) -> None:
    erased = talk(database, "secret")
    Eraser(database).erase_person(ADA)

    assert talk(database, "next") > erased


def adapter_of_a_run_on(database: Database, folder: Path, *examples: Origin) -> str:
    """Add a version that was trained on these examples; return its name."""
    runs = Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    runs.choose(run.id, ExampleCounts(), {Split.TRAIN: examples})
    runs.finish(run.id, RunStatus.PASSED, "fine")
    source = folder / f"made{run.id}"
    source.mkdir()
    for file in FILES:
        (source / file).write_text(str(run.id))
    return Adapters(database, folder / "adapters").add(source, base_model="m", run_id=run.id).name


def test_versions_that_were_trained_on_an_erased_person_are_named_and_noted(
    database: Database, eraser: Eraser, tmp_path: Path
) -> None:
    own, others = talk(database), talk(database, person_id=BOB)
    far = talk(database, person_id=BOB, place=Place(chat_id=-200))
    rate(database, others, Rating.UP, ADA)
    correction = correct(database, own, "better")
    versions = [
        adapter_of_a_run_on(database, tmp_path, *examples)
        for examples in (
            (rated(own),),
            (rated(others), Origin(kind=OriginKind.REGENERATED, turn_id=far, other_turn_id=far)),
            (Origin(kind=OriginKind.CORRECTED, turn_id=own, correction_id=correction),),
            (Origin(kind=OriginKind.REGENERATED, turn_id=far, other_turn_id=own),),
            (rated(far),),
            (),
        )
    ]

    erased = eraser.erase_person(ADA)

    assert erased.adapters == tuple(versions[:4])
    noted = [each.erased_at is not None for each in Adapters(database, tmp_path / "adapters").all()]
    assert noted == [True] * 4 + [False] * 2


def test_a_version_that_is_being_made_of_an_erased_person_is_noted_too(
    database: Database, eraser: Eraser, tmp_path: Path
) -> None:
    turn_id, runs = talk(database), Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    runs.choose(run.id, ExampleCounts(), {Split.TRAIN: [rated(turn_id)]})

    assert eraser.erase_person(ADA).adapters == ()

    source = tmp_path / "made"
    source.mkdir()
    for file in FILES:
        (source / file).write_text("made")
    made = Adapters(database, tmp_path / "adapters").add(source, base_model="m", run_id=run.id)
    assert made.erased_at is not None


def test_versions_that_were_trained_on_turns_that_quote_an_erased_person_are_named(
    database: Database, eraser: Eraser, tmp_path: Path
) -> None:
    talk(database, person_id=ADA)
    quoting = talk(database, person_id=BOB)
    version = adapter_of_a_run_on(database, tmp_path, rated(quoting))

    assert eraser.erase_person(ADA).adapters == (version,)


def test_replies_shown_of_a_run_that_measured_on_an_erased_person_go_with_them(
    database: Database, eraser: Eraser
) -> None:
    turn_id, runs = talk(database, "Write to ada@example.org"), Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    sample = Sample(question="Write to [email]", before="a", after="b")
    runs.choose(run.id, ExampleCounts(), {Split.HELD_OUT: [rated(turn_id)]})
    runs.keep_samples(run.id, [(None, sample)])
    runs.record_sample_message(run.id, 5, 77)

    eraser.erase_person(ADA)

    assert runs.samples(run.id) == ()
    assert runs.unwanted_messages() == (SentSample(chat_id=5, message_id=77),)


def test_turns_beyond_their_age_go_with_everything_about_them(
    database: Database, eraser: Eraser, people: People, clock: Clock
) -> None:
    live(database)
    correct(database, talk(database, f"{SECRET}?"), f"{SECRET}!", BOB)
    clock.advance(seconds=30 * DAY + 1)
    kept = talk(database, "Bob again", "told", person_id=BOB)
    assert SECRET in str(Conversations(database).turn(kept).messages)
    assert eraser.expire(timedelta(days=30)) == 6
    assert SECRET not in str(rows(database))
    assert orphans(database) == []
    assert [row["id"] for row in rows(database)["turns"]] == [kept]
    assert len(rows(database)["conversations"]) == 1
    assert people.find(ADA) is not None


def test_a_question_goes_with_every_answer_to_it(
    database: Database, eraser: Eraser, people: People, clock: Clock
) -> None:
    asked = talk(database, f"{SECRET}?", "told")
    people.opt_out(ADA, True)
    clock.advance(seconds=20 * DAY)
    again = talk(database, f"{SECRET}?", "told again", person_id=BOB, regenerates_id=asked)
    rate(database, again, Rating.UP, BOB)
    clock.advance(seconds=15 * DAY)
    assert eraser.expire(timedelta(days=30)) == 2
    assert SECRET not in str(rows(database))
    assert not Examples(database).collect().every


@pytest.mark.parametrize("seed", range(8))
def test_prompts_are_what_they_would_have_been_without_what_expired(
    sqlite: Database, clock: Clock, seed: int
) -> None:
    drawn = random.Random(seed)
    conversations = Conversations(sqlite)
    asked: dict[int, tuple[Place, str, Memory | None]] = {}
    memories: dict[int, Memory] = {}
    for number in range(20):
        clock.advance(seconds=drawn.randrange(4) * DAY)
        place = drawn.choice((GROUP, Place(chat_id=-200)))
        question, reply = f"question {number}", f"reply {number}"
        example = drawn.choice([*memories.values(), None])
        examples = (example,) if example else ()
        turn = talk(sqlite, question, reply, person_id=BOB, place=place, memories=examples)
        rate(sqlite, turn, Rating.UP)
        asked[turn] = place, question, example
        memories[turn] = Memory(
            turn_id=turn, question=question, answer=reply, score=0.9, from_here=False
        )

    expired = Eraser(sqlite).expire(timedelta(days=20))

    with sqlite.reading() as session:
        left = set(session.scalars(select(TurnRow.id)))
    assert 0 < expired == len(asked) - len(left)
    assert {each.origin.turn_id for each in Examples(sqlite).collect().every} == left
    for turn in left:
        place, question, example = asked[turn]
        examples = (example,) if example and example.turn_id in left else ()
        history = conversations.history(conversations.current(place).id, before=turn)
        served = render("", examples, history, (), question)
        assert conversations.turn(turn).messages == served.messages
        assert conversations.turn(turn).parts == served.parts


def test_what_expires_takes_no_mark_of_an_erasure_along(
    database: Database, eraser: Eraser, clock: Clock
) -> None:
    first = talk(database, "old", "told", person_id=BOB)
    correct(database, first, SECRET, ADA)
    clock.advance(seconds=30 * DAY + 1)
    quoting = talk(database, "new", "told", person_id=BOB)
    rate(database, quoting, Rating.UP, BOB)
    eraser.erase_person(ADA)
    eraser.expire(timedelta(days=30))
    assert ERASED in str(Conversations(database).turn(quoting).messages)
    assert not Examples(database).collect().every


def test_what_is_not_old_enough_stays(database: Database, eraser: Eraser, clock: Clock) -> None:
    live(database)
    before = rows(database)
    clock.advance(seconds=30 * DAY)
    assert eraser.expire(timedelta(days=30)) == 0
    assert rows(database) == before


def test_many_old_turns_go_a_few_at_a_time(sqlite: Database, clock: Clock) -> None:
    for number in range(15):
        talk(sqlite, f"question {number}")
    clock.advance(seconds=DAY + 1)
    assert Eraser(sqlite).expire(timedelta(days=1)) == 15
    assert rows(sqlite)["turns"] == rows(sqlite)["conversations"] == []
