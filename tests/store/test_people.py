"""People, and what is held about them: all of it is given, all of it goes. On both databases."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from store.adapters import FILES, Adapters
from store.conversations import Conversations
from store.database import Database
from store.domain import Access, Place, Rating, RatingSource, RunStatus, SentKind, TurnState
from store.errors import TurnNotFound
from store.examples import Examples
from store.people import ERASED, People
from store.ratings import Ratings
from store.runs import Runs
from store.tables import Base
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO, GROUP, begin, correct, meet, rate, talk
from tests.store.threads import at_once

DAY = 86_400

SECRET = "xylophone"
"""Stands in whatever Ada writes and in whatever is said to her, and nowhere else."""


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


def rows(database: Database) -> dict[str, list[dict[str, object]]]:
    """Everything that lies in the database."""
    with database.reading() as session:
        return {
            name: [dict(row) for row in session.execute(select(table)).mappings()]
            for name, table in Base.metadata.tables.items()
        }


def orphans(database: Database) -> list[str]:
    """Rows that refer to a row that is not there."""
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
    """Let Ada and Bob talk in a group and rate each other. Returns a turn of each."""
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


def test_somebody_new_is_remembered_undecided(people: People, clock: Clock) -> None:
    person = people.see(ADA, "Ada")
    assert people.find(ADA) == person
    assert (person.id, person.name, person.first_seen) == (ADA, "Ada", clock())
    assert (person.access, person.opted_out) == (Access.UNDECIDED, False)


def test_nobody_is_found_who_was_never_seen(people: People) -> None:
    assert people.find(ADA) is None


def test_a_changed_name_is_kept_and_nothing_else_changes(people: People, clock: Clock) -> None:
    first_seen = people.see(ADA, "Ada").first_seen
    people.decide(ADA, Access.DENIED)
    people.opt_out(ADA, True)
    clock.advance(seconds=60)
    person = people.see(ADA, "Ada Lovelace")
    assert people.find(ADA) == person
    assert (person.name, person.first_seen) == ("Ada Lovelace", first_seen)
    assert (person.access, person.opted_out) == (Access.DENIED, True)


def test_somebody_seen_by_eight_threads_at_once_is_one_person(people: People) -> None:
    for person_id in range(100, 105):
        seen = at_once(8, lambda _, person_id=person_id: people.see(person_id, "Ada"))
        assert set(seen) == {people.find(person_id)}


def test_an_admin_can_decide_about_somebody_who_has_not_written(people: People) -> None:
    assert people.decide(ADA, Access.ALLOWED).access == Access.ALLOWED
    assert people.see(ADA, "Ada").access == Access.ALLOWED


@pytest.mark.parametrize("access", list(Access))
def test_the_last_decision_counts(people: People, access: Access) -> None:
    people.decide(ADA, Access.DENIED)
    people.decide(ADA, access)
    person = people.find(ADA)
    assert person is not None
    assert person.access == access


def test_somebody_can_opt_out_of_training_and_in_again(people: People) -> None:
    assert people.opt_out(ADA, True).opted_out
    assert people.see(ADA, "Ada").opted_out
    assert not people.opt_out(ADA, False).opted_out


def test_an_export_holds_every_row_about_a_person(database: Database, people: People) -> None:
    live(database)
    export = people.export(ADA)
    held = rows(database)
    assert export["person"]["name"] == f"person {ADA}"
    for key, table in (("turns", "turns"), ("feedback", "feedback"), ("corrections",) * 2):
        theirs = {row["id"] for row in held[table] if row["person_id"] == ADA}
        assert {row["id"] for row in export[key]} == theirs
    of_people = {name for name, table in Base.metadata.tables.items() if "person_id" in table.c}
    by_admins = {"activations", "approvals", "audit"}  # who decided, for the record
    exported = {"turns", "feedback", "corrections", "updates", "quarantine"}
    assert of_people - by_admins == exported


def test_an_export_holds_what_was_written_and_rated_and_when(
    database: Database, people: People, clock: Clock
) -> None:
    turn_id = talk(database, "why?", "because")
    Ratings(database).rate(turn_id, ADA, Rating.UP, RatingSource.BUTTON)
    export = people.export(ADA)
    [turn], [rating] = export["turns"], export["feedback"]
    assert (turn["question"], turn["completion"]) == ("why?", "because")
    assert turn["messages"] == [{"role": "user", "content": "why?"}]
    assert (rating["turn_id"], rating["rating"]) == (turn_id, 1)
    assert rating["created_at"] == clock().isoformat()


def test_an_export_holds_nothing_that_others_wrote_and_rated(
    database: Database, people: People
) -> None:
    _, his = live(database)
    export = people.export(ADA)
    assert his not in {turn["id"] for turn in export["turns"]}
    told = json.dumps([turn["question"] + turn["completion"] for turn in export["turns"]])
    assert "Bob" not in told + json.dumps([export["feedback"], export["corrections"]])


def test_an_export_is_plain_json(database: Database, people: People) -> None:
    live(database)
    export = people.export(ADA)
    assert json.loads(json.dumps(export)) == export


def test_an_export_of_a_stranger_is_empty(people: People) -> None:
    assert people.export(404) == {
        "person": None,
        "turns": [],
        "feedback": [],
        "corrections": [],
        "held_back": [],
        "waiting": [],
    }


def test_erasing_leaves_none_of_their_rows_and_no_orphans(
    database: Database, people: People
) -> None:
    live(database)
    assert people.erase(ADA).turns == 4
    assert people.find(ADA) is None
    assert orphans(database) == []
    assert all(row.get("person_id") != ADA for table in rows(database).values() for row in table)


def test_erasing_leaves_none_of_their_words_anywhere(database: Database, people: People) -> None:
    _, his = live(database)
    assert SECRET in str(Conversations(database).turn(his).messages)
    people.erase(ADA)
    assert SECRET not in str(rows(database))


def test_erasing_leaves_none_of_their_words_in_the_files_of_the_database(sqlite: Database) -> None:
    live(sqlite)
    files = [Path(f"{make_url(sqlite.url).database}{end}") for end in ("", "-wal")]
    assert any(SECRET.encode() in file.read_bytes() for file in files)
    People(sqlite).erase(ADA)
    assert not any(SECRET.encode() in file.read_bytes() for file in files)


def test_erasing_blanks_their_words_in_the_prompts_of_others(
    database: Database, people: People
) -> None:
    _, his = live(database)
    people.erase(ADA)
    served = Conversations(database).turn(his).messages
    assert [message.content for message in served] == [ERASED, ERASED, "Bob asks"]
    assert [message.role for message in served] == ["user", "assistant", "user"]


def test_erasing_leaves_others_what_is_theirs(database: Database, people: People) -> None:
    hers, his = live(database)
    people.erase(ADA)
    turn, feedback = Conversations(database).turn(his), Ratings(database)
    assert (turn.question, turn.completion) == ("Bob asks", "Bob is told")
    assert [each.person_id for each in feedback.ratings(his)] == [BOB]
    assert [each.text for each in feedback.corrections(his)] == ["Bob corrects"]
    assert Conversations(database).shown_in(GROUP.chat_id, 3, SentKind.REPLY) == his
    assert Conversations(database).shown_in(GROUP.chat_id, 1, SentKind.REPLY) is None
    assert feedback.ratings(hers) == ()


def test_erasing_leaves_words_of_others_that_are_the_same_as_theirs(
    database: Database, people: People
) -> None:
    talk(database, "hello", "Hello, Ada.")
    his = talk(database, "hello", "Hello, Bob.", person_id=BOB)
    people.erase(ADA)
    served = Conversations(database).turn(his).messages
    assert [message.content for message in served] == [ERASED, ERASED, "hello"]


def test_erasing_reaches_their_question_that_somebody_else_had_answered_again(
    database: Database, people: People
) -> None:
    question = f"{SECRET}?"
    hers = talk(database, question)
    talk(database, question, "again", person_id=BOB, regenerates_id=hers)
    people.erase(ADA)
    assert SECRET not in str(rows(database))


def test_erasing_reaches_their_question_under_the_passages_it_was_served_with(
    database: Database, people: People
) -> None:
    question = f"{SECRET}?"
    hers = talk(database, question)
    prompt = f"Read this text:\n\nTea is hot.\n\nUse the text to answer this question: {question}"
    talk(database, question, "again", person_id=BOB, regenerates_id=hers, prompt=prompt)
    people.erase(ADA)
    assert SECRET not in str([row["messages"] for row in rows(database)["turns"]])


def test_erasing_ends_conversations_that_nobody_else_had(
    database: Database, people: People
) -> None:
    live(database)
    people.erase(ADA)
    assert [row["chat_id"] for row in rows(database)["conversations"]] == [GROUP.chat_id]


def test_a_reply_under_way_for_an_erased_person_is_not_kept(
    database: Database, people: People
) -> None:
    turn_id = begin(database)
    people.erase(ADA)
    with pytest.raises(TurnNotFound):
        Conversations(database).finish_turn(turn_id, state=TurnState.FINAL, completion="late")


def test_erasing_is_no_way_around_a_denial(database: Database, people: People) -> None:
    live(database)
    people.decide(ADA, Access.DENIED)
    people.erase(ADA)
    person = people.find(ADA)
    assert person is not None
    assert (person.access, person.name) == (Access.DENIED, "")


def test_erasing_keeps_the_wish_not_to_be_trained_on(database: Database, people: People) -> None:
    live(database)
    people.opt_out(ADA, True)
    people.erase(ADA)
    person = people.find(ADA)
    assert person is not None
    assert (person.opted_out, person.name) == (True, "")


def test_erasing_twice_is_fine(database: Database, people: People) -> None:
    live(database)
    people.erase(ADA)
    before = rows(database)
    assert people.erase(ADA).turns == 0
    assert rows(database) == before


def test_erasing_a_stranger_is_fine(database: Database, people: People) -> None:
    meet(database, BOB)
    assert people.erase(404).turns == 0
    assert people.find(BOB) is not None


def test_an_erased_person_can_begin_anew(database: Database, people: People) -> None:
    live(database)
    people.erase(ADA)
    talk(database, "hello again")
    assert [turn["question"] for turn in people.export(ADA)["turns"]] == ["hello again"]


def test_the_id_of_an_erased_turn_is_not_given_to_another(database: Database) -> None:
    erased = talk(database, "secret")
    People(database).erase(ADA)

    assert talk(database, "next") > erased


def test_who_came_lately_is_new_unless_an_admin_let_them_in(
    database: Database, people: People, clock: Clock
) -> None:
    people.see(ADA, "Ada")
    clock.advance(seconds=timedelta(days=10).total_seconds())
    people.see(BOB, "Bob")
    people.decide(CLEO, Access.ALLOWED)

    assert people.newcomers(timedelta(days=7)) == {BOB}
    assert people.newcomers(timedelta(0)) == frozenset()


def adapter_of_a_run_on(database: Database, folder: Path, *examples: str) -> str:
    """A version that was trained on these examples."""
    runs = Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    runs.note(run.id, snapshot={"train": examples, "held_out": ["t999"]})
    runs.finish(run.id, RunStatus.PASSED, "fine")
    source = folder / f"made{run.id}"
    source.mkdir()
    for file in FILES:
        (source / file).write_text(str(run.id))
    return Adapters(database, folder / "adapters").add(source, base_model="m", run_id=run.id).name


def test_versions_that_were_trained_on_an_erased_person_are_named_and_noted(
    database: Database, people: People, tmp_path: Path
) -> None:
    own, others = talk(database), talk(database, person_id=BOB)
    far = talk(database, person_id=BOB, place=Place(chat_id=-200))
    rate(database, others, Rating.UP, ADA)
    correction = correct(database, own, "better")
    versions = [
        adapter_of_a_run_on(database, tmp_path, *examples)
        for examples in (
            (f"t{own}",),
            (f"t{others}", "i1"),
            (f"c{correction}", f"d{correction}"),
            (f"p{far}-{own}",),
            (f"t{far}", f"t{own}0"),
            (),
        )
    ]

    erased = people.erase(ADA)

    assert erased.adapters == tuple(versions[:4])
    noted = [
        bool(each.metrics.get("holds_erased"))
        for each in Adapters(database, tmp_path / "adapters").all()
    ]
    assert noted == [True] * 4 + [False] * 2


def test_a_version_that_is_being_made_of_an_erased_person_is_noted_too(
    database: Database, people: People, tmp_path: Path
) -> None:
    turn_id, runs = talk(database), Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    runs.note(run.id, snapshot={"train": [f"t{turn_id}"]})

    assert people.erase(ADA).adapters == ()

    source = tmp_path / "made"
    source.mkdir()
    for file in FILES:
        (source / file).write_text("made")
    made = Adapters(database, tmp_path / "adapters").add(source, base_model="m", run_id=run.id)
    assert made.metrics["holds_erased"]


def test_versions_that_were_trained_on_turns_that_quote_an_erased_person_are_named(
    database: Database, people: People, tmp_path: Path
) -> None:
    talk(database, person_id=ADA)
    quoting = talk(database, person_id=BOB)
    version = adapter_of_a_run_on(database, tmp_path, f"t{quoting}")

    assert people.erase(ADA).adapters == (version,)


def test_replies_shown_of_a_run_that_measured_on_an_erased_person_go_with_them(
    database: Database, people: People
) -> None:
    turn_id, runs = talk(database, "Write to ada@example.org"), Runs(database)
    run, _ = runs.queue("this test")
    runs.take(run.id)
    sample = {"question": "Write to [email]", "before": "a", "after": "b"}
    runs.note(run.id, snapshot={"held_out": [f"t{turn_id}"]}, metrics={"samples": [sample]})

    people.erase(ADA)

    assert runs.get(run.id).metrics["samples"] == []


def test_turns_beyond_their_age_go_with_everything_about_them(
    database: Database, people: People, clock: Clock
) -> None:
    live(database)
    correct(database, talk(database, f"{SECRET}?"), f"{SECRET}!", BOB)
    clock.advance(seconds=30 * DAY + 1)
    kept = talk(database, "Bob again", "told", person_id=BOB)
    assert SECRET in str(Conversations(database).turn(kept).messages)
    assert people.expire(timedelta(days=30)) == 6
    assert SECRET not in str(rows(database))
    assert orphans(database) == []
    assert [row["id"] for row in rows(database)["turns"]] == [kept]
    assert len(rows(database)["conversations"]) == 1
    assert people.find(ADA) is not None


def test_a_question_goes_with_every_answer_to_it(
    database: Database, people: People, clock: Clock
) -> None:
    asked = talk(database, f"{SECRET}?", "told")
    people.opt_out(ADA, True)
    clock.advance(seconds=20 * DAY)
    again = talk(database, f"{SECRET}?", "told again", person_id=BOB, regenerates_id=asked)
    rate(database, again, Rating.UP, BOB)
    clock.advance(seconds=15 * DAY)
    assert people.expire(timedelta(days=30)) == 2
    assert SECRET not in str(rows(database))
    assert not Examples(database, open_access=True).collect().every


def test_what_is_not_old_enough_stays(database: Database, people: People, clock: Clock) -> None:
    live(database)
    before = rows(database)
    clock.advance(seconds=30 * DAY)
    assert people.expire(timedelta(days=30)) == 0
    assert rows(database) == before


def test_many_old_turns_go_a_few_at_a_time(
    sqlite: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.people.EXPIRED_AT_ONCE", 2)
    for number in range(5):
        talk(sqlite, f"question {number}")
    clock.advance(seconds=DAY + 1)
    assert People(sqlite).expire(timedelta(days=1)) == 5
    assert rows(sqlite)["turns"] == rows(sqlite)["conversations"] == []
