"""Examples: what becomes one, whose words are left out, what is held out. On both databases."""

import pytest

from store.database import Database
from store.domain import Access, FinishReason, Message, Place, Rating, TurnState
from store.erasure import Eraser
from store.examples import Examples
from store.people import People
from store.split import read_split
from store.teaching import TeachingRule
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, CLEO, correct, key, preference, rate, take_in, talk

UP, DOWN = Rating.UP, Rating.DOWN


@pytest.fixture
def book(database: Database) -> Examples:
    return Examples(database)


def labels(book: Examples) -> dict[str, bool]:
    return {key(each.origin): each.label for each in book.collect().unpaired}


def nothing(book: Examples) -> bool:
    return book.collect().every == ()


@pytest.mark.parametrize(("rating", "label"), [(UP, True), (DOWN, False)])
def test_a_rated_turn_is_an_example_as_it_was_served(
    database: Database, book: Examples, clock: Clock, rating: Rating, label: bool
) -> None:
    talk(database, "Hi", "Hello!")
    turn_id = talk(database, "why?", "because", prompt="Read this text: tea.")
    rate(database, turn_id, rating)
    [example] = book.collect().unpaired
    assert (key(example.origin), example.completion, example.label) == (
        f"t{turn_id}",
        "because",
        label,
    )
    assert [message.content for message in example.prompt] == [
        "Hi",
        "Hello!",
        "Read this text: tea.",
    ]
    assert example.prompt[-1] == Message(role="user", content="Read this text: tea.")
    assert (example.finished, example.created_at) == (True, clock())


@pytest.mark.parametrize(
    ("ratings", "label"),
    [([UP, UP, DOWN], True), ([UP, DOWN, DOWN], False), ([UP], True)],
)
def test_the_majority_labels_a_turn(
    database: Database, book: Examples, ratings: list[Rating], label: bool
) -> None:
    turn_id = talk(database)
    for person_id, rating in zip((ADA, BOB, CLEO), ratings, strict=False):
        rate(database, turn_id, rating, person_id)
    assert labels(book) == {f"t{turn_id}": label}


def test_a_tie_teaches_nothing(database: Database, book: Examples) -> None:
    turn_id = talk(database)
    rate(database, turn_id, UP, ADA)
    rate(database, turn_id, DOWN, BOB)
    assert nothing(book)


def test_the_last_word_of_a_person_labels_and_none_is_none(
    database: Database, book: Examples
) -> None:
    changed, taken_back, unrated = talk(database), talk(database), talk(database)
    rate(database, changed, UP)
    rate(database, changed, DOWN)
    rate(database, taken_back, UP)
    rate(database, taken_back, None)
    assert labels(book) == {f"t{changed}": False}
    assert unrated not in labels(book)


@pytest.mark.parametrize("state", [TurnState.PENDING, TurnState.CANCELLED, TurnState.FAILED])
def test_a_reply_that_was_not_finished_teaches_nothing(
    database: Database, book: Examples, state: TurnState
) -> None:
    turn_id = talk(database, state=state)
    rate(database, turn_id, UP)
    correct(database, turn_id, "It is so.")
    assert nothing(book)


def test_an_empty_reply_teaches_nothing(database: Database, book: Examples) -> None:
    rate(database, talk(database, reply=""), DOWN)
    assert nothing(book)


def test_a_reply_that_was_cut_is_marked_as_not_finished(database: Database, book: Examples) -> None:
    rate(database, talk(database, finish_reason=FinishReason.LENGTH), UP)
    [example] = book.collect().unpaired
    assert not example.finished


def test_what_somebody_who_opted_out_asked_teaches_nothing(
    database: Database, book: Examples
) -> None:
    turn_id = talk(database, person_id=ADA)
    rate(database, turn_id, UP, BOB)
    correct(database, turn_id, "It is so.", BOB)
    People(database).opt_out(ADA, True)
    assert nothing(book)
    People(database).opt_out(ADA, False)
    assert labels(book) == {f"t{turn_id}": True}


def test_the_words_of_somebody_who_opted_out_teach_nothing_as_anothers_history(
    database: Database, book: Examples
) -> None:
    talk(database, "where is my key?", person_id=ADA)
    after = talk(database, "what is tea?", person_id=BOB)
    elsewhere = talk(database, "what is tea?", person_id=BOB, place=Place(chat_id=BOB))
    for turn_id in (after, elsewhere):
        rate(database, turn_id, UP, BOB)
    assert labels(book) == {f"t{after}": True, f"t{elsewhere}": True}

    People(database).opt_out(ADA, True)

    assert labels(book) == {f"t{elsewhere}": True}


def test_what_somebody_who_opted_out_rated_or_corrected_does_not_count(
    database: Database, book: Examples
) -> None:
    turn_id = talk(database, person_id=ADA)
    rate(database, turn_id, DOWN, ADA)
    rate(database, turn_id, UP, BOB)
    rate(database, turn_id, UP, CLEO)
    correct(database, turn_id, "It is so.", BOB)
    People(database).opt_out(BOB, True)
    assert nothing(book)  # Ada's thumb and Cleo's are a tie
    rate(database, turn_id, None, CLEO)
    assert labels(book) == {f"t{turn_id}": False}


def test_somebody_without_access_teaches_nothing(database: Database, book: Examples) -> None:
    hers = talk(database, person_id=ADA)
    his = talk(database, person_id=BOB, place=Place(chat_id=-200))
    rate(database, hers, UP, BOB)
    rate(database, his, UP, CLEO)
    rate(database, his, DOWN, ADA)
    People(database).decide(ADA, Access.DENIED)
    assert labels(book) == {f"t{his}": True}


def test_on_an_allowlist_only_those_who_were_allowed_and_admins_teach(database: Database) -> None:
    book = Examples(database, TeachingRule(open_access=False, admins=frozenset({CLEO})))
    turns = {
        person: talk(database, person_id=person, place=Place(chat_id=-person))
        for person in (ADA, BOB, CLEO)
    }
    for turn_id in turns.values():
        for person_id in turns:
            rate(database, turn_id, DOWN if person_id == ADA else UP, person_id)
    assert labels(book) == {f"t{turns[CLEO]}": True}
    People(database).decide(BOB, Access.ALLOWED)
    assert labels(book) == {f"t{turns[BOB]}": True, f"t{turns[CLEO]}": True}


def test_an_admin_who_opted_out_teaches_nothing(database: Database) -> None:
    book = Examples(database, TeachingRule(open_access=False, admins=frozenset({ADA})))
    rate(database, talk(database), UP)
    People(database).opt_out(ADA, True)
    assert nothing(book)


def test_a_correction_is_a_pair_and_a_demonstration(
    database: Database, book: Examples, clock: Clock
) -> None:
    turn_id = talk(database, "why?", "because")
    clock.advance(seconds=60)
    number = correct(database, turn_id, "It is so.")
    examples = book.collect()
    [pair], [shown] = examples.pairs, examples.demonstrations
    assert (key(pair.origin), pair.chosen, pair.rejected) == (f"c{number}", "It is so.", "because")
    assert (key(shown.origin), shown.completion) == (f"d{number}", "It is so.")
    assert pair.prompt == shown.prompt == (Message(role="user", content="why?"),)
    assert pair.created_at == shown.created_at == clock()
    assert examples.unpaired == ()


def test_of_a_persons_corrections_the_last_counts(database: Database, book: Examples) -> None:
    turn_id = talk(database)
    correct(database, turn_id, "first", ADA)
    correct(database, turn_id, "Bob's", BOB)
    correct(database, turn_id, "last", ADA)
    assert [each.chosen for each in book.collect().pairs] == ["Bob's", "last"]
    assert [each.completion for each in book.collect().demonstrations] == ["Bob's", "last"]


def test_a_reply_may_be_rated_and_corrected(database: Database, book: Examples) -> None:
    turn_id = talk(database)
    rate(database, turn_id, DOWN)
    correct(database, turn_id, "It is so.")
    kinds = [key(each.origin)[0] for each in book.collect().every]
    assert kinds == ["t", "c", "d"]


def again(database: Database, root: int, reply: str = "another", **options: str) -> int:
    return talk(database, "why?", reply, regenerates_id=root, **options)  # type: ignore[arg-type]


def test_an_answer_that_won_over_another_to_the_same_prompt_makes_a_pair(
    database: Database, book: Examples
) -> None:
    first = talk(database, "why?", "because")
    second = again(database, first)
    rate(database, first, DOWN)
    rate(database, second, UP)
    [pair] = book.collect().pairs
    assert (key(pair.origin), pair.chosen, pair.rejected) == (
        f"p{second}-{first}",
        "another",
        "because",
    )
    assert pair.prompt == (Message(role="user", content="why?"),)


def test_the_first_answer_may_win_too(database: Database, book: Examples) -> None:
    first = talk(database, "why?", "because")
    second = again(database, first)
    rate(database, first, UP)
    rate(database, second, DOWN)
    assert [key(pair.origin) for pair in book.collect().pairs] == [f"p{first}-{second}"]


def test_every_answer_that_won_makes_a_pair_with_every_one_that_lost(
    database: Database, book: Examples
) -> None:
    first = talk(database, "why?", "because")
    second, third = again(database, first), again(database, first, "a third")
    rate(database, first, DOWN)
    rate(database, second, UP)
    rate(database, third, DOWN)
    pairs = {(pair.chosen, pair.rejected) for pair in book.collect().pairs}
    assert pairs == {("another", "because"), ("another", "a third")}


@pytest.mark.parametrize("ratings", [(UP, UP), (DOWN, DOWN), (UP, None), (None, UP)])
def test_answers_of_which_none_won_make_no_pair(
    database: Database, book: Examples, ratings: tuple[Rating | None, Rating | None]
) -> None:
    first = talk(database, "why?", "because")
    for turn_id, rating in zip((first, again(database, first)), ratings, strict=True):
        rate(database, turn_id, rating)
    assert book.collect().pairs == ()


def test_answers_to_different_prompts_make_no_pair(database: Database, book: Examples) -> None:
    first = talk(database, "why?", "because")
    second = again(database, first, prompt="Read this text: tea.")
    rate(database, first, DOWN)
    rate(database, second, UP)
    assert book.collect().pairs == ()
    assert labels(book) == {f"t{first}": False, f"t{second}": True}


def test_what_is_held_out_follows_from_the_first_answers_id_alone(
    database: Database, book: Examples
) -> None:
    expected = {}
    for number in range(10):
        place = Place(chat_id=number)
        first = talk(database, "why?", "because", place=place)
        second = talk(database, "why?", "another", place=place, regenerates_id=first)
        rate(database, first, DOWN)
        rate(database, second, UP)
        corrections = [correct(database, turn_id, "It is so.") for turn_id in (first, second)]
        ids = [f"t{first}", f"t{second}", f"p{second}-{first}"]
        ids += [f"{kind}{each}" for kind in "cd" for each in corrections]
        expected |= dict.fromkeys(ids, read_split(database).holds_out_turn(first))
    collected = {key(each.origin): each.held_out for each in book.collect().every}
    assert collected == expected
    assert set(expected.values()) == {True, False}


def test_what_is_rated_later_moves_nothing_to_the_other_side(
    database: Database, book: Examples
) -> None:
    for number in range(5):
        rate(database, talk(database, place=Place(chat_id=number)), UP)
    before = {key(each.origin): each.held_out for each in book.collect().every}
    for number in range(5, 10):
        rate(database, talk(database, place=Place(chat_id=number)), UP)
    after = {key(each.origin): each.held_out for each in book.collect().every}
    assert before.items() <= after.items()


def test_examples_come_oldest_first(database: Database, book: Examples, clock: Clock) -> None:
    turns = []
    for number in range(12):
        turns.append(talk(database, place=Place(chat_id=number)))
        clock.advance(seconds=1)
    for turn_id in reversed(turns):
        rate(database, turn_id, UP)
        clock.advance(seconds=1)
        correct(database, turn_id, f"better {turn_id}")
    examples = book.collect()
    assert [key(each.origin) for each in examples.unpaired] == [f"t{turn_id}" for turn_id in turns]
    for kind in (examples.pairs, examples.demonstrations):
        times = [each.created_at for each in kind]
        assert times == sorted(times)


def test_erasing_a_person_takes_their_examples_and_their_word_on_others(
    database: Database, book: Examples
) -> None:
    hers = talk(database, person_id=ADA)
    his = talk(database, person_id=BOB, place=Place(chat_id=-200))
    rate(database, hers, UP, BOB)
    rate(database, his, DOWN, ADA)
    correct(database, hers, "It is so.", BOB)
    correct(database, his, "It is so.", ADA)
    Eraser(database).erase_person(ADA)
    assert nothing(book)
    rate(database, his, UP, BOB)
    assert labels(book) == {f"t{his}": True}


def test_ratings_are_counted_from_a_moment_on(
    database: Database, book: Examples, clock: Clock
) -> None:
    assert book.ratings_since(None) == 0
    rate(database, talk(database), UP)
    moment = clock()
    assert (book.ratings_since(None), book.ratings_since(moment)) == (1, 0)
    clock.advance(seconds=1)
    turn_id = talk(database)
    rate(database, turn_id, UP, ADA)
    rate(database, turn_id, DOWN, BOB)
    take_in(database, [preference(label=True)])
    assert (book.ratings_since(None), book.ratings_since(moment)) == (4, 3)


def test_a_rating_that_was_changed_counts_once_and_one_taken_back_not(
    database: Database, book: Examples
) -> None:
    turn_id = talk(database)
    rate(database, turn_id, UP)
    rate(database, turn_id, DOWN)
    assert book.ratings_since(None) == 1
    rate(database, turn_id, None)
    assert book.ratings_since(None) == 0


def test_whoever_has_not_agreed_is_silent_in_others_turns_too_where_a_yes_is_needed(
    database: Database,
) -> None:
    talk(database, "a secret", "told", person_id=ADA)
    turn_id = talk(database, person_id=BOB)
    rate(database, turn_id, UP, BOB)
    People(database).opt_out(BOB, False)
    strict = Examples(database, TeachingRule(consent_required=True))
    assert nothing(strict)

    People(database).opt_out(ADA, False)

    assert len(strict.collect().every) == 1
