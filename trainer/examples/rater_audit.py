"""Audits raters: finds people whose ratings look like an attack, and people who agree with others.

There are two signs of an attack: somebody's ratings contradict a model that is fitted on everybody
else's, or most of somebody's corrections are nearly the same text. Neither is proof, so the ratings
are held back for an admin to look at (`/quarantine`), and never deleted. People whose ratings agree
with the model count as new for a shorter time.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from store.domain import Example, ExampleSet, OriginKind, PreferencePair
from store.embedder import Embedder

LATEST_RATINGS = 40
"""Latest ratings of a person that are audited; older ones are ignored."""

MIN_RATINGS = 20
"""Ratings below which a person is not judged."""

MIN_OTHER_RATINGS = 60
"""Ratings of all people below which no model is fitted."""

MIN_MEDIAN_ACCURACY = 0.6
"""Least accuracy of the model for the median person; below it nobody is judged."""

SIGNIFICANCE = 0.005
"""Significance level of the one-sided binomial tests."""

FOLDS = 5
"""Folds of the cross-validation, grouped by person: a person's ratings are predicted from other
people's only."""

SAME_TEXT_SIMILARITY = 0.95
"""Cosine similarity from which two corrections count as the same text."""

MIN_REPEATS = 8
"""Corrections with the same text from which a person is suspected, if they are the majority."""

Vectors: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The result of an audit."""

    suspects: Mapping[int, str]
    """People whom an admin should look at, with the reason."""
    agreeing: frozenset[int]
    """People who agree with the model more often than careless ratings would by chance; nobody, if
    all raters are new."""


def examine(
    examples: ExampleSet,
    embedder: Embedder,
    *,
    trusted: Collection[int],
    newcomers: Collection[int] = (),
) -> Findings:
    """Audit everybody's ratings and corrections. People who are `trusted` are never suspects.

    The model is not fitted on the ratings of `newcomers`, unless everybody is new.
    """
    corrections = defaultdict[int, list[PreferencePair]](list)
    for pair in examples.pairs:
        # A correction may also have become a demonstration; count it once.
        if pair.origin.kind is OriginKind.CORRECTED:
            corrections[pair.raters[0]].append(pair)
    suspects = {}
    for person, pairs in corrections.items():
        if person not in trusted and len(pairs) >= MIN_REPEATS:
            reason = _repeats_itself(embedder, pairs)
            if reason:
                suspects[person] = reason
    agreements = _agreements(examples.unpaired, embedder, newcomers)
    for person, each in agreements.items():
        if person not in trusted and person not in suspects and each.is_contrary:
            suspects[person] = (
                f"{each.count - each.agreed} of {each.count} ratings are the opposite of what "
                "others' say"
            )
    all_new = set(agreements) <= set(newcomers)
    agreeing = {person for person, each in agreements.items() if each.is_agreeing and not all_new}
    return Findings(suspects=suspects, agreeing=frozenset(agreeing - set(suspects)))


def _repeats_itself(embedder: Embedder, corrections: Sequence[PreferencePair]) -> str:
    """Return the reason for suspicion if most corrections are nearly the same text, or ""."""
    vectors = _embed(embedder, [each.chosen for each in corrections[-LATEST_RATINGS:]])
    same = int((vectors @ vectors.T >= SAME_TEXT_SIMILARITY).sum(axis=1).max())
    if same >= MIN_REPEATS and same > len(vectors) / 2:
        return f"{same} of {len(vectors)} corrections say nearly the same"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Agreement:
    """A person's latest ratings beside the model's predictions; True is 👍."""

    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    rated_alone: NDArray[np.bool_]
    """True if nobody else rated the reply; of other replies only the majority's label is known."""

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def agreed(self) -> int:
        return int((self.labels == self.predicted).sum())

    @property
    def is_contrary(self) -> bool:
        """True if random ratings would seldom agree with the model so little."""
        if self.count < MIN_RATINGS:
            return False
        return bool(binom.cdf(self.agreed, self.count, 0.5) < SIGNIFICANCE)

    @property
    def is_agreeing(self) -> bool:
        """True if random ratings with the same share of 👍 would seldom agree so much."""
        labels, predicted = self.labels[self.rated_alone], self.predicted[self.rated_alone]
        if len(labels) < MIN_RATINGS:
            return False
        up, predicted_up = labels.mean(), predicted.mean()
        chance = up * (1 - predicted_up) + (1 - up) * predicted_up  # of a random disagreement
        disagreed = int((labels != predicted).sum())
        return bool(binom.cdf(disagreed, len(labels), chance) < SIGNIFICANCE)


@dataclass(frozen=True, kw_only=True)
class _Ratings:
    """The audited ratings as arrays, one row for each person and reply that they rated."""

    people: NDArray[np.int64]
    labels: NDArray[np.bool_]
    rated_alone: NDArray[np.bool_]
    """True if nobody else rated the reply."""
    vectors: Vectors
    """Embeddings of the replies."""
    weights: Vectors
    """Weights in the fit: each person's add up to 1, those of new people are 0."""


def _agreements(
    ratings: Sequence[Example], embedder: Embedder, newcomers: Collection[int]
) -> Mapping[int, _Agreement]:
    """Compare everybody's ratings with the model; empty if no useful model can be fitted."""
    by_person = defaultdict[int, list[Example]](list)
    for each in ratings:
        for rater in each.raters:
            by_person[rater].append(each)
    if max(map(len, by_person.values()), default=0) < MIN_RATINGS:  # nobody could be judged
        return {}
    rows = _rows(by_person, embedder, newcomers)
    fitted = rows.weights > 0
    if fitted.sum() < MIN_OTHER_RATINGS or len(np.unique(rows.people[fitted])) < FOLDS:
        return {}
    predicted = _predict(rows)
    if predicted is None:
        return {}
    found = {}
    for person in np.unique(rows.people):
        theirs = rows.people == person
        found[int(person)] = _Agreement(
            labels=rows.labels[theirs],
            predicted=predicted[theirs],
            rated_alone=rows.rated_alone[theirs],
        )
    return found


def _rows(
    by_person: Mapping[int, Sequence[Example]], embedder: Embedder, newcomers: Collection[int]
) -> _Ratings:
    everybody_is_new = set(by_person) <= set(newcomers)
    rows = [
        (person, each, 1 / len(given[-LATEST_RATINGS:]))
        for person, given in by_person.items()
        for each in given[-LATEST_RATINGS:]
    ]
    return _Ratings(
        people=np.array([person for person, _, _ in rows]),
        labels=np.array([each.label for _, each, _ in rows], dtype=bool),
        rated_alone=np.array([len(each.raters) == 1 for _, each, _ in rows], dtype=bool),
        vectors=_embed(embedder, [each.completion for _, each, _ in rows]),
        weights=np.array(
            [
                weight if everybody_is_new or person not in newcomers else 0.0
                for person, _, weight in rows
            ]
        ),
    )


def _predict(rows: _Ratings) -> NDArray[np.bool_] | None:
    """Predict each rating from other people's; None if that does not tell 👍 from 👎."""
    probabilities = np.zeros(len(rows.people))
    for fitted, predicted in GroupKFold(FOLDS).split(rows.vectors, groups=rows.people):
        fitted = fitted[rows.weights[fitted] > 0]
        if len(set(rows.labels[fitted])) < 2:
            return None
        model = LogisticRegression(max_iter=1000, class_weight="balanced")
        model.fit(rows.vectors[fitted], rows.labels[fitted], rows.weights[fitted])
        probabilities[predicted] = model.predict_proba(rows.vectors[predicted])[:, 1]
    labels = probabilities > 0.5
    right = labels == rows.labels
    people = np.unique(rows.people[rows.weights > 0])
    accuracies = [right[rows.people == person].mean() for person in people]
    return labels if np.median(accuracies) >= MIN_MEDIAN_ACCURACY else None


def _embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Return one row a text, of length 1; an empty text is embedded as a full stop."""
    return np.array(embedder.embed([text.strip() or "." for text in texts]))
