"""Limits on shares: neither one person nor a crowd that nobody knows moves the weights alone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.domain import AnyExample, ExampleSet
from tests.trainer.examples import demonstration, pair, rated
from trainer.examples.rater_shares import (
    LEAST_AGREEMENT,
    MIN_PROVEN_EXAMPLES,
    Limits,
    RaterTrust,
    Standing,
    limit_shares,
)

ADMIN = 99
IMPORT = -1
ONE_OLD = 7


def by(person: int, count: int, *, first: int = 1) -> tuple[tuple[int, int], ...]:
    return tuple((number, person) for number in range(first, first + count))


def crowd(people: Iterable[int], each: int) -> list[tuple[int, int]]:
    return [given for person in people for given in by(person, each, first=1000 * person)]


def examples(*given: tuple[int, int]) -> ExampleSet:
    """Return ratings, by number and person; 0 is nobody."""
    return ExampleSet(
        unpaired=tuple(
            replace(rated(number), raters=(person,) if person else ()) for number, person in given
        )
    )


def limits(**changes: float) -> Limits:
    chosen = {
        "room": 10_000,
        "person_share": 0.25,
        "unproven_share": 0.2,
        "unvouched_share": 1.0,
        "enough": 50,
        "unvouched_room": 10_000,
        **changes,
    }
    return Limits(**chosen)  # type: ignore[arg-type]


def trust(**changes: object) -> RaterTrust:
    """Return the trust in people who all agree."""
    agreement = dict.fromkeys(range(-10, 2000), 1.0)
    return RaterTrust(**{"agreement": agreement, **changes})  # type: ignore[arg-type]


def kept(given: ExampleSet, known: RaterTrust | None = None, **changes: float) -> Counter[int]:
    """Return how many examples of each person remain."""
    fair = limit_shares(given, known or trust(), limits(**changes))
    return Counter(rater for each in fair.every for rater in each.raters or (0,))


def theirs(fair: ExampleSet, people: Iterable[int]) -> float:
    """Return the share of examples that some people alone decided."""
    alone = [set(each.raters) <= set(people) and bool(each.raters) for each in fair.every]
    return sum(alone) / max(1, len(alone))


def test_one_person_gives_no_more_than_their_share() -> None:
    found = kept(examples(*crowd(range(1, 11), 6), *by(50, 300, first=50_000)))

    assert {found[person] for person in range(1, 11)} == {6}
    assert found[50] == 20
    assert found[50] <= 0.25 * found.total()


def test_it_is_their_newest_that_count() -> None:
    given = examples(*by(1, 10), *by(2, 3, first=100))

    fair = limit_shares(given, trust(), limits(room=100))

    assert [each.origin.turn_id for each in fair.unpaired] == [8, 9, 10, 100, 101, 102]


def test_somebody_alone_may_give_everything() -> None:
    assert kept(examples(*by(1, 40))) == {1: 40}


def test_of_two_each_gives_as_much_as_the_other() -> None:
    assert kept(examples(*by(1, 40), *by(2, 10, first=100))) == {1: 10, 2: 10}


@pytest.mark.parametrize("trusted", [ADMIN, 0])
def test_admins_and_trusted_imports_may_give_as_much_as_they_like(trusted: int) -> None:
    given = examples(*by(trusted, 300), *by(1, 5, first=1000), *by(2, 200, first=2000))

    found = kept(given, trust(trusted=frozenset({ADMIN})))

    assert found[trusted] == 300
    assert found[1] == 5
    assert found[2] == 200 or found[2] <= found.total() / 2


def test_new_people_count_no_more_than_their_share_all_together() -> None:
    given = examples(*crowd(range(1, 11), 8), *crowd(range(50, 100), 4))

    found = kept(given, trust(newcomers=frozenset(range(50, 100))))

    assert sum(found[person] for person in range(1, 11)) == 80
    assert sum(found[person] for person in range(50, 100)) == 20


def test_people_who_agree_with_nobody_count_no_more_than_that_either() -> None:
    given = examples(*crowd(range(1, 11), 8), *crowd(range(50, 100), 4))
    agreement = dict.fromkeys(range(1, 11), 1.0) | dict.fromkeys(range(50, 100), 0.4)

    found = kept(given, trust(agreement=agreement))

    assert sum(found[person] for person in range(50, 100)) == 20


def test_somebody_gives_the_less_the_less_they_agree() -> None:
    agreement = dict.fromkeys(range(1, 21), 1.0) | {50: 0.6, 51: LEAST_AGREEMENT / 2}
    given = examples(*crowd(range(1, 21), 20), *crowd((50, 51), 400))

    found = kept(given, trust(agreement=agreement), person_share=0.1)

    assert 0.055 < found[50] / found.total() <= 0.06
    assert 0 < found[51] / found.total() <= 0.1 * LEAST_AGREEMENT


def test_where_hardly_anybody_is_proven_the_others_have_no_limit_together() -> None:
    given = examples(*crowd((1, 2), 40), *by(ADMIN, MIN_PROVEN_EXAMPLES - 1, first=100))
    known = trust(newcomers=frozenset({1, 2}), trusted=frozenset({ADMIN}))

    found = kept(given, known, person_share=1.0)

    assert found[1] == found[2] == 40


def test_an_import_that_is_not_trusted_is_one_new_person() -> None:
    given = examples(*crowd(range(1, 11), 8), *by(IMPORT, 10_000, first=100_000))

    found = kept(given)

    assert found[IMPORT] == 20


def test_a_correction_is_an_unproven_word_unless_an_admin_vouched_for_who_gave_it() -> None:
    thumbs = examples(*crowd(range(1, 11), 8))
    given = replace(
        thumbs,
        pairs=tuple(replace(pair(n), raters=(20 + n % 10,)) for n in range(100, 200)),
        demonstrations=tuple(
            replace(demonstration(n), raters=(20 + n % 10,)) for n in range(200, 300)
        ),
    )

    def corrections(known: RaterTrust) -> int:
        fair = limit_shares(given, known, limits(person_share=1.0))
        return len(fair.pairs) + len(fair.demonstrations)

    assert corrections(trust()) == 20
    assert corrections(trust(vouched=frozenset(range(20, 30)))) == 200


def test_people_whom_nobody_vouched_for_have_a_limit_together_whatever_their_age() -> None:
    given = examples(*crowd(range(1, 41), 10))

    def both(vouched: int) -> tuple[int, int]:
        letting = trust(vouched=frozenset(range(1, vouched + 1)))
        found = kept(given, letting, room=400, unvouched_share=0.25, unvouched_room=200)
        known = sum(found[person] for person in range(1, vouched + 1))
        return known, found.total() - known

    assert both(0) == (0, 200), "half of the room while hardly anybody is vouched for"
    assert both(4) == (40, 200)
    assert both(15) == (150, 50), "a quarter once they give enough for a run"
    assert both(40) == (400, 0)


def test_where_agreement_is_not_known_nobody_gives_more_than_an_equal_share() -> None:
    given = examples(*crowd(range(1, 41), 10), *crowd(range(50, 54), 100))

    found = kept(given, RaterTrust(), room=400, person_share=0.1)

    assert all(found[person] <= found.total() / 44 + 1e-6 for person in range(50, 54))


def test_a_share_is_of_what_there_is_room_for() -> None:
    found = kept(examples(*crowd(range(1, 101), 30), *by(500, 1200, first=500_000)), room=400)

    assert found[500] <= 3 / 101 * 400, "three equal shares"


def test_what_several_said_alike_costs_each_of_them_a_part() -> None:
    group = tuple(replace(rated(number), raters=(1, 2, 3, 4)) for number in range(1, 41))
    given = ExampleSet(unpaired=(*group, *examples(*by(5, 50, first=100)).unpaired))

    fair = limit_shares(given, trust(), limits())

    found = Counter(each.raters for each in fair.unpaired)
    assert found[1, 2, 3, 4] == 40
    assert found[5,] <= 0.25 * found.total()


def test_nobody_lends_their_good_name_to_a_crowd() -> None:
    """The review's attack: sixty accounts of today, and one that is a week old, press alike."""
    new = tuple(range(50, 110))
    honest = examples(*crowd(range(100, 140), 10)).unpaired
    honest = tuple(replace(each, raters=(each.raters[0] + 1000,)) for each in honest)
    together = tuple(replace(rated(n), raters=(ONE_OLD, *new)) for n in range(1, 601))
    known = trust(newcomers=frozenset(new))

    fair = limit_shares(ExampleSet(unpaired=(*together, *honest)), known, limits(person_share=0.1))

    assert theirs(fair, {ONE_OLD, *new}) <= 0.1


def test_what_a_crowd_decides_against_the_proven_is_the_crowds() -> None:
    new = tuple(range(50, 110))
    honest = examples(*crowd(range(200, 240), 10)).unpaired
    against = tuple(
        replace(rated(n), raters=(ONE_OLD, *new), outvoted=(200, 201)) for n in range(1, 601)
    )
    known = trust(newcomers=frozenset(new))

    fair = limit_shares(ExampleSet(unpaired=(*against, *honest)), known, limits(person_share=1.0))

    assert theirs(fair, {ONE_OLD, *new}) <= 0.2


def test_in_an_exam_those_whom_an_admin_knows_come_first() -> None:
    given = examples(
        *crowd((1, 2), 10), *crowd((3, 4), 10), *crowd((5, 6), 10), *by(ADMIN, 10, first=9000)
    )
    known = trust(
        trusted=frozenset({ADMIN}), vouched=frozenset({1, 2}), newcomers=frozenset({5, 6})
    )

    fair = limit_shares(given, known, limits(room=36, person_share=1.0), best_first=True)

    assert Counter(each.raters[0] for each in fair.unpaired) == {
        ADMIN: 10,
        1: 10,
        2: 10,
        3: 3,
        4: 3,
    }


def test_in_an_exam_many_people_speak_rather_than_the_latest() -> None:
    given = examples(*by(1, 100), *by(2, 10, first=1000), *by(3, 10, first=500))

    fair = limit_shares(given, trust(), limits(room=12, person_share=1.0), best_first=True)

    assert Counter(each.raters[0] for each in fair.unpaired) == {1: 4, 2: 4, 3: 4}


people = st.sets(st.integers(1, 12), max_size=5)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[ExampleSet, RaterTrust]:
    """Draw ratings by any people, with any standing."""
    trust = RaterTrust(
        trusted=frozenset(draw(people)),
        vouched=frozenset(draw(people)),
        newcomers=frozenset(draw(people)),
        agreement=draw(
            st.none() | st.dictionaries(st.integers(1, 12), st.floats(0, 1), max_size=12)
        ),
    )
    unpaired = []
    for number in range(draw(st.integers(0, 60))):
        raters = draw(people)
        outvoted = draw(people) - raters
        unpaired.append(
            replace(rated(number), raters=tuple(raters), outvoted=tuple(outvoted) if raters else ())
        )
    pairs = [replace(pair(n), raters=(draw(st.integers(1, 12)),)) for n in range(100, 110)]
    return ExampleSet(unpaired=tuple(unpaired), pairs=tuple(pairs)), trust


def unlimited(each: AnyExample, trust: RaterTrust) -> bool:
    return not each.raters or not trust.trusted.isdisjoint(each.raters)


@given(crowds(), st.floats(0.05, 1.0), st.booleans())
def test_nobody_ever_has_more_than_their_share(
    crowd: tuple[ExampleSet, RaterTrust], share: float, exam: bool
) -> None:
    given, trust = crowd

    fair = limit_shares(given, trust, limits(person_share=share, room=1000), best_first=exam)

    limited = [each for each in given.every if not unlimited(each, trust)]
    persons = {rater for each in limited for rater in each.raters}
    largest = max(share, 1 / max(1.0, LEAST_AGREEMENT * len(persons)))
    for person in persons:
        alone = sum(each.raters == (person,) for each in fair.every)
        assert alone <= max(1, largest * len(fair.every)) + 1e-6
    assert sum(unlimited(each, trust) for each in fair.every) == sum(
        unlimited(each, trust) for each in given.every
    )


@given(crowds(), st.booleans())
def test_what_the_proven_do_not_decide_is_never_more_than_the_share_of_the_unproven(
    crowd: tuple[ExampleSet, RaterTrust], exam: bool
) -> None:
    drawn, trust = crowd
    known = range(200, 200 + MIN_PROVEN_EXAMPLES)
    if trust.agreement is not None:
        trust = replace(trust, agreement={**trust.agreement, **dict.fromkeys(known, 1.0)})
    honest = examples(*((1000 + person, person) for person in known)).unpaired
    given = replace(drawn, unpaired=(*drawn.unpaired, *honest))

    fair = limit_shares(given, trust, limits(person_share=1.0, room=1000), best_first=exam)

    undecided = 0
    for each in fair.every:
        levels = (Standing.VOUCHED,) if each in fair.pairs else (Standing.VOUCHED, Standing.PROVEN)
        decided = unlimited(each, trust) or any(
            sum(trust.standing(person) >= level for person in each.raters)
            > sum(trust.standing(person) >= level for person in each.outvoted)
            for level in levels
        )
        undecided += not decided
    assert undecided <= 0.2 * len(fair.every) + 1e-6
