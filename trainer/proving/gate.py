"""The gate: compares evaluations of candidate, active version and base, and reports every reason.

Pure. A candidate passes if it passes every check. A value that could not be measured fails its
check, except where the check's detail says "not asked".
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from store.domain import Check, GateReport
from store.settings_slices import GateSettings
from trainer.proving.evaluation import Evaluation
from trainer.proving.predictor import MIN_AUC

RESAMPLES = 10_000
"""Bootstrap resamples: enough for a bound that is right to about 0.002, whatever the seed."""

RESAMPLES_AT_ONCE = 100
"""Resamples that are held in memory together."""

CONFIDENCE = 0.9
"""Coverage of the two-sided interval. Only its lower bound decides, so chance passes once in 20."""

SEED = 0

LEFT_OUT_SHARE = 0.1
"""Share of the people without whom a candidate must still tell 👍 from 👎; at least one."""

REPETITION_RISE = 0.05
"""Largest rise of the share of repeated 4-grams in fresh replies over the base's."""

DEGENERATE_RISE = 0.05
"""Largest rise of the share of empty or garbled replies."""

RUNAWAY_RISE = 0.2
"""Largest rise of the share of replies that are cut at the token limit."""

LANGUAGE_FLIPS_RISE = 0.05
"""Largest rise of the share of replies in another language than the question."""

_UNRELATED_TO_SIZE = (
    "integrity",
    "preference",
    "preference gain",
    "without a few people",
    "fresh replies",
)
"""Checks that a smaller update would not pass more easily; the others measure what was lost."""

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out ratings and pairs, in the order of the evaluations."""

    labels: tuple[bool, ...]
    """Ratings: True for 👍."""
    raters: tuple[tuple[int, ...], ...]
    """Ratings: the people who gave each."""
    pair_raters: tuple[tuple[int, ...], ...]
    """Pairs: the people who gave each."""
    trusted: frozenset[int] = frozenset()
    """Admins, whose ratings count without anybody else's."""
    groups: tuple[frozenset[int], ...] = ()
    """People who rate together."""

    @property
    def pairs(self) -> int:
        """Number of held-out pairs."""
        return len(self.pair_raters)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its bootstrap interval (percentiles; Efron 1979)."""

    value: float
    low: float
    high: float


def decide(
    limits: GateSettings,
    held_out: HeldOut,
    *,
    candidate: Evaluation,
    active: Evaluation,
    base: Evaluation,
) -> GateReport:
    """Return the gate's report on the candidate. `active` is the base if no adapter is active."""
    if not candidate.sound:  # nothing else could be measured
        return GateReport(checks=(_integrity(candidate),))
    return GateReport(
        checks=(
            _integrity(candidate),
            *_preference(limits, held_out, candidate, active),
            *_without_few_people(limits, held_out, candidate),
            *_golden_answers(limits, candidate, active),
            _fresh_replies(limits, candidate, active),
            *_retention(limits, candidate, active, base),
            _at_most("drift", candidate.kl, limits.drift_kl, "nats a token to the base"),
            *_reply_quality(limits, candidate, base),
        )
    )


def went_too_far(report: GateReport) -> bool:
    """Return whether a candidate failed only checks that a smaller update might pass."""
    failed = {check.name for check in report.checks if not check.passed}
    return bool(failed) and failed.isdisjoint(_UNRELATED_TO_SIZE)


def _integrity(candidate: Evaluation) -> Check:
    return Check(
        name="integrity",
        value=float(candidate.sound),
        limit="= 1",
        passed=candidate.sound,
        detail=candidate.detail or "hash, finite weights, loads, smoke prompt",
    )


def _preference(
    limits: GateSettings, held_out: HeldOut, candidate: Evaluation, active: Evaluation
) -> tuple[Check, ...]:
    """Check that log-ratios to the base tell 👍 from 👎, at least as well as the active version's.

    Uses held-out ratings, or pairs where there are too few ratings.
    """
    least = limits.min_ratings
    up = sum(held_out.labels)
    down = len(held_out.labels) - up
    if len(held_out.labels) >= least and min(up, down) >= least // 4:
        labels = np.array(held_out.labels)
        found = _auc_interval(labels, np.array(candidate.log_ratios))
        gain = found.value - _auc(labels, np.array(active.log_ratios))
        what = f"AUC over {up} 👍 and {down} 👎 held out"
    elif held_out.pairs >= least:
        found = _win_rate_interval(np.array(candidate.margins))
        gain = found.value - float(np.mean(_wins(active.margins)))
        what = f"right of {held_out.pairs} held-out pairs"
    else:
        return (
            Check(
                name="preference",
                value=None,
                limit=f"≥ {least} held-out ratings",
                passed=False,
                detail=f"only {up} 👍, {down} 👎 and {held_out.pairs} pairs are held out: "
                "too few to tell",
            ),
        )
    return (
        Check(
            name="preference",
            value=_shown(found.value),
            limit=f"lower bound > {limits.preference}",
            passed=found.low > limits.preference,
            detail=f"{what}; {CONFIDENCE:.0%} interval {found.low:.2f} to {found.high:.2f}",
        ),
        _at_least("preference gain", gain, limits.preference_gain, "against the active version"),
    )


def _without_few_people(
    limits: GateSettings, held_out: HeldOut, candidate: Evaluation
) -> tuple[Check, ...]:
    """Check that the candidate tells 👍 from 👎 without the few people who favour it most.

    Leaves out, one after another, those whose ratings favour it most, a tenth of all; people who
    rate together go together. Trusted people stay, and so many ratings that they can tell.
    """
    name, limit = "without a few people", f"> {limits.preference}"
    least = limits.min_ratings
    if len(held_out.labels) >= least:
        raters, labels = held_out.raters, np.array(held_out.labels, dtype=bool)
        scores, enough = np.array(candidate.log_ratios), least // 4
    elif held_out.pairs >= least:
        raters, labels = held_out.pair_raters, np.array([True] * held_out.pairs)
        scores, enough = np.array(_wins(candidate.margins)), 0
    else:
        return ()  # the preference check reports that there is too little

    def score(left: NDArray[np.bool_]) -> float:
        return _auc(labels[left], scores[left]) if enough else float(scores[left].mean())

    def can_tell(left: NDArray[np.bool_]) -> bool:
        up = int(labels[left].sum())
        return bool(left.sum() >= least and min(up, int(left.sum()) - up) >= enough)

    people = {rater for each in raters for rater in each} - held_out.trusted
    units = {frozenset({person}) for person in people}
    units |= {together for group in held_out.groups if (together := group & people)}
    given = {unit: np.array([not unit.isdisjoint(each) for each in raters]) for unit in units}
    left, worst, gone = np.ones(len(raters), dtype=bool), math.nan, frozenset[int]()
    for _ in range(math.ceil(len(people) * LEFT_OUT_SHARE)):
        rests = {unit: left & ~theirs for unit, theirs in given.items() if not unit <= gone}
        found = [(score(rest), sorted(unit)) for unit, rest in rests.items() if can_tell(rest)]
        if not found:
            break
        worst, unit = min(found)
        gone |= frozenset(unit)
        left = left & ~given[frozenset(unit)]
    if not gone:
        detail = "not asked: without any one person, too few ratings are left to tell"
        return (Check(name=name, value=None, limit=limit, passed=True, detail=detail),)
    return (
        Check(
            name=name,
            value=_shown(worst),
            limit=limit,
            passed=worst > limits.preference,
            detail=f"as preference, without the {len(gone)} of {len(people)} people whose held-out "
            "ratings speak for it most",
        ),
    )


def _golden_answers(
    limits: GateSettings, candidate: Evaluation, active: Evaluation
) -> tuple[Check, ...]:
    """Check that golden answers are hardly less likely than from the active version."""
    if not candidate.golden:
        return ()
    changes = np.array(candidate.golden) - np.array(active.golden)
    return (
        _at_most(
            "golden answers lost",
            -float(changes.mean()),
            limits.golden_drop,
            f"nats a token, mean of {len(changes)}; the worst {-float(changes.min()):.2f}",
        ),
    )


def _fresh_replies(limits: GateSettings, candidate: Evaluation, active: Evaluation) -> Check:
    """Check that the predictor likes its fresh replies at least as well as the active version's."""
    name, least = "fresh replies", limits.preference_gain
    limit = f"≥ {least:+.2f}"
    auc = candidate.predictor_auc
    if auc is None or not candidate.predicted or not active.predicted:
        return Check(
            name=name, value=None, limit=limit, passed=True, detail="not asked: no predictor"
        )
    gain = float(np.mean(candidate.predicted) - np.mean(active.predicted))
    if auc < MIN_AUC:
        return Check(
            name=name,
            value=_shown(gain),
            limit=limit,
            passed=True,
            detail=f"not asked: the predictor cannot tell (AUC {auc:.2f})",
        )
    return Check(
        name=name,
        value=_shown(gain),
        limit=limit,
        passed=bool(gain >= least and np.isfinite(auc)),
        detail=f"predicted share of 👍 {np.mean(candidate.predicted):.0%} against "
        f"{np.mean(active.predicted):.0%} (predictor's AUC {auc:.2f})",
    )


def _retention(
    limits: GateSettings, candidate: Evaluation, active: Evaluation, base: Evaluation
) -> tuple[Check, ...]:
    """Check that little is forgotten of what the base and the active version can do."""
    checks = []
    for name, other in (("base", base), ("active", active)):
        if name == "active" and other.adapter is None:
            continue
        drop = other.retention_rate - candidate.retention_rate
        checks.append(
            _at_most(
                f"retention lost to {name}",
                drop,
                limits.retention_drop,
                f"passes {candidate.retention_rate:.1%}, {name} {other.retention_rate:.1%} "
                f"of {len(candidate.retention)}{_worse_at(candidate, other)}",
            )
        )
    return tuple(checks)


def _worse_at(candidate: Evaluation, other: Evaluation) -> str:
    """Name the kinds of checks of which fewer are passed; an id is a kind and a number."""
    passed = Counter(id.rsplit("-", 1)[0] for id, fine in candidate.retention.items() if fine)
    before = Counter(id.rsplit("-", 1)[0] for id, fine in other.retention.items() if fine)
    lost = [f"{kind} {before[kind]} → {passed[kind]}" for kind in before - passed]
    return f"; {', '.join(lost)}" if lost else ""


def _reply_quality(
    limits: GateSettings, candidate: Evaluation, base: Evaluation
) -> tuple[Check, ...]:
    """Check that faults of fresh replies are hardly more frequent than in the base's."""
    new, old, factor = candidate.drift, base.drift, limits.degeneration_factor
    return tuple(
        _at_most(f"{name} rise", value - before, limit, f"{value:.2f}, base {before:.2f}")
        for name, value, before, limit in (
            ("NLL", new.nll, old.nll, limits.nll_rise),
            ("repetition", new.repetition, old.repetition, REPETITION_RISE * factor),
            ("degenerate", new.degenerate, old.degenerate, DEGENERATE_RISE * factor),
            ("runaway", new.runaway, old.runaway, RUNAWAY_RISE * factor),
            ("language flips", new.flips, old.flips, LANGUAGE_FLIPS_RISE * factor),
        )
    )


def _at_most(name: str, value: float, limit: float, detail: str) -> Check:
    fine = bool(np.isfinite(value)) and value <= limit + 1e-9
    return Check(
        name=name, value=_shown(value), limit=f"≤ {round(limit, 6)}", passed=fine, detail=detail
    )


def _at_least(name: str, value: float, limit: float, detail: str) -> Check:
    fine = bool(np.isfinite(value)) and value >= limit - 1e-9
    return Check(name=name, value=_shown(value), limit=f"≥ {limit}", passed=fine, detail=detail)


def _shown(value: float) -> float | None:
    """Round a value for the report; None if it could not be measured."""
    return round(float(value), 3) if np.isfinite(value) else None


def _wins(margins: Sequence[float]) -> list[float]:
    """Return 1 for a pair that is told right, ½ for a margin of 0 (as the base's are), else 0."""
    return [float(np.sign(margin)) / 2 + 0.5 for margin in margins]


def _auc(labels: NDArray[np.bool_], scores: Values) -> float:
    return float(roc_auc_score(labels, scores)) if np.isfinite(scores).all() else math.nan


def _auc_interval(labels: NDArray[np.bool_], scores: Values) -> Interval:
    """Resample within each label, so that every resample has both."""
    return _bootstrapped(_auc(labels, scores), _win_share, scores[labels], scores[~labels])


def _win_share(up: Values, down: Values, axis: int = -1) -> Values:
    """Return the AUC as the share of (👍, 👎) that are in the right order; ties count half."""
    wins = np.sign(up[..., :, None] - down[..., None, :]) / 2 + 0.5
    return np.asarray(wins.mean(axis=(axis - 1, axis)))


def _win_rate_interval(margins: Values) -> Interval:
    """Return the share of pairs that are told right."""
    right = (margins > 0).astype(np.float64)
    value = float(right.mean()) if np.isfinite(margins).all() else math.nan
    return _bootstrapped(value, np.mean, right)


def _bootstrapped(value: float, statistic: Callable[..., Any], *samples: Values) -> Interval:
    if not math.isfinite(value):
        return Interval(value=value, low=value, high=value)
    # SciPy refuses a sample of one observation; twice the same one resamples to itself, too.
    usable = [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples]
    interval = bootstrap(
        usable,
        statistic,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=SEED,
    ).confidence_interval
    return Interval(value=value, low=float(interval.low), high=float(interval.high))
