"""The data of a run: nothing held out, nothing twice, and not too much of anything."""

from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.domain import (
    AnyExample,
    Demonstration,
    Example,
    ExampleCounts,
    ExampleSet,
    Message,
    Origin,
    OriginKind,
    PreferencePair,
    Split,
)
from store.golden_answers import GoldenAnswer
from tests.trainer.examples import asked, demonstration, origin, pair, rated, recipe, thumbs
from trainer.errors import NothingToLearn
from trainer.examples.dataset import (
    MAX_HELD_OUT,
    MAX_IMBALANCE,
    MIN_EXAMPLES,
    MIN_PER_LABEL,
    Snapshot,
    label_weights,
    take_snapshot,
)

Kind = TypeVar("Kind", bound=AnyExample)

SYSTEM = "Be brief."
ENOUGH = thumbs(12, first=101)
"""Ratings that suffice for a run."""

PAIRS = tuple(pair(number) for number in range(1, 21))
SHOWN = tuple(demonstration(number) for number in range(1, 21))

one_of_few = st.integers(0, 3)
any_rated = st.builds(
    rated,
    st.integers(1, 90),
    st.booleans(),
    question=one_of_few.map(lambda number: f"question {number}"),
    reply=one_of_few.map(lambda number: f"reply {number}"),
    held_out=st.booleans(),
    imported=st.booleans(),
)
any_pair = st.builds(
    pair,
    st.integers(1, 90),
    question=one_of_few.map(lambda number: f"question {number}"),
    chosen=one_of_few.map(lambda number: f"better {number}"),
    rejected=one_of_few.map(lambda number: f"worse {number}"),
    held_out=st.booleans(),
    imported=st.booleans(),
)
any_demonstration = st.builds(
    demonstration,
    st.integers(1, 90),
    question=one_of_few.map(lambda number: f"question {number}"),
    reply=one_of_few.map(lambda number: f"reply {number}"),
    held_out=st.booleans(),
    imported=st.booleans(),
)


def oldest_first(drawn: list[Kind]) -> tuple[Kind, ...]:
    return tuple(sorted(drawn, key=lambda each: each.created_at))


some_examples = st.builds(
    lambda ones, twos, shown: ExampleSet(
        unpaired=(*oldest_first(ones), *ENOUGH),
        pairs=oldest_first(twos),
        demonstrations=oldest_first(shown),
    ),
    st.lists(any_rated, max_size=40),
    st.lists(any_pair, max_size=12),
    st.lists(any_demonstration, max_size=12),
)


def snapshot(
    *,
    unpaired: tuple[Example, ...] = (),
    pairs: tuple[PreferencePair, ...] = (),
    demonstrations: tuple[Demonstration, ...] = (),
    system_prompt: str = "",
    **changes: object,
) -> Snapshot:
    examples = ExampleSet(unpaired=unpaired, pairs=pairs, demonstrations=demonstrations)
    return take_snapshot(examples, recipe(**changes), system_prompt=system_prompt)


LETTERS = {
    OriginKind.RATED: "t",
    OriginKind.CORRECTED: "c",
    OriginKind.DEMONSTRATED: "d",
    OriginKind.IMPORTED: "i",
}


def name(origin: Origin) -> str:
    """Return the kind and the number of an example, such as t12 for the rated turn 12."""
    return f"{LETTERS[origin.kind]}{origin.turn_id or origin.correction_id or origin.imported_id}"


def ids(examples: tuple[AnyExample, ...]) -> list[str]:
    return [name(each.origin) for each in examples]


def said(each: AnyExample) -> tuple[tuple[Message, ...], str]:
    if isinstance(each, PreferencePair):
        return each.prompt, f"{each.chosen} and not {each.rejected}"
    return each.prompt, each.completion.strip()


def test_what_is_held_out_is_measured_and_not_trained_on() -> None:
    taken = snapshot(unpaired=(rated(1, held_out=True), *ENOUGH), pairs=(pair(2, held_out=True),))

    assert ids(taken.held_out.every) == ["t1", "c2"]
    assert ids(taken.train.every) == ids(ENOUGH)


def test_a_copy_of_what_is_held_out_is_not_trained_on() -> None:
    held_out = rated(1, question="why?", reply="because", held_out=True)
    copy = rated(2, question="why?", reply=" because\n")

    taken = snapshot(unpaired=(held_out, copy, *ENOUGH))

    assert ids(taken.held_out.unpaired) == ["t1"]
    assert ids(taken.train.every) == ids(ENOUGH)


def test_a_copy_that_came_before_what_is_held_out_is_not_trained_on() -> None:
    copy = rated(1, question="why?", reply="because")
    held_out = rated(2, question="why?", reply="because", held_out=True)

    taken = snapshot(unpaired=(copy, held_out, *ENOUGH))

    assert ids(taken.held_out.unpaired) == ["t2"]
    assert ids(taken.train.every) == ids(ENOUGH)


def test_an_imported_copy_of_a_turn_that_is_held_out_is_not_trained_on() -> None:
    turn = rated(1, question="why?", reply="because", system=SYSTEM, held_out=True)
    imported = rated(2, question="why?", reply="because", imported=True)

    taken = snapshot(unpaired=(turn, imported, *ENOUGH), system_prompt=SYSTEM)

    assert ids(taken.train.every) == ids(ENOUGH)


def test_a_rated_reply_that_is_held_out_is_not_demonstrated() -> None:
    held_out = rated(1, question="why?", reply="because", held_out=True)
    copy = demonstration(2, question="why?", reply="because")

    taken = snapshot(unpaired=(held_out, *ENOUGH), demonstrations=(copy,))

    assert ids(taken.train.every) == ids(ENOUGH)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_reply_that_is_held_out_is_not_in_a_pair(side: str) -> None:
    held_out = rated(1, question="why?", reply="because", held_out=True)
    copy = pair(2, question="why?", **{side: "because"})  # type: ignore[arg-type]

    taken = snapshot(unpaired=(held_out, *ENOUGH), pairs=(copy,))

    assert taken.train.pairs == ()


def test_a_reply_of_a_pair_that_is_held_out_is_not_demonstrated() -> None:
    held_out = pair(1, question="why?", chosen="because", held_out=True)
    copy = demonstration(2, question="why?", reply="because")

    taken = snapshot(unpaired=ENOUGH, pairs=(held_out,), demonstrations=(copy,))

    assert taken.train.demonstrations == ()


@given(some_examples)
def test_whatever_there_is_nothing_held_out_nor_a_copy_of_it_is_trained_on(
    examples: ExampleSet,
) -> None:
    taken = take_snapshot(examples, recipe(), system_prompt=SYSTEM)

    held_out = {each.origin for each in examples.every if each.held_out}
    assert not {each.origin for each in taken.train.every if each.held_out}
    assert not {said(each) for each in taken.train.every} & {
        said(each) for each in taken.held_out.every
    }
    assert {each.origin for each in taken.held_out.every} <= held_out


@given(some_examples)
def test_whatever_there_is_nothing_is_taken_twice(examples: ExampleSet) -> None:
    taken = take_snapshot(examples, recipe(), system_prompt=SYSTEM)

    for kind in (taken.train.unpaired, taken.train.pairs, taken.train.demonstrations):
        assert len({said(each) for each in kind}) == len(kind)


@given(some_examples, st.integers(24, 60), st.floats(0, 1), st.integers(0, 5))
def test_whatever_there_is_the_same_examples_and_seed_give_the_same_snapshot(
    examples: ExampleSet, most: int, replay: float, seed: int
) -> None:
    chosen = recipe(max_examples=most, replay=replay, seed=seed)

    def take() -> Snapshot | str:
        try:
            return take_snapshot(examples, chosen, system_prompt=SYSTEM)
        except NothingToLearn as reason:
            return str(reason)

    assert take() == take()


@given(some_examples, st.integers(MIN_EXAMPLES, 60), st.floats(0, 1))
def test_whatever_there_is_the_bound_is_kept_and_each_kind_is_oldest_first(
    examples: ExampleSet, most: int, replay: float
) -> None:
    try:
        taken = take_snapshot(
            examples, recipe(max_examples=most, replay=replay), system_prompt=SYSTEM
        )
    except NothingToLearn:
        return
    assert len(taken.train.every) <= most
    for kind in (taken.train.unpaired, taken.train.pairs, taken.train.demonstrations):
        moments = [each.created_at for each in kind]
        assert moments == sorted(moments)


def test_copies_become_one_with_the_label_of_the_majority() -> None:
    votes = (True, False, True, False, False)
    copies = tuple(
        rated(number, label, question="why?", reply="because")
        for number, label in enumerate(votes, 1)
    )

    taken = snapshot(unpaired=(*copies, *ENOUGH))

    assert [each.label for each in taken.train.unpaired if each.completion == "because"] == [False]


def test_copies_that_are_rated_evenly_teach_nothing() -> None:
    copies = tuple(
        rated(number, number % 2 == 0, question="why?", reply="because") for number in range(1, 7)
    )

    taken = snapshot(unpaired=(*copies, *ENOUGH))

    assert ids(taken.train.every) == ids(ENOUGH)


def test_one_persons_500_identical_ratings_teach_once() -> None:
    copies = tuple(rated(number, question="why?", reply="because") for number in range(200, 700))

    taken = snapshot(unpaired=(*ENOUGH, *copies))

    assert taken.counts.train == len(ENOUGH) + 1
    assert ids(taken.train.unpaired)[-1] == "t699"


def test_500_identical_ratings_alone_are_nothing_to_learn_from() -> None:
    with pytest.raises(NothingToLearn):
        snapshot(unpaired=tuple(rated(number, question="why?", reply="a") for number in range(500)))


def test_the_same_reply_to_another_question_is_no_copy() -> None:
    taken = snapshot(unpaired=(*ENOUGH, rated(200, reply="yes"), rated(201, reply="yes")))

    assert taken.counts.train == len(ENOUGH) + 2


def test_copies_of_pairs_and_demonstrations_become_one_too() -> None:
    taken = snapshot(
        unpaired=ENOUGH,
        pairs=tuple(pair(number, question="a", chosen="b", rejected="c") for number in (1, 2)),
        demonstrations=tuple(demonstration(number, question="a", reply="b") for number in (1, 2)),
    )

    assert (ids(taken.train.pairs), ids(taken.train.demonstrations)) == (["c2"], ["d2"])


@pytest.mark.bad_input("empty replies")
def test_an_empty_reply_teaches_nothing() -> None:
    taken = snapshot(unpaired=(rated(1, False, reply=" \n"), *ENOUGH))

    assert ids(taken.train.every) == ids(ENOUGH)


def test_the_newest_are_trained_on_with_a_share_of_what_is_older() -> None:
    taken = snapshot(unpaired=thumbs(1000), max_examples=100, replay=0.3)

    numbers = [each.origin.turn_id or 0 for each in taken.train.unpaired]
    assert len(numbers) == 100
    assert numbers[30:] == list(range(931, 1001))
    assert all(number <= 930 for number in numbers[:30])
    assert numbers == sorted(numbers)


def test_replayed_ones_come_from_everywhere_in_the_past() -> None:
    taken = snapshot(unpaired=thumbs(1000), max_examples=100, replay=0.5)

    replayed = [each.origin.turn_id or 0 for each in taken.train.unpaired][:50]
    assert min(replayed) < 300 < 700 < max(replayed)


def test_without_replay_only_the_newest_are_trained_on() -> None:
    taken = snapshot(unpaired=thumbs(1000), max_examples=100, replay=0.0)

    assert ids(taken.train.unpaired) == ids(thumbs(1000)[900:])


def test_another_seed_replays_others() -> None:
    one, other = (snapshot(unpaired=thumbs(1000), max_examples=100, seed=seed) for seed in (0, 1))

    assert one.origins[Split.TRAIN] != other.origins[Split.TRAIN]


def test_all_are_trained_on_where_there_is_room() -> None:
    taken = snapshot(unpaired=thumbs(100), max_examples=100)

    assert ids(taken.train.unpaired) == ids(thumbs(100))


def test_every_kind_has_a_part_of_a_run_that_has_room_for_few() -> None:
    taken = snapshot(
        unpaired=thumbs(200),
        pairs=tuple(pair(number) for number in range(200)),
        demonstrations=tuple(demonstration(number) for number in range(200)),
        max_examples=100,
    )

    assert taken.train.unpaired
    assert taken.train.pairs
    assert taken.train.demonstrations
    assert taken.counts.train == 100


def test_what_a_kind_leaves_the_others_may_have() -> None:
    taken = snapshot(
        unpaired=thumbs(10),
        pairs=tuple(pair(number) for number in range(200)),
        demonstrations=tuple(demonstration(number) for number in range(20)),
        max_examples=100,
    )

    assert (len(taken.train.pairs), len(taken.train.demonstrations)) == (70, 20)
    assert len(taken.train.unpaired) == 10


@pytest.mark.parametrize("kind", ["unpaired", "pairs", "demonstrations"])
def test_a_kind_alone_may_fill_the_run(kind: str) -> None:
    make = {
        "unpaired": thumbs(200),
        "pairs": tuple(pair(number) for number in range(200)),
        "demonstrations": tuple(demonstration(number) for number in range(200)),
    }

    taken = take_snapshot(
        ExampleSet(**{kind: make[kind]}),  # type: ignore[arg-type]
        recipe(max_examples=100),
        system_prompt="",
    )

    assert taken.counts.train == 100


@pytest.mark.parametrize("label", [True, False])
def test_of_a_label_that_outnumbers_the_other_only_some_are_kept(label: bool) -> None:
    rare = tuple(rated(number, not label) for number in range(1, 6))
    common = tuple(rated(number, label) for number in range(10, 110))

    taken = snapshot(unpaired=(*rare, *common))

    kept = [each for each in taken.train.unpaired if each.label is label]
    assert ids(taken.train.unpaired)[: len(rare)] == ids(rare)
    assert len(kept) == round(MAX_IMBALANCE * len(rare))
    assert kept[-1] == common[-1]


@pytest.mark.bad_input("ratings of one kind")
@pytest.mark.parametrize(("label", "missing"), [(True, "0 👎"), (False, "0 👍")])
def test_ratings_of_one_kind_are_nothing_to_learn_from(label: bool, missing: str) -> None:
    with pytest.raises(NothingToLearn, match=missing) as raised:
        snapshot(unpaired=tuple(rated(number, label) for number in range(100)))

    assert "Please rate both good and bad replies." in str(raised.value)


def test_too_few_of_a_kind_are_nothing_to_learn_from() -> None:
    many = tuple(rated(number) for number in range(40))
    least = tuple(rated(number, False) for number in range(50, 50 + MIN_PER_LABEL))

    assert snapshot(unpaired=(*many, *least)).counts.negative == MIN_PER_LABEL
    with pytest.raises(NothingToLearn):
        snapshot(unpaired=(*many, *least[1:]))


def test_thumbs_of_one_kind_are_left_out_of_a_run_that_has_enough_else() -> None:
    taken = snapshot(unpaired=tuple(rated(number) for number in range(100, 140)), pairs=PAIRS)

    assert taken.train.every == PAIRS


@pytest.mark.bad_input("three ratings")
def test_three_ratings_are_nothing_to_learn_from() -> None:
    with pytest.raises(NothingToLearn, match="There are 3 examples") as raised:
        snapshot(unpaired=thumbs(3))

    assert str(raised.value).endswith("Please rate more replies.")


def test_no_ratings_at_all_are_nothing_to_learn_from() -> None:
    with pytest.raises(NothingToLearn):
        snapshot()


def test_ratings_that_are_all_held_out_are_nothing_to_learn_from() -> None:
    with pytest.raises(NothingToLearn):
        snapshot(unpaired=tuple(replace(each, held_out=True) for each in thumbs(100)))


def test_auto_learns_from_every_kind() -> None:
    taken = snapshot(unpaired=ENOUGH, pairs=PAIRS, demonstrations=SHOWN, objective="auto")

    assert taken.train.every == (*ENOUGH, *PAIRS, *SHOWN)


def test_kto_learns_from_thumbs() -> None:
    taken = snapshot(unpaired=ENOUGH, pairs=PAIRS, demonstrations=SHOWN, objective="kto")

    assert taken.train.every == ENOUGH


def test_dpo_learns_from_pairs() -> None:
    taken = snapshot(unpaired=ENOUGH, pairs=PAIRS, demonstrations=SHOWN, objective="dpo")

    assert taken.train.every == PAIRS


def test_sft_learns_from_demonstrations_and_from_whole_replies_that_were_liked() -> None:
    liked, disliked, cut = rated(1), rated(2, False), rated(3, finished=False)

    taken = snapshot(
        unpaired=(liked, disliked, cut), pairs=PAIRS, demonstrations=SHOWN, objective="sft"
    )

    assert ids(taken.train.every) == ["t1", *ids(SHOWN)]
    assert not taken.train.unpaired


def test_what_an_objective_does_not_learn_from_is_still_measured() -> None:
    taken = snapshot(unpaired=(rated(1, held_out=True),), pairs=PAIRS, objective="dpo")

    assert ids(taken.held_out.unpaired) == ["t1"]


def test_an_unknown_objective_is_an_error() -> None:
    with pytest.raises(AssertionError, match="ppo"):
        snapshot(unpaired=ENOUGH, pairs=PAIRS, demonstrations=SHOWN, objective="ppo")


def test_dpo_without_a_pair_has_nothing_to_learn_from() -> None:
    with pytest.raises(NothingToLearn):
        snapshot(unpaired=thumbs(100), objective="dpo")


def test_imported_prompts_get_the_system_prompt() -> None:
    imported = tuple(
        replace(each, origin=origin(OriginKind.IMPORTED, number, imported=True))
        for number, each in enumerate(ENOUGH)
    )

    taken = snapshot(unpaired=imported, system_prompt=SYSTEM)

    assert taken.train.unpaired[0].prompt == asked("question 101", system=SYSTEM)


@pytest.mark.parametrize(
    "each",
    [rated(1), rated(1, imported=True, system="Be kind.")],
    ids=["a turn", "its own system prompt"],
)
def test_prompts_that_are_as_they_were_served_stay_so(each: Example) -> None:
    taken = snapshot(unpaired=(each, *ENOUGH), system_prompt=SYSTEM)

    assert taken.train.unpaired[0].prompt == each.prompt


def test_an_empty_system_prompt_is_not_put_before_anything() -> None:
    imported = rated(1, imported=True)

    taken = snapshot(unpaired=(imported, *ENOUGH), system_prompt="")

    assert taken.train.unpaired[0].prompt == imported.prompt


def test_the_newest_held_out_are_measured_and_the_others_not_trained_on_either() -> None:
    held_out = tuple(rated(number, held_out=True) for number in range(1000, 1000 + MAX_HELD_OUT))
    older = tuple(rated(number, held_out=True) for number in range(200, 300))
    copies = tuple(
        replace(each, origin=origin(OriginKind.RATED, number), held_out=False)
        for number, each in enumerate(older)
    )

    taken = snapshot(unpaired=(*ENOUGH, *older, *held_out, *copies))

    assert ids(taken.held_out.unpaired) == ids(held_out)
    assert ids(taken.train.every) == ids(ENOUGH)


def test_counts_are_those_of_what_was_taken() -> None:
    taken = snapshot(
        unpaired=(*ENOUGH, rated(200), rated(201, held_out=True)),
        pairs=(pair(1), pair(2), pair(3, held_out=True)),
        demonstrations=(demonstration(1),),
    )

    assert taken.counts == ExampleCounts(
        train=16, held_out=2, positive=7, negative=6, pairs=2, demonstrations=1
    )


def test_origins_name_what_was_taken() -> None:
    taken = snapshot(
        unpaired=(*ENOUGH, rated(201, held_out=True)),
        pairs=(pair(1),),
        demonstrations=(demonstration(1),),
    )

    names = {split: [name(each) for each in found] for split, found in taken.origins.items()}
    assert names == {Split.TRAIN: [*ids(ENOUGH), "c1", "d1"], Split.HELD_OUT: ["t201"]}


@given(st.integers(1, 500), st.integers(1, 500))
def test_weights_make_both_labels_count_alike_and_none_less_than_once(up: int, down: int) -> None:
    weights = label_weights(up, down)

    assert weights[True] * up == pytest.approx(weights[False] * down)
    assert min(weights.values()) == 1.0


@pytest.mark.parametrize(("up", "down"), [(5, 0), (0, 5), (0, 0)])
def test_a_label_alone_has_no_weight_of_its_own(up: int, down: int) -> None:
    assert label_weights(up, down) == {True: 1.0, False: 1.0}


def by(person: int, *examples: Example) -> tuple[Example, ...]:
    return tuple(replace(each, raters=(person,)) for each in examples)


def test_nobody_has_more_than_their_share_of_what_a_run_has_room_for() -> None:
    crowd = [
        each
        for person in range(1, 61)
        for each in by(person, *thumbs(20, first=100 * person + person % 2))
    ]
    flood = by(99, *thumbs(600, first=50_000))

    snapshot = take_snapshot(
        ExampleSet(unpaired=(*crowd, *flood)), recipe(max_examples=100), system_prompt=""
    )

    theirs = sum(each.raters == (99,) for each in snapshot.train.unpaired)
    assert theirs <= 0.1 * len(snapshot.train.unpaired)
    assert len(snapshot.train.unpaired) == 50, "the half that people may give nobody vouched for"


def test_nobody_has_more_than_their_share_of_what_is_measured_on() -> None:
    crowd = [
        replace(each, held_out=True)
        for person in range(1, 61)
        for each in by(person, *thumbs(10, first=1000 + 100 * person))
    ]
    flood = [replace(each, held_out=True) for each in by(99, *thumbs(400, first=50_000))]

    snapshot = take_snapshot(
        ExampleSet(unpaired=(*ENOUGH, *crowd, *flood)), recipe(), system_prompt=""
    )

    theirs = sum(each.raters == (99,) for each in snapshot.held_out.unpaired)
    assert 0 < theirs <= 0.1 * len(snapshot.held_out.unpaired)


def golden(question: str, turn_id: int | None = None) -> GoldenAnswer:
    return GoldenAnswer(turn_id=turn_id, prompt=asked(question), answer="as it must stay")


def test_no_answer_to_a_golden_question_is_trained_on() -> None:
    given = ExampleSet(
        unpaired=(*ENOUGH, rated(800, question="When do you OPEN? ", reply="at nine")),
        pairs=(pair(801, question="when do you  open?"),),
        demonstrations=(demonstration(802, question="when do you open?"), demonstration(803)),
    )

    snapshot = take_snapshot(
        given, recipe(), system_prompt="", golden=[golden("When do you open?")]
    )

    assert {each.prompt[-1].content for each in snapshot.train.every} == {
        *(each.prompt[-1].content for each in ENOUGH),
        "question 803",
    }


def test_the_turn_of_a_golden_answer_is_not_trained_on_whatever_was_masked_in_it() -> None:
    given = ExampleSet(
        unpaired=(*ENOUGH, rated(800, question="Is ada@example.org yours?")),
        pairs=(
            replace(
                pair(801, question="Is it?"),
                origin=Origin(kind=OriginKind.REGENERATED, turn_id=900, other_turn_id=800),
            ),
        ),
    )

    snapshot = take_snapshot(
        given, recipe(), system_prompt="", golden=[golden("Is [e-mail] yours?", 800)]
    )

    assert len(snapshot.train.every) == len(ENOUGH)


def test_a_golden_answer_may_still_be_measured_with() -> None:
    given = ExampleSet(unpaired=(*ENOUGH, rated(800, question="open?", held_out=True)))

    snapshot = take_snapshot(given, recipe(), system_prompt="", golden=[golden("open?")])

    assert len(snapshot.held_out.every) == 1


@pytest.mark.bad_input("500 identical ratings of one person")
def test_however_often_somebody_rates_the_same_they_have_one_vote() -> None:
    same = [rated(number, question="q", reply="r") for number in range(1, 30)]
    up = [replace(each, raters=(number,)) for number, each in enumerate(same[:3])]
    down = [replace(each, label=False, raters=(99,)) for each in same[3:]]

    snapshot = take_snapshot(ExampleSet(unpaired=(*ENOUGH, *up, *down)), recipe(), system_prompt="")

    [example] = [each for each in snapshot.train.unpaired if each.completion == "r"]
    assert (example.label, example.raters) == (True, (0, 1, 2))


def test_a_copy_is_the_word_of_all_who_gave_it() -> None:
    pairs = [replace(pair(n, question="q", chosen="a", rejected="b"), raters=(n,)) for n in (1, 2)]

    snapshot = take_snapshot(
        ExampleSet(unpaired=ENOUGH, pairs=tuple(pairs)), recipe(), system_prompt=""
    )

    assert [each.raters for each in snapshot.train.pairs] == [(1, 2)]
