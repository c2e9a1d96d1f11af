"""Finds people whose ratings look like an attack, for an admin to look at, and those who agree.

Two signs of an attack. Somebody disagrees with everybody else, as far as a guess fitted on others'
ratings can tell; or most of their corrections are the same text over and over. Neither is proof:
what is found is held back, never deleted (`/quarantine`). The same guess finds those who agree with
the others, and are trusted the sooner for it.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from store.domain import Example, ExampleSet, OriginKind, PreferencePair
from store.embedder import Embedder

LATEST = 40
"""Ratings of one person that are looked at: nobody outweighs the others by their number."""

LEAST_RATINGS = 20
"""Of somebody who is judged: fewer show nothing."""

LEAST_OTHERS = 60
"""Ratings of others that a guess is fitted on."""

TELLS = 0.6
"""Of the middle one of all people so much has to be guessed right, or the guesses cannot tell."""

DOUBT = 0.005
"""How seldom somebody who does not look would differ, or agree, as much (one-sided binomial)."""

PARTS = 5
"""Everybody's ratings are guessed from those of other people (grouped cross-validation)."""

ALIKE = 0.95
"""Cosine similarity of two corrections that say the same."""

FLOOD = 8
"""Corrections of one person that say the same, and are most of what they corrected."""

Vectors: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What people's ratings say of those who gave them."""

    suspects: Mapping[int, str]
    """Who should be looked at, and why."""
    agreeing: frozenset[int]
    """Who presses the thumb that one would guess from others', more often than somebody would who
    does not look; nobody, while all who rated are new."""


def examine(
    examples: ExampleSet,
    embedder: Embedder,
    *,
    trusted: Collection[int],
    newcomers: Collection[int] = (),
) -> Findings:
    """Who looks like an attacker, nobody of those who are `trusted`, and who agrees with others.

    What `newcomers` said is no measure for others, unless there is nobody else.
    """
    corrected = defaultdict[int, list[PreferencePair]](list)
    for pair in examples.pairs:
        if pair.origin.kind is OriginKind.CORRECTED:  # one text a correction, whatever it becomes
            corrected[pair.raters[0]].append(pair)
    found = {
        person: reason
        for person, pairs in corrected.items()
        if person not in trusted and len(pairs) >= FLOOD and (reason := _floods(embedder, pairs))
    }
    compared = _compared(examples.unpaired, embedder, newcomers)
    for person, each in compared.items():
        if person not in trusted and person not in found and each.contrary:
            found[person] = (
                f"{each.count - each.agreed} of {each.count} ratings are the opposite of what "
                "others' say"
            )
    all_new = set(compared) <= set(newcomers)
    agreeing = {person for person, each in compared.items() if each.agrees and not all_new}
    return Findings(suspects=found, agreeing=frozenset(agreeing - set(found)))


def _floods(embedder: Embedder, pairs: Sequence[PreferencePair]) -> str:
    vectors = _embedded(embedder, [each.chosen for each in pairs[-LATEST:]])
    same = int((vectors @ vectors.T >= ALIKE).sum(axis=1).max())
    if same >= FLOOD and same > len(vectors) / 2:
        return f"{same} of {len(vectors)} corrections say nearly the same"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Somebody's latest ratings beside what one would guess from others'."""

    thumbs: NDArray[np.bool_]
    guessed: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    """Rated by nobody else: of what several rated only the majority is known."""

    @property
    def count(self) -> int:
        return len(self.thumbs)

    @property
    def agreed(self) -> int:
        return int((self.thumbs == self.guessed).sum())

    @property
    def contrary(self) -> bool:
        """Whether somebody who presses thumbs by lot would seldom agree so little."""
        return self.count >= LEAST_RATINGS and _at_most(self.agreed, self.count, 0.5) < DOUBT

    @property
    def agrees(self) -> bool:
        """Whether somebody who presses as many 👍 without looking would seldom agree so much."""
        thumbs, guessed = self.thumbs[self.alone], self.guessed[self.alone]
        if len(thumbs) < LEAST_RATINGS:
            return False
        up, likely = thumbs.mean(), guessed.mean()
        differs = float(up * (1 - likely) + (1 - up) * likely)
        return _at_most(int((thumbs != guessed).sum()), len(thumbs), differs) < DOUBT


@dataclass(frozen=True, kw_only=True)
class _Words:
    """One row for each person and reply that they rated."""

    people: NDArray[np.int64]
    labels: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    """Whether nobody else rated it."""
    vectors: Vectors
    weights: Vectors
    """Each person's ratings weigh 1 together; those of whom is no measure, nothing."""


def _compared(
    ratings: Sequence[Example], embedder: Embedder, newcomers: Collection[int]
) -> Mapping[int, _Comparison]:
    """Everybody's ratings, where others' can tell; nobody's, where they cannot."""
    by_person = defaultdict[int, list[Example]](list)
    for each in ratings:
        for rater in each.raters:
            by_person[rater].append(each)
    if max(map(len, by_person.values()), default=0) < LEAST_RATINGS:  # nothing to embed
        return {}
    words = _words(by_person, embedder, newcomers)
    counted = words.weights > 0
    people = np.unique(words.people[counted])
    if counted.sum() < LEAST_OTHERS or len(people) < PARTS:
        return {}
    guessed = _guessed(words)
    if guessed is None:
        return {}
    found = {}
    for person in np.unique(words.people):
        theirs = words.people == person
        found[int(person)] = _Comparison(
            thumbs=words.labels[theirs], guessed=guessed[theirs], alone=words.alone[theirs]
        )
    return found


def _at_most(most: int, count: int, chance: float) -> float:
    """How likely it is that no more than `most` of `count` happen (binomial)."""
    return sum(
        math.comb(count, number) * chance**number * (1 - chance) ** (count - number)
        for number in range(most + 1)
    )


def _words(
    by_person: Mapping[int, Sequence[Example]], embedder: Embedder, newcomers: Collection[int]
) -> _Words:
    everybody_is_new = set(by_person) <= set(newcomers)
    rows = [
        (person, each, 1 / len(given[-LATEST:]))
        for person, given in by_person.items()
        for each in given[-LATEST:]
    ]
    return _Words(
        people=np.array([person for person, _, _ in rows]),
        labels=np.array([each.label for _, each, _ in rows], dtype=bool),
        alone=np.array([len(each.raters) == 1 for _, each, _ in rows], dtype=bool),
        vectors=_embedded(embedder, [each.completion for _, each, _ in rows]),
        weights=np.array(
            [
                weight if everybody_is_new or person not in newcomers else 0.0
                for person, _, weight in rows
            ]
        ),
    )


def _guessed(words: _Words) -> NDArray[np.bool_] | None:
    """Each rating as others' would have it; None if that cannot tell 👍 from 👎."""
    likely = np.zeros(len(words.people))
    for fitted, asked in GroupKFold(PARTS).split(words.vectors, groups=words.people):
        fitted = fitted[words.weights[fitted] > 0]
        if len(set(words.labels[fitted])) < 2:
            return None
        guess = LogisticRegression(max_iter=1000, class_weight="balanced")
        guess.fit(words.vectors[fitted], words.labels[fitted], words.weights[fitted])
        likely[asked] = guess.predict_proba(words.vectors[asked])[:, 1]
    right = (likely > 0.5) == words.labels
    counted = np.unique(words.people[words.weights > 0])
    shares = [right[words.people == person].mean() for person in counted]
    return likely > 0.5 if np.median(shares) >= TELLS else None


def _embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """One row a text, of length 1."""
    return np.array(embedder.embed([text.strip() or "." for text in texts]))
