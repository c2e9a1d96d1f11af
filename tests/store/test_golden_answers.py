"""Golden answers: copied, masked, kept apart from what is rated later, gone with their turn."""

import pytest

from store.database import Database
from store.domain import Message, Rating
from store.erasure import Eraser
from store.errors import GoldenAnswerNotFound, TurnNotFound
from store.golden_answers import GoldenAnswers
from store.people import People
from store.teaching import TeachingRule
from tests.store.talk import ADA, BOB, correct, preference, rate, read_export, talk


@pytest.fixture
def golden(database: Database) -> GoldenAnswers:
    return GoldenAnswers(database, TeachingRule())


def test_a_reply_becomes_golden_as_it_is(database: Database, golden: GoldenAnswers) -> None:
    turn_id = talk(database, "When do you open?", "At nine.")

    assert golden.add(turn_id)

    [found] = golden.all()
    assert (found.turn_id, found.answer, found.worse) == (turn_id, "At nine.", None)
    assert found.prompt == (Message(role="user", content="When do you open?"),)
    assert not golden.add(turn_id), "it is already"


def test_of_a_corrected_reply_the_correction_becomes_golden(
    database: Database, golden: GoldenAnswers
) -> None:
    turn_id = talk(database, "When do you open?", "At nine.")
    correct(database, turn_id, "At ten.")

    golden.add(turn_id)

    [found] = golden.all()
    assert (found.answer, found.worse) == ("At ten.", "At nine.")


def test_what_is_said_later_changes_nothing_until_an_admin_says_so(
    database: Database, golden: GoldenAnswers
) -> None:
    turn_id = talk(database, "When do you open?", "At nine.")
    golden.add(turn_id)

    correct(database, turn_id, "Never.", BOB)
    rate(database, turn_id, Rating.DOWN, BOB)

    assert [each.answer for each in golden.all()] == ["At nine."]
    assert golden.add(turn_id)
    assert [each.answer for each in golden.all()] == ["Never."]


def test_private_data_is_masked(database: Database, golden: GoldenAnswers) -> None:
    golden.add(talk(database, "I am ada@example.org, who are you?", "You are ada@example.org."))

    [found] = golden.all()
    assert "ada@example.org" not in found.prompt[0].content + found.answer


def test_a_golden_answer_goes_with_its_person(database: Database, golden: GoldenAnswers) -> None:
    golden.add(talk(database, person_id=ADA))
    corrected = talk(database, "who?", "nobody", person_id=BOB)
    correct(database, corrected, "Ada.", ADA)
    golden.add(corrected)

    Eraser(database).erase_person(ADA)

    assert golden.all() == ()
    assert golden.count() == 0


def test_a_golden_answer_is_not_measured_with_while_its_person_does_not_teach(
    database: Database, golden: GoldenAnswers
) -> None:
    turn_id = talk(database, person_id=ADA)
    golden.add(turn_id)

    People(database).opt_out(ADA, True)

    assert golden.all() == ()
    with pytest.raises(TurnNotFound):
        golden.add(talk(database, person_id=ADA))
    People(database).opt_out(ADA, False)
    assert len(golden.all()) == 1


def test_nor_while_whoever_corrected_it_does_not_teach(
    database: Database, golden: GoldenAnswers
) -> None:
    turn_id = talk(database, person_id=BOB)
    correct(database, turn_id, "It is so.", ADA)
    golden.add(turn_id)

    People(database).opt_out(ADA, True)

    assert golden.all() == ()


def test_a_person_is_given_the_golden_answers_that_are_theirs(
    sqlite: Database,
) -> None:
    golden = GoldenAnswers(sqlite, TeachingRule())
    mine = talk(sqlite, "adas question", "adas answer", person_id=ADA)
    correct(sqlite, mine, "bobs correction", BOB)
    golden.add(mine)

    adas, bobs = str(read_export(sqlite, ADA)), str(read_export(sqlite, BOB))

    assert "golden_answers" in adas
    assert "bobs correction" not in adas
    assert "bobs correction" in bobs


def test_a_turn_that_is_not_there_is_named(golden: GoldenAnswers) -> None:
    with pytest.raises(TurnNotFound, match="77"):
        golden.add(77)


def test_an_answer_is_golden_no_longer(database: Database, golden: GoldenAnswers) -> None:
    one, other = talk(database, "why?"), talk(database, "who?")
    golden.add(one)
    golden.add(other)

    assert golden.drop_turn(one)
    assert not golden.drop_turn(one)
    [left] = golden.all()
    golden.drop(left.id)
    assert golden.all() == ()
    with pytest.raises(GoldenAnswerNotFound, match=f"no golden answer {left.id}"):
        golden.drop(left.id)


def test_a_file_brings_in_its_good_answers_once(golden: GoldenAnswers) -> None:
    given = [
        preference("a", "fine", label=True),
        preference("b", "bad", label=False),
        preference("c", "better", rejected="worse"),
        preference("d", "shown"),
    ]

    assert golden.take_in(given, source="good.jsonl") == 3
    assert golden.take_in(given, source="again.jsonl") == 0

    assert [(each.answer, each.worse, each.source) for each in golden.all()] == [
        ("fine", None, "good.jsonl"),
        ("better", "worse", "good.jsonl"),
        ("shown", None, "good.jsonl"),
    ]
