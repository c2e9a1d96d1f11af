"""Measures how far people's ratings agree with a model that is fitted on other people's.

The model is a logistic regression over sentence embeddings of the rated replies, and over what can
be counted in them: people like replies for their form as much as for what they say. It is fitted
on the people whom an admin vouched for, if they rated enough; else on those who are not new; else
on everybody. Everybody's ratings weigh alike in it, however many they gave.
"""

import math
import random
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from store.domain import Example
from store.embedder import Embedder

SAMPLED_RATINGS = 100
"""Ratings of a person that are drawn from all they gave."""

LATEST_RATINGS = 40
"""Latest ratings of a person that are looked at besides: they are the first to be trained on."""

MIN_RATINGS = 20
"""Ratings below which nobody's are called contrary."""

MIN_FITTED_RATINGS = 60
"""Ratings below which no model is fitted."""

FOLDS = 5
"""Folds of the cross-validation, grouped by person: a person's ratings are predicted from other
people's only. Fewer people show nothing."""

MIN_MEDIAN_ACCURACY = 0.6
"""Least accuracy of the model for the median person; below it nobody is judged."""

MIN_MEDIAN_KAPPA = 0.1
"""Least agreement beyond chance of the median person; below it nobody's is measured."""

SIGNIFICANCE = 0.005
"""Significance level of the one-sided binomial tests."""

PRIOR_RATINGS = 4
"""Ratings that agree no more than by chance, which are added to everybody's: a few that agree show
little."""

ROUNDS = 3
"""Fits of the model, each on those of the reference who agree with the one before."""

FORM_SCALE = 0.5
"""Standard deviation of each count beside an embedding of length 1."""

LONG_WORD = 10
"""Letters from which a word is long."""

Bits: TypeAlias = NDArray[np.bool_]
Vectors: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A person's ratings beside the model's predictions; True is 👍."""

    turns: tuple[object, ...]
    """The rated replies."""
    labels: Bits
    predicted: Bits
    drawn: Bits
    """True if the rating was drawn from all."""
    latest: Bits
    """True if the rating is one of the latest."""

    @property
    def is_contrary(self) -> bool:
        """True if ratings by lot would seldom agree so little: of the latest, or of all time."""
        return any(
            is_contrary(self.labels[each], self.predicted[each])
            for each in (self.drawn, self.latest)
        )

    @property
    def kappa(self) -> float:
        """Agreement beyond chance (Cohen 1960), shrunk towards none; at most 1.

        Chance is that of ratings with as many 👍 that have nothing to do with the replies, so that
        somebody who only presses 👍 has an agreement of 0.
        """
        labels, predicted = self.labels[self.drawn], self.predicted[self.drawn]
        up, predicted_up = labels.mean(), predicted.mean()
        chance = min(0.9, up * predicted_up + (1 - up) * (1 - predicted_up))
        agreed = (labels == predicted).sum() + PRIOR_RATINGS * chance
        return float((agreed / (len(labels) + PRIOR_RATINGS) - chance) / (1 - chance))


def is_contrary(labels: Bits, predicted: Bits) -> bool:
    """Return whether ratings by lot would seldom agree with predictions as little as these."""
    if len(labels) < MIN_RATINGS:
        return False
    return bool(binom.cdf(int((labels == predicted).sum()), len(labels), 0.5) < SIGNIFICANCE)


def measure_agreement(
    ratings: Sequence[Example],
    embedder: Embedder,
    *,
    vouched: Collection[int] = (),
    newcomers: Collection[int] = (),
    seed: int = 0,
) -> Mapping[int, Agreement]:
    """Compare everybody's ratings with the model; empty if no useful model can be fitted.

    `ratings` are oldest first. `vouched` people are those whom an admin vouched for.
    """
    rows = _sample(ratings, seed)
    reference = _reference(rows.people, vouched, newcomers)
    if reference is None:
        return {}
    vectors = _vectors(rows.texts, embedder)
    found: Mapping[int, Agreement] = {}
    for _ in range(ROUNDS):
        predicted = _predict(rows, vectors, reference)
        if predicted is None:
            return found
        found = _beside(rows, predicted)
        closer = _those_who_agree(found, reference)
        if len(closer) < FOLDS or np.isin(rows.people, list(closer)).sum() < MIN_FITTED_RATINGS:
            return found
        reference = closer
    return found


def _beside(rows: "_Rows", predicted: Bits) -> Mapping[int, Agreement]:
    """Return everybody's ratings beside the predictions."""
    found = {}
    for person in np.unique(rows.people):
        theirs = rows.people == person
        found[int(person)] = Agreement(
            turns=tuple(compress(rows.turns, theirs)),
            labels=rows.labels[theirs],
            predicted=predicted[theirs],
            drawn=rows.drawn[theirs],
            latest=rows.latest[theirs],
        )
    return found


def _those_who_agree(found: Mapping[int, Agreement], reference: frozenset[int]) -> frozenset[int]:
    """Return those of a reference who agree with it at least half as far as its median person."""
    kappas = {person: found[person].kappa for person in reference}
    median = float(np.median(list(kappas.values())))
    return frozenset(person for person, kappa in kappas.items() if kappa >= median / 2)


def relative_agreement(
    measured: Mapping[int, Agreement], *, vouched: Collection[int], newcomers: Collection[int]
) -> Mapping[int, float] | None:
    """Return everybody's agreement as a share of the median person's, from 0 to 1.

    The median is that of the people on whom the model was fitted. None if it is hardly above
    chance: then the ratings do not tell who agrees with whom.
    """
    if not measured:
        return None
    people = np.repeat(list(measured), [len(each.labels) for each in measured.values()])
    reference = _reference(people, vouched, newcomers)
    assert reference is not None, "something was measured"
    kappas = {person: each.kappa for person, each in measured.items()}
    median = float(np.median([kappas[person] for person in reference]))
    if median < MIN_MEDIAN_KAPPA:
        return None
    return {person: min(1.0, max(0.0, kappa / median)) for person, kappa in kappas.items()}


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Ratings as arrays, one row for each person and reply that they rated."""

    people: NDArray[np.int64]
    labels: Bits
    drawn: Bits
    latest: Bits
    turns: Sequence[object]
    texts: Sequence[str]


def _sample(ratings: Sequence[Example], seed: int) -> _Rows:
    by_person = defaultdict[int, list[tuple[Example, bool]]](list)
    for each in ratings:
        for person, label, _ in each.votes:
            by_person[person].append((each, label))
    draw = random.Random(seed)
    rows = []
    for person, given in by_person.items():
        drawn = set(draw.sample(range(len(given)), min(SAMPLED_RATINGS, len(given))))
        latest = set(range(len(given))[-LATEST_RATINGS:])
        rows += [
            (person, *given[place], place in drawn, place in latest)
            for place in sorted(drawn | latest)
        ]
    return _Rows(
        people=np.array([person for person, *_ in rows], dtype=np.int64),
        labels=np.array([label for _, _, label, _, _ in rows], dtype=bool),
        drawn=np.array([drawn for *_, drawn, _ in rows], dtype=bool),
        latest=np.array([latest for *_, latest in rows], dtype=bool),
        turns=[each.origin for _, each, *_ in rows],
        texts=[each.completion.strip() or "." for _, each, *_ in rows],
    )


def _reference(
    people: NDArray[np.int64], vouched: Collection[int], newcomers: Collection[int]
) -> frozenset[int] | None:
    """Return the people on whom the model is fitted; None if even all of them are too few."""
    every = frozenset(int(person) for person in np.unique(people) if person >= 0)
    known = every - frozenset(newcomers)
    for chosen in (every & frozenset(vouched), known, every):
        rated = np.isin(people, list(chosen)).sum()
        if len(chosen) >= FOLDS and rated >= MIN_FITTED_RATINGS:
            return chosen
    return None


def _form(text: str) -> list[float]:
    """Return what can be counted in a reply: its length, its sentences, its marks, its words."""
    words = re.findall(r"\w+", text)
    sentences = [each for each in re.split(r"(?<=[.!?。！？])\s*", text.strip()) if each]
    first = re.findall(r"\w+", sentences[0]) if sentences else []
    letters = max(1, len(text))
    return [
        math.log1p(len(text)),
        math.log1p(len(sentences)),
        math.log1p(len(first)),
        sum(map(len, words)) / max(1, len(words)),
        sum(len(word) >= LONG_WORD for word in words),
        text.count(",") + text.count("、"),
        text.count("?") + text.count("？"),
        text.count("!") + text.count("！"),
        text.count("'") + text.count("’"),
        text.count("\n"),
        len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", text, re.MULTILINE)),
        sum(each.isdigit() for each in text) / letters,
        sum(each.isupper() for each in text) / letters,
        sum(not each.isalnum() and not each.isspace() for each in text) / letters,
    ]


def _vectors(texts: Sequence[str], embedder: Embedder) -> Vectors:
    """Return a row a text: its embedding, and its counts."""
    different = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(different)}
    meanings: Vectors = np.array(embedder.embed(different))
    forms = StandardScaler().fit_transform([_form(text) for text in different]) * FORM_SCALE
    vectors: Vectors = np.hstack([meanings, forms])[[place[text] for text in texts]]
    return vectors


def _predict(rows: _Rows, vectors: Vectors, reference: Collection[int]) -> Bits | None:
    """Predict each rating from other people's; None if that does not tell 👍 from 👎."""
    in_reference = np.isin(rows.people, list(reference))
    _, person_numbers, counts = np.unique(rows.people, return_inverse=True, return_counts=True)
    weights = in_reference / counts[person_numbers]  # each person's add up to 1
    probabilities = np.zeros(len(rows.people))
    for fitted, predicted in GroupKFold(FOLDS).split(vectors, groups=rows.people):
        fitted = fitted[in_reference[fitted]]
        if len(set(rows.labels[fitted])) < 2:
            return None
        model = LogisticRegression(max_iter=1000, class_weight="balanced")
        model.fit(vectors[fitted], rows.labels[fitted], weights[fitted])
        probabilities[predicted] = model.predict_proba(vectors[predicted])[:, 1]
    labels: Bits = probabilities > 0.5
    right = labels == rows.labels
    accuracies = [right[rows.people == person].mean() for person in reference]
    return labels if np.median(accuracies) >= MIN_MEDIAN_ACCURACY else None
