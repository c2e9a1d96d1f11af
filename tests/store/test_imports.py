"""Imports: what they become, that they come once, and how one is withdrawn. On both databases."""

from collections.abc import Iterator

import pytest

from store.database import Database
from store.domain import AdapterStatus, Message, RunStatus, Split
from store.errors import ImportNotFound
from store.examples import Examples
from store.imports import Imports, Preference
from store.runs import Runs
from store.tables import AdapterRow, RunExampleRow
from store.teaching import TeachingRule
from tests.fakes import Clock
from tests.store.talk import key, preference, take_in


@pytest.fixture
def book(database: Database) -> Examples:
    return Examples(database)


def test_what_is_imported_becomes_an_example_of_its_kind(
    database: Database, book: Examples, clock: Clock
) -> None:
    given = [
        preference("a", "fine", label=True),
        preference("b", "bad", label=False),
        preference("c", "better", rejected="worse"),
        preference("d", "shown"),
    ]
    assert take_in(database, given) == 4
    examples = book.collect()
    assert [(each.completion, each.label) for each in examples.unpaired] == [
        ("fine", True),
        ("bad", False),
    ]
    [pair], [shown] = examples.pairs, examples.demonstrations
    assert (pair.chosen, pair.rejected, shown.completion) == ("better", "worse", "shown")
    assert shown.prompt == (Message(role="user", content="d"),)
    assert [key(each.origin) for each in examples.every] == ["i1", "i2", "i3", "i4"]
    assert {each.created_at for each in examples.every} == {clock()}


def test_importing_the_same_twice_is_once(database: Database, book: Examples) -> None:
    given = [preference(label=True), preference("how?", rejected="so"), preference("who?")]
    assert take_in(database, given) == 3
    assert take_in(database, [*given, preference("new", label=True)]) == 1
    assert len(book.collect().every) == 4


def test_the_same_line_twice_in_a_file_is_once(database: Database, book: Examples) -> None:
    assert take_in(database, [preference(label=True)] * 3) == 1
    assert len(book.collect().every) == 1


@pytest.mark.parametrize(
    "other",
    [
        preference(label=False),
        preference(),
        preference(rejected="so"),
        preference(completion="why not", label=True),
        preference("how?", label=True),
    ],
    ids=["label", "demonstration", "pair", "completion", "prompt"],
)
def test_an_import_that_differs_in_anything_is_another(
    database: Database, book: Examples, other: Preference
) -> None:
    take_in(database, [preference(label=True)])
    assert take_in(database, [other]) == 1
    assert len(book.collect().every) == 2


def test_an_import_that_fails_half_way_leaves_nothing(database: Database, book: Examples) -> None:
    def broken() -> Iterator[Preference]:
        yield preference("first", label=True)
        raise ValueError("the file ends here")

    with pytest.raises(ValueError, match="the file ends here"):
        take_in(database, broken())
    assert book.collect().every == ()
    assert take_in(database, [preference("first", label=True)]) == 1


def test_imports_of_one_prompt_are_on_one_side(database: Database, book: Examples) -> None:
    given = [
        each
        for number in range(40)
        for each in (
            preference(f"question {number}", "fine", label=True),
            preference(f"question {number}", "bad", label=False),
            preference(f"question {number}", "better", rejected="worse"),
            preference(f"question {number}", "shown"),
        )
    ]
    take_in(database, given)
    sides: dict[object, set[bool]] = {}
    for each in book.collect().every:
        sides.setdefault(each.prompt, set()).add(each.held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert {frozenset(side) for side in sides.values()} == {frozenset({True}), frozenset({False})}


def test_what_is_imported_teaches_whoever_may_talk(database: Database) -> None:
    book = Examples(database, TeachingRule(open_access=False))
    take_in(database, [preference(label=True)])
    assert [key(each.origin) for each in book.collect().unpaired] == ["i1"]


def test_the_rater_of_an_import_is_nobody_if_it_is_trusted_and_else_the_import(
    database: Database, book: Examples
) -> None:
    take_in(database, [preference("a", label=True)], trusted=True)
    take_in(database, [preference("b", label=True), preference("c", rejected="so")], trusted=False)
    take_in(database, [preference("d")], trusted=False)

    raters = {each.prompt[0].content: each.raters for each in book.collect().every}

    assert raters == {"a": (), "b": (-2,), "c": (-2,), "d": (-3,)}


def test_imports_are_listed_with_who_made_them(database: Database, clock: Clock) -> None:
    take_in(database, [preference("a"), preference("b")], source="good.jsonl", trusted=False)
    take_in(database, [preference("a")], source="again.jsonl")

    [found] = Imports(database).all()

    assert (found.source, found.imported_by, found.trusted) == ("good.jsonl", "ada", False)
    assert (found.preferences, found.created_at) == (2, clock())


def test_an_import_that_is_withdrawn_teaches_no_more_and_names_what_learned_from_it(
    database: Database, book: Examples
) -> None:
    take_in(database, [preference("kept")])
    take_in(database, [preference("gone", label=True)])
    origins = {each.prompt[0].content: each.origin for each in book.collect().every}
    for question, origin in origins.items():
        run, _ = Runs(database).queue("a test")
        Runs(database).finish(run.id, RunStatus.PASSED, "It did.")
        with database.session() as session:
            session.add(
                RunExampleRow(
                    run_id=run.id,
                    ordinal=0,
                    split=Split.TRAIN,
                    kind=origin.kind,
                    imported_id=origin.imported_id,
                )
            )
            session.add(
                AdapterRow(
                    name=f"knows what is {question}",
                    sha256="",
                    base_model="starter",
                    run_id=run.id,
                    status=AdapterStatus.CANDIDATE,
                    metrics={},
                    created_at=database.now(),
                )
            )

    assert Imports(database).withdraw(2) == ("knows what is gone",)

    assert [each.prompt[0].content for each in book.collect().every] == ["kept"]
    assert [each.id for each in Imports(database).all()] == [1]
    with pytest.raises(ImportNotFound, match="no import 2"):
        Imports(database).withdraw(2)


def test_what_was_withdrawn_may_be_imported_again(database: Database) -> None:
    take_in(database, [preference("a")], trusted=False)
    Imports(database).withdraw(1)

    assert take_in(database, [preference("a")]) == 1
    assert [each.trusted for each in Imports(database).all()] == [True]
