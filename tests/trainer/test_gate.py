"""The gate passes a candidate on evidence, and never for lack of evidence."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from store.domain import Check, GateReport
from tests.trainer.examples import settings
from trainer.proving.drift import Drift
from trainer.proving.evaluation import Evaluation
from trainer.proving.gate import HeldOut, decide, went_too_far

NAN = math.nan

LABELS = (True, False) * 30
RATERS = tuple((number % 6,) for number in range(len(LABELS)))
HELD_OUT = HeldOut(labels=LABELS, raters=RATERS, pair_raters=())
ONLY_PAIRS = HeldOut(labels=(), raters=(), pair_raters=((),) * 40)

CALM = Drift(nll=2.0, repetition=0.02, degenerate=0.0, runaway=0.1, flips=0.0)
BASE = Evaluation(
    adapter=None,
    log_ratios=(0.0,) * len(LABELS),
    margins=(0.0,) * ONLY_PAIRS.pairs,
    predicted=(0.5,) * 10,
    predictor_auc=0.8,
    retention={f"check {number}": number < 80 for number in range(100)},
    kl=0.0,
    drift=CALM,
    sound=True,
)


def told(labels: tuple[bool, ...], *, gap: float, seed: int = 0) -> tuple[float, ...]:
    """Return log-ratios that tell 👍 from 👎 by `gap`, with noise of size 1."""
    noise = np.random.default_rng(seed).normal(size=len(labels))
    return tuple(float(each) for each in noise + gap * np.array(labels))


ACTIVE = replace(
    BASE,
    adapter="a1-11111111",
    log_ratios=told(LABELS, gap=1.0),
    margins=told((True,) * ONLY_PAIRS.pairs, gap=0.8),
)
GOOD = replace(
    BASE,
    adapter="a2-22222222",
    log_ratios=told(LABELS, gap=3.0),
    margins=told((True,) * ONLY_PAIRS.pairs, gap=3.0),
    predicted=(0.7,) * 10,
    kl=0.1,
)


def judged(
    candidate: Evaluation = GOOD,
    *,
    active: Evaluation = ACTIVE,
    base: Evaluation = BASE,
    held_out: HeldOut = HELD_OUT,
    **limits: object,
) -> GateReport:
    return decide(settings(**limits).gate, held_out, candidate=candidate, active=active, base=base)


def check(report: GateReport, name: str) -> Check:
    return next(each for each in report.checks if each.name == name)


def failed(report: GateReport) -> list[str]:
    return [each.name for each in report.checks if not each.passed]


def passing(rate: float) -> dict[str, bool]:
    return {f"check {number}": number < rate * 100 for number in range(100)}


def test_a_candidate_that_is_better_and_has_kept_what_it_could_passes() -> None:
    report = judged()

    assert report.passed
    assert failed(report) == []


def test_the_first_candidate_is_compared_with_the_base() -> None:
    report = judged(active=BASE)

    assert report.passed
    assert check(report, "preference gain").value == pytest.approx(
        (check(report, "preference").value or 0) - 0.5, abs=0.001
    )


def test_the_base_as_the_active_version_is_compared_once() -> None:
    names = [each.name for each in judged(active=BASE).checks]

    assert "retention lost to base" in names
    assert "retention lost to active" not in names


def test_every_check_says_what_was_measured_what_is_allowed_and_whether_it_will_do() -> None:
    for report in (judged(), judged(replace(GOOD, kl=9.0, retention=passing(0.1)))):
        for each in report.checks:
            assert each.value is not None
            assert math.isfinite(each.value)
            assert any(sign in each.limit for sign in "≤≥>=")
            assert isinstance(each.passed, bool)
            assert each.detail


def test_every_check_has_a_name_of_its_own() -> None:
    names = [each.name for each in judged().checks]

    assert len(set(names)) == len(names)


def test_the_same_evaluations_give_the_same_report() -> None:
    assert judged() == judged()
    assert judged(held_out=ONLY_PAIRS) == judged(held_out=ONLY_PAIRS)


def test_a_candidate_that_learned_flipped_labels_does_not_pass() -> None:
    flipped = replace(GOOD, log_ratios=tuple(-each for each in GOOD.log_ratios))

    report = judged(flipped)

    assert failed(report) == ["preference", "preference gain", "without a few people"]


@pytest.mark.parametrize("seed", range(8))
def test_noise_does_not_pass(seed: int) -> None:
    noise = replace(GOOD, log_ratios=told(LABELS, gap=0.0, seed=seed))

    assert "preference" in failed(judged(noise, active=BASE))


def test_a_candidate_that_changed_nothing_does_not_pass() -> None:
    report = judged(replace(GOOD, log_ratios=BASE.log_ratios), active=BASE)

    assert failed(report) == ["preference", "without a few people"]


def test_a_candidate_that_tells_them_apart_worse_than_the_active_version_does_not_pass() -> None:
    report = judged(replace(GOOD, log_ratios=ACTIVE.log_ratios), active=GOOD)

    assert failed(report) == ["preference gain"]


def test_a_candidate_as_good_as_the_active_version_passes_unless_more_is_asked() -> None:
    assert judged(active=GOOD).passed
    more = judged(active=GOOD, gate_preference_gain=0.05)
    assert failed(more) == ["preference gain", "fresh replies"]


def test_a_few_lucky_ratings_do_not_pass() -> None:
    labels = (True, False) * 10
    candidate = replace(GOOD, log_ratios=told(labels, gap=0.5))
    active = replace(BASE, log_ratios=(0.0,) * len(labels))

    report = judged(
        candidate,
        active=active,
        held_out=HeldOut(labels=labels, raters=((),) * len(labels), pair_raters=()),
    )

    assert (check(report, "preference").value or 0) > 0.5
    assert failed(report) == ["preference"]


@pytest.mark.parametrize(
    "labels",
    [(), (True, False), (True, False) * 9, (True,) * 40, (False,) * 40, (True,) * 40 + (False,)],
    ids=["none", "two", "eighteen", "only up", "only down", "one down"],
)
def test_too_few_held_out_ratings_are_said_and_are_no_pass(labels: tuple[bool, ...]) -> None:
    candidate = replace(GOOD, log_ratios=told(labels, gap=3.0))
    active = replace(BASE, log_ratios=(0.0,) * len(labels))

    report = judged(
        candidate,
        active=active,
        held_out=HeldOut(labels=labels, raters=((),) * len(labels), pair_raters=((),) * 3),
    )

    assert failed(report) == ["preference"]
    preference = check(report, "preference")
    assert preference.value is None
    assert preference.limit == "≥ 20 held-out ratings"
    assert f"only {sum(labels)} 👍, {len(labels) - sum(labels)} 👎 and 3 pairs" in preference.detail


def test_how_many_are_too_few_is_a_setting() -> None:
    labels = LABELS[:8]
    candidate = replace(GOOD, log_ratios=told(labels, gap=9.0))
    active = replace(BASE, log_ratios=(0.0,) * len(labels))
    held_out = HeldOut(labels=labels, raters=((),) * len(labels), pair_raters=())

    assert not judged(candidate, active=active, held_out=held_out).passed
    assert judged(candidate, active=active, held_out=held_out, gate_min_ratings=8).passed


def test_pairs_alone_can_prove_a_candidate() -> None:
    report = judged(held_out=ONLY_PAIRS)

    assert report.passed
    assert "40 held-out pairs" in check(report, "preference").detail


def test_pairs_told_wrong_do_not_pass() -> None:
    wrong = replace(GOOD, margins=tuple(-each for each in GOOD.margins))

    assert failed(judged(wrong, held_out=ONLY_PAIRS)) == ["preference", "preference gain"]


def test_pairs_told_by_chance_do_not_pass() -> None:
    chance = replace(GOOD, margins=told((False,) * ONLY_PAIRS.pairs, gap=0.0))

    assert "preference" in failed(judged(chance, active=BASE, held_out=ONLY_PAIRS))


def test_pairs_without_a_difference_do_not_pass() -> None:
    report = judged(replace(GOOD, margins=BASE.margins), active=BASE, held_out=ONLY_PAIRS)

    assert "preference" in failed(report)


@pytest.mark.parametrize("other", ["base", "active"])
def test_retention_that_is_lost_to_either_does_not_pass(other: str) -> None:
    better = replace(BASE if other == "base" else ACTIVE, retention=passing(0.9))

    report = judged(**{other: better})  # type: ignore[arg-type]

    assert failed(report) == [f"retention lost to {other}"]
    assert check(report, f"retention lost to {other}").value == pytest.approx(0.1)


def test_the_kinds_of_checks_that_were_lost_are_named() -> None:
    base = replace(BASE, retention={"fact-1": True, "refusal-1": True, "refusal-2": True})
    candidate = replace(GOOD, retention={"fact-1": True, "refusal-1": False, "refusal-2": True})

    lost = check(judged(candidate, active=base, base=base), "retention lost to base")

    assert lost.detail == "passes 66.7%, base 100.0% of 3; refusal 2 → 1"


def test_retention_may_drop_by_as_much_as_the_setting_says() -> None:
    candidate = replace(GOOD, retention=passing(0.77))

    assert judged(candidate).passed
    assert not judged(candidate, gate_retention_drop=0.02).passed


def test_retention_that_rises_passes() -> None:
    assert judged(replace(GOOD, retention=passing(1.0))).passed


DRIFTS = {
    "NLL rise": replace(CALM, nll=2.5),
    "repetition rise": replace(CALM, repetition=0.3),
    "degenerate rise": replace(CALM, degenerate=0.2),
    "runaway rise": replace(CALM, runaway=0.5),
    "language flips rise": replace(CALM, flips=0.2),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_replies_that_degenerate_do_not_pass(name: str) -> None:
    assert failed(judged(replace(GOOD, drift=DRIFTS[name]))) == [name]


@pytest.mark.parametrize("name", DRIFTS)
def test_what_the_base_does_as_much_is_no_rise(name: str) -> None:
    base = replace(BASE, drift=DRIFTS[name])

    assert judged(replace(GOOD, drift=DRIFTS[name]), base=base).passed


@pytest.mark.parametrize("name", DRIFTS)
def test_what_gets_better_passes(name: str) -> None:
    assert judged(base=replace(BASE, drift=DRIFTS[name])).passed


def test_a_candidate_that_went_far_from_the_base_does_not_pass() -> None:
    assert failed(judged(replace(GOOD, kl=0.6))) == ["drift"]
    assert judged(replace(GOOD, kl=0.5)).passed


def test_fresh_replies_that_are_guessed_to_be_liked_less_do_not_pass() -> None:
    report = judged(replace(GOOD, predicted=(0.3,) * 10))

    assert failed(report) == ["fresh replies"]
    assert check(report, "fresh replies").value == pytest.approx(-0.2)


def test_a_predictor_that_cannot_tell_is_not_asked() -> None:
    report = judged(replace(GOOD, predicted=(0.3,) * 10, predictor_auc=0.55))

    assert report.passed
    assert "not asked" in check(report, "fresh replies").detail


@pytest.mark.parametrize(
    "changes", [{"predictor_auc": None}, {"predicted": ()}], ids=["no measure", "no guesses"]
)
def test_a_predictor_that_is_not_there_is_not_asked(changes: dict[str, object]) -> None:
    report = judged(replace(GOOD, **changes))  # type: ignore[arg-type]

    assert report.passed
    assert check(report, "fresh replies").value is None
    assert "not asked" in check(report, "fresh replies").detail


def test_of_an_unsound_candidate_only_that_is_said() -> None:
    unsound = replace(GOOD, sound=False, detail="the weights of lora_A are not finite")

    report = judged(unsound)

    assert not report.passed
    assert [each.name for each in report.checks] == ["integrity"]
    assert report.checks[0].detail == "the weights of lora_A are not finite"


def test_an_unsound_candidate_without_any_measure_does_not_make_the_gate_fall() -> None:
    nothing = replace(
        GOOD, log_ratios=(), margins=(), predicted=(), retention={}, kl=NAN, sound=False
    )

    assert not judged(nothing).passed


def with_a_gap(values: tuple[float, ...], hole: float = NAN) -> tuple[float, ...]:
    return (*values[:-1], hole)


UNMEASURED = [
    pytest.param({"log_ratios": with_a_gap(GOOD.log_ratios)}, HELD_OUT, id="log-ratio"),
    pytest.param(
        {"log_ratios": with_a_gap(GOOD.log_ratios, math.inf)}, HELD_OUT, id="infinite log-ratio"
    ),
    pytest.param({"margins": with_a_gap(GOOD.margins)}, ONLY_PAIRS, id="margin"),
    pytest.param({"predicted": with_a_gap(GOOD.predicted)}, HELD_OUT, id="guess"),
    pytest.param({"predictor_auc": NAN}, HELD_OUT, id="predictor"),
    pytest.param({"kl": NAN}, HELD_OUT, id="kl"),
    pytest.param({"kl": -math.inf}, HELD_OUT, id="infinite kl"),
    *(
        pytest.param({"drift": replace(CALM, **{name: NAN})}, HELD_OUT, id=name)
        for name in asdict(CALM)
    ),
]


@pytest.mark.parametrize(("changes", "held_out"), UNMEASURED)
def test_what_could_not_be_measured_of_the_candidate_is_no_pass(
    changes: dict[str, object], held_out: HeldOut
) -> None:
    assert not judged(replace(GOOD, **changes), held_out=held_out).passed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "held_out"),
    [
        pytest.param({"log_ratios": with_a_gap(ACTIVE.log_ratios)}, HELD_OUT, id="log-ratio"),
        pytest.param({"margins": with_a_gap(ACTIVE.margins)}, ONLY_PAIRS, id="margin"),
        pytest.param({"predicted": with_a_gap(ACTIVE.predicted)}, HELD_OUT, id="guess"),
    ],
)
def test_what_could_not_be_measured_of_the_active_version_is_no_pass(
    changes: dict[str, object], held_out: HeldOut
) -> None:
    active = replace(ACTIVE, **changes)  # type: ignore[arg-type]

    assert not judged(active=active, held_out=held_out).passed


@pytest.mark.parametrize("name", list(asdict(CALM)))
def test_what_could_not_be_measured_of_the_base_is_no_pass(name: str) -> None:
    assert not judged(base=replace(BASE, drift=replace(CALM, **{name: NAN}))).passed


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        pytest.param({"kl": NAN}, "drift"),
        pytest.param({"drift": replace(CALM, nll=NAN)}, "NLL rise"),
        pytest.param({"log_ratios": with_a_gap(GOOD.log_ratios)}, "preference"),
        pytest.param({"log_ratios": with_a_gap(GOOD.log_ratios)}, "preference gain"),
        pytest.param({"predicted": with_a_gap(GOOD.predicted)}, "fresh replies"),
    ],
)
def test_what_could_not_be_measured_has_no_value(changes: dict[str, object], name: str) -> None:
    report = judged(replace(GOOD, **changes))  # type: ignore[arg-type]

    assert check(report, name).value is None
    json.dumps([asdict(each) for each in report.checks], allow_nan=False)


def test_the_limits_that_are_said_are_those_of_the_settings() -> None:
    limits: dict[str, Any] = {
        "gate_preference": 0.61,
        "gate_preference_gain": 0.011,
        "gate_retention_drop": 0.021,
        "gate_drift_kl": 0.31,
        "gate_nll_rise": 0.41,
    }

    said = " ".join(each.limit for each in judged(**limits).checks)

    assert [limit for limit in limits.values() if str(limit) not in said] == []


def test_one_factor_widens_the_limits_of_degeneration() -> None:
    def limits(factor: float) -> list[str]:
        report = judged(gate_degeneration_factor=factor)
        names = ("repetition rise", "degenerate rise", "runaway rise", "language flips rise")
        return [check(report, name).limit for name in names]

    assert limits(1.0) == ["≤ 0.05", "≤ 0.05", "≤ 0.2", "≤ 0.05"]
    assert limits(3.0) == ["≤ 0.15", "≤ 0.15", "≤ 0.6", "≤ 0.15"]


def test_fresh_replies_have_to_gain_as_much_as_preference() -> None:
    candidate = replace(GOOD, predicted=(0.55,) * 10)

    assert judged(candidate).passed
    assert failed(judged(candidate, gate_preference_gain=0.06)) == ["fresh replies"]


def test_limits_set_wide_open_let_a_bad_candidate_through() -> None:
    bad = replace(GOOD, retention=passing(0.2), kl=5.0, drift=replace(CALM, nll=9.0, runaway=1.0))
    wide: dict[str, Any] = {
        "gate_retention_drop": 1.0,
        "gate_drift_kl": 100.0,
        "gate_nll_rise": 100.0,
        "gate_degeneration_factor": 5.0,
    }

    assert not judged(bad).passed
    assert judged(bad, **wide).passed


def swayed_by(raters: tuple[tuple[int, ...], ...]) -> GateReport:
    """Return the report on a version that tells only person 0's ratings apart."""
    scores = tuple(
        score if 0 in who else 0.0 for score, who in zip(told(LABELS, gap=5.0), raters, strict=True)
    )
    return judged(
        replace(GOOD, log_ratios=scores), active=BASE, held_out=replace(HELD_OUT, raters=raters)
    )


def test_what_only_one_person_likes_does_not_pass() -> None:
    report = swayed_by(tuple((number // 30,) for number in range(len(LABELS))))

    assert failed(report) == ["without a few people"]
    assert check(report, "without a few people").value == 0.5
    assert not went_too_far(report)


def test_whoever_rated_everything_cannot_be_left_out() -> None:
    report = swayed_by(((0,),) * len(LABELS))

    assert report.passed
    assert check(report, "without a few people").value is None
    assert check(report, "without a few people").detail.startswith("not asked")


def test_too_few_others_prove_nothing_against_one() -> None:
    assert swayed_by(tuple((int(number < 4),) for number in range(len(LABELS)))).passed


def test_others_of_whom_hardly_any_said_no_prove_nothing_against_one() -> None:
    labels = (True,) * 30 + (False,) * 11 + (True,) * 4 + (False,)
    raters = ((1,),) * 30 + ((2,),) * 11 + ((3,),) * 5
    scores = (*(2.0 * label for label in labels[:-1]), 1.0)
    held_out = HeldOut(labels=labels, raters=raters, pair_raters=())
    base = replace(BASE, log_ratios=(0.0,) * len(labels))

    report = judged(replace(GOOD, log_ratios=scores), active=base, held_out=held_out)

    assert check(report, "without a few people").passed


def swayed_by_few(*, people: int, few: int, groups: tuple[frozenset[int], ...] = ()) -> Check:
    """Return the check of a version that tells only the ratings of a few people apart."""
    count = 24 * people
    labels = tuple(number % 2 == 0 for number in range(count))
    raters = tuple((number // 2 % people,) for number in range(count))
    scores = tuple(
        2.0 * label if who[0] < few else 0.0 for label, who in zip(labels, raters, strict=True)
    )
    held_out = HeldOut(labels=labels, raters=raters, pair_raters=(), groups=groups)
    base = replace(BASE, log_ratios=(0.0,) * count)
    report = judged(replace(GOOD, log_ratios=scores), active=base, held_out=held_out)
    return check(report, "without a few people")


@pytest.mark.parametrize(("people", "few"), [(20, 2), (30, 3), (40, 4)])
def test_what_only_a_tenth_of_the_people_like_does_not_pass(people: int, few: int) -> None:
    found = swayed_by_few(people=people, few=few)

    assert (found.value, found.passed) == (0.5, False)
    assert f"without the {few} of {people} people" in found.detail


def test_people_who_rate_together_are_left_out_together() -> None:
    assert swayed_by_few(people=10, few=3).passed
    assert not swayed_by_few(people=10, few=3, groups=(frozenset({0, 1, 2}),)).passed


def test_a_group_of_everybody_leaves_nobody_to_ask() -> None:
    groups = (frozenset(range(10)),)

    assert not swayed_by_few(people=10, few=1, groups=groups).passed
    assert swayed_by_few(people=10, few=10, groups=groups).passed


@pytest.mark.parametrize(("lost", "passed"), [(0.02, True), (0.1, True), (0.11, False)])
def test_golden_answers_may_become_hardly_less_likely(lost: float, passed: bool) -> None:
    candidate = replace(GOOD, golden=(0.3 - 2 * lost, 0.3))
    active = replace(BASE, golden=(0.3, 0.3))

    found = check(judged(candidate, active=active), "golden answers lost")

    assert (found.value, found.passed) == (lost, passed)


def test_without_golden_answers_nothing_is_said_of_them() -> None:
    assert "golden answers lost" not in {each.name for each in judged(GOOD).checks}


def test_whoever_runs_the_bot_needs_nobody_elses_word() -> None:
    raters = tuple((number // 30,) for number in range(len(LABELS)))
    scores = tuple(
        score if 0 in who else 0.0 for score, who in zip(told(LABELS, gap=5.0), raters, strict=True)
    )
    held_out = replace(HELD_OUT, raters=raters, trusted=frozenset({0}))

    report = judged(replace(GOOD, log_ratios=scores), active=BASE, held_out=held_out)

    assert report.passed


def test_pairs_that_only_one_person_gave_reason_for_do_not_pass() -> None:
    raters = tuple((number // 20,) for number in range(40))
    margins = (1.0,) * 20 + (-1.0,) * 8 + (1.0,) * 8 + (-1.0,) * 4
    held_out = HeldOut(labels=(), raters=(), pair_raters=raters)

    report = judged(replace(GOOD, margins=margins), active=BASE, held_out=held_out)

    assert failed(report) == ["without a few people"]


def test_what_is_liked_and_forgot_too_much_went_too_far() -> None:
    assert went_too_far(judged(replace(GOOD, retention=passing(0.7))))
    assert went_too_far(judged(replace(GOOD, drift=replace(CALM, nll=2.9))))


@pytest.mark.parametrize(
    "candidate",
    [
        GOOD,
        replace(GOOD, sound=False),
        replace(GOOD, retention=passing(0.7), log_ratios=told(LABELS, gap=0.0)),
        replace(GOOD, retention=passing(0.7), predicted=(0.1,) * 10),
    ],
    ids=["passed", "broken", "learned nothing", "liked less"],
)
def test_what_passed_or_is_not_liked_did_not_go_too_far(candidate: Evaluation) -> None:
    assert not went_too_far(judged(candidate))
