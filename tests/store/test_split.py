"""The split: keyed, kept for ever, about a fifth. On both databases."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from store.database import Database
from store.domain import Split as Side
from store.runs import Runs
from store.split import HELD_OUT_SHARE, KEY_BYTES, Split, new_key, read_split
from store.tables import RunExampleRow, SplitKeyRow
from tests.store.talk import talk

keys = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


def held_out(split: Split, count: int = 30) -> list[int]:
    return [number for number in range(1, count + 1) if split.holds_out_turn(number)]


def test_without_a_key_every_version_of_ratchet_holds_out_the_same_turns() -> None:
    assert held_out(Split(key=b"")) == [1, 19, 22, 24, 25, 27, 28, 29, 30]


@settings(deadline=None)
@given(keys)
def test_about_a_fifth_is_held_out_by_any_key(key: bytes) -> None:
    share = len(held_out(Split(key=key), 4000)) / 4000

    assert share == pytest.approx(HELD_OUT_SHARE, abs=0.04)
    assert HELD_OUT_SHARE == 0.2


@settings(deadline=None)
@given(keys, keys)
def test_whoever_does_not_know_the_key_guesses_no_better_than_chance(
    one: bytes, two: bytes
) -> None:
    known, guessed = (set(held_out(Split(key=key), 4000)) for key in (one, two))

    if one != two:
        assert len(known & guessed) / len(known) == pytest.approx(HELD_OUT_SHARE, abs=0.08)


@given(keys, st.integers(0, 10**6), st.integers(1, 10**6))
def test_what_runs_have_used_stays_on_its_side(key: bytes, first: int, number: int) -> None:
    split = Split(key=key, first_turn_id=first, first_imported_id=first)
    expected = Split(key=b"") if number < first else Split(key=key)

    assert split.holds_out_turn(number) == expected.holds_out_turn(number)
    assert split.holds_out_import(number, "ab") == expected.holds_out_import(number, "ab")


def test_a_key_is_made_once_and_is_new_in_every_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.split.new_key", new_key)
    first = read_split(database)

    assert read_split(database) == first
    assert len(first.key) == KEY_BYTES
    with database.session() as session:
        session.execute(delete(SplitKeyRow))
    assert read_split(database).key != first.key


def test_turns_that_were_used_before_there_was_a_key_are_split_without_one(
    database: Database,
) -> None:
    turns = [talk(database) for _ in range(3)]
    run, _ = Runs(database).queue("a test")
    with database.session() as session:
        session.add(
            RunExampleRow(
                run_id=run.id, ordinal=0, split=Side.TRAIN, kind="rated", turn_id=turns[1]
            )
        )

    split = read_split(database)

    assert (split.first_turn_id, split.first_imported_id) == (turns[1] + 1, 0)
