"""The gate: evaluations of candidate, active version and base → a report with every reason.

Pure. A candidate passes if every check does; what could not be measured is no pass, except where
a check says that it was not asked.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from store.domain import Check, GateReport
from store.settings_slices import GateSettings
from trainer.proving.evaluation import Evaluation
from trainer.proving.predictor import LEAST_AUC

RESAMPLES = 1000
CONFIDENCE = 0.9
"""Of the interval: its lower bound alone decides, so that chance passes one time in twenty."""

SEED = 0

REPETITION_RISE = 0.05
"""Rise of the share of repeated 4-grams in sampled replies over the base's, at most."""

DEGENERATE_RISE = 0.05
"""Rise of the share of empty or garbled replies, at most."""

RUNAWAY_RISE = 0.2
"""Rise of the share of replies that do not end, at most."""

LANGUAGE_FLIPS_RISE = 0.05
"""Rise of the share of replies in another script or language, at most."""

_WANTED = ("integrity", "preference", "preference gain", "without one person", "fresh replies")
"""Checks that a smaller update would pass no more easily; the others are about what was lost."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What people said of the held-out replies, in the order of the evaluations."""

    labels: tuple[bool, ...]
    """Of rated replies: was it 👍?"""
    raters: tuple[tuple[int, ...], ...]
    """Of rated replies: whose word that is."""
    pair_raters: tuple[tuple[int, ...], ...]
    """Of pairs: whose word that is."""
    trusted: frozenset[int] = frozenset()
    """Admins, whose word needs nobody else's."""

    @property
    def pairs(self) -> int:
        """How many there are."""
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
    """Whether the candidate may go live, and why. `active` is the base if no adapter is active."""
    if not candidate.sound:  # nothing of it could be measured
        return GateReport(checks=(_integrity(candidate),))
    return GateReport(
        checks=(
            _integrity(candidate),
            *_preference(limits, held_out, candidate, active),
            *_without_one(limits, held_out, candidate),
            _on_policy(limits, candidate, active),
            *_retention(limits, candidate, active, base),
            _at_most("drift", candidate.kl, limits.drift_kl, "nats a token to the base"),
            *_degeneration(limits, candidate, base),
        )
    )


def went_too_far(report: GateReport) -> bool:
    """Whether a candidate is liked, and only drifted further than it may: less of it may do."""
    failed = {check.name for check in report.checks if not check.passed}
    return bool(failed) and failed.isdisjoint(_WANTED)


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
    """Does the log-ratio to the base tell what people liked, and better than the active one's?"""
    least = limits.min_ratings
    up = sum(held_out.labels)
    down = len(held_out.labels) - up
    if len(held_out.labels) >= least and min(up, down) >= least // 4:
        labels = np.array(held_out.labels)
        ours = np.array(candidate.log_ratios)
        theirs = np.array(active.log_ratios)
        found = _bootstrap_auc(labels, ours)
        gain = found.value - _auc(labels, theirs)
        what = f"AUC over {up} 👍 and {down} 👎 held out"
    elif held_out.pairs >= least:
        found = _bootstrap_mean(np.array(candidate.margins))
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
                "too few to prove anything",
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


def _without_one(
    limits: GateSettings, held_out: HeldOut, candidate: Evaluation
) -> tuple[Check, ...]:
    """Does it tell 👍 from 👎 without the one person whose ratings speak for it most?

    Asked of people who are not trusted, wherever the others gave enough to tell.
    """
    name, limit = "without one person", f"> {limits.preference}"
    least = limits.min_ratings
    if len(held_out.labels) >= least:
        raters, labels = held_out.raters, np.array(held_out.labels, dtype=bool)
        scores = np.array(candidate.log_ratios)
        enough = least // 4
    elif held_out.pairs >= least:
        raters, labels = held_out.pair_raters, np.array([True] * held_out.pairs)
        scores = np.array(_wins(candidate.margins))
        enough = 0
    else:  # there is too little to tell anything
        return ()
    found = []
    for rater in {rater for each in raters for rater in each} - held_out.trusted:
        others = np.array([rater not in each for each in raters])
        up = int(labels[others].sum())
        if others.sum() >= least and min(up, int(others.sum()) - up) >= enough:
            auc = _auc(labels[others], scores[others]) if enough else float(scores[others].mean())
            found.append(auc)
    if not found:
        detail = "not asked: without any one of them, too few others are left to tell"
        return (Check(name=name, value=None, limit=limit, passed=True, detail=detail),)
    worst = min(found) if np.isfinite(found).all() else math.nan
    return (
        Check(
            name=name,
            value=_shown(worst),
            limit=limit,
            passed=worst > limits.preference,
            detail="as preference, without the person whose held-out ratings speak for it most",
        ),
    )


def _on_policy(limits: GateSettings, candidate: Evaluation, active: Evaluation) -> Check:
    """Would people like its fresh replies better than the active version's?"""
    name, least = "fresh replies", limits.preference_gain
    limit = f"≥ {least:+.2f}"
    auc = candidate.predictor_auc
    if auc is None or not candidate.predicted or not active.predicted:
        return Check(
            name=name, value=None, limit=limit, passed=True, detail="not asked: no predictor"
        )
    gain = float(np.mean(candidate.predicted) - np.mean(active.predicted))
    if auc < LEAST_AUC:
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
    """Can it still do what the base, and the active version, can?"""
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
    """The kinds of checks of which fewer are passed: an id is a kind and a number."""
    passed = Counter(id.rsplit("-", 1)[0] for id, fine in candidate.retention.items() if fine)
    before = Counter(id.rsplit("-", 1)[0] for id, fine in other.retention.items() if fine)
    lost = [f"{kind} {before[kind]} → {passed[kind]}" for kind in before - passed]
    return f"; {', '.join(lost)}" if lost else ""


def _degeneration(
    limits: GateSettings, candidate: Evaluation, base: Evaluation
) -> tuple[Check, ...]:
    """How its sampled replies differ from the base's, in what nobody wants."""
    ours, theirs, factor = candidate.drift, base.drift, limits.degeneration_factor
    return tuple(
        _at_most(f"{name} rise", mine - before, limit, f"{mine:.2f}, base {before:.2f}")
        for name, mine, before, limit in (
            ("NLL", ours.nll, theirs.nll, limits.nll_rise),
            ("repetition", ours.repetition, theirs.repetition, REPETITION_RISE * factor),
            ("degenerate", ours.degenerate, theirs.degenerate, DEGENERATE_RISE * factor),
            ("runaway", ours.runaway, theirs.runaway, RUNAWAY_RISE * factor),
            ("language flips", ours.flips, theirs.flips, LANGUAGE_FLIPS_RISE * factor),
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
    """None for what could not be measured."""
    return round(float(value), 3) if np.isfinite(value) else None


def _wins(margins: Sequence[float]) -> list[float]:
    """1 for a pair told right, ½ where there is no difference (the base against itself)."""
    return [float(np.sign(margin)) / 2 + 0.5 for margin in margins]


def _auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(labels, scores)) if np.isfinite(scores).all() else float("nan")


def _bootstrap_auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> Interval:
    value = _auc(labels, scores)
    if not np.isfinite(value):
        return Interval(value=value, low=value, high=value)
    draw = np.random.default_rng(SEED)
    ups, downs = scores[labels], scores[~labels]
    values = []
    for _ in range(RESAMPLES):  # within each label, so that every resample has both
        up, down = draw.choice(ups, len(ups)), draw.choice(downs, len(downs))
        wins = np.sign(up[:, None] - down[None, :]) / 2 + 0.5
        values.append(float(wins.mean()))
    return _interval(value, values)


def _bootstrap_mean(margins: NDArray[np.float64]) -> Interval:
    if not np.isfinite(margins).all():
        return Interval(value=math.nan, low=math.nan, high=math.nan)
    outcomes = margins > 0
    draw = np.random.default_rng(SEED)
    values = [float(draw.choice(outcomes, len(outcomes)).mean()) for _ in range(RESAMPLES)]
    return _interval(float(outcomes.mean()), values)


def _interval(value: float, resampled: Sequence[float]) -> Interval:
    outside = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(resampled, [outside, 100 - outside])
    return Interval(value=value, low=float(low), high=float(high))
