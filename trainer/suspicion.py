"""Finds people whose ratings look like an attack, for an admin to look at.

Two signs. Somebody disagrees with everybody else, as far as a guess fitted on the others' ratings
can tell; or most of what somebody gave is the same text over and over. Neither is proof: what is
found is held back, never deleted (`/quarantine`).
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from store.domain import AnyExample, Example, Examples, PreferencePair
from store.embedder import Embedder

LEAST_RATINGS = 12
"""Of one person, and of the others for each of them: fewer show nothing."""

LEAST_OTHERS = 60
"""Ratings of others that a guess is fitted on."""

DOUBT = 0.005
"""How seldom somebody who presses thumbs by lot would disagree as much (one-sided binomial)."""

ALIKE = 0.95
"""Cosine similarity of two replies that say the same."""

FLOOD = 8
"""Examples of one person that say the same, and are most of what they gave."""

Vectors: TypeAlias = NDArray[np.float64]


def suspects(
    examples: Examples, embedder: Embedder, *, trusted: Collection[int]
) -> Mapping[int, str]:
    """Who should be looked at, and why; nobody of those who are `trusted`."""
    by_person = defaultdict[int, list[AnyExample]](list)
    for each in examples.every:
        for rater in each.raters:
            by_person[rater].append(each)
    looked_at = {
        person: given
        for person, given in by_person.items()
        if person not in trusted and len(given) >= min(LEAST_RATINGS, FLOOD)
    }
    if not looked_at:  # nothing to embed
        return {}
    ratings = examples.unpaired
    vectors = _embedded(embedder, [each.completion for each in ratings])
    found: dict[int, str] = {}
    for person, given in looked_at.items():
        reason = _floods(embedder, given) or _contradicts(person, ratings, vectors)
        if reason:
            found[person] = reason
    return found


def _floods(embedder: Embedder, given: Sequence[AnyExample]) -> str:
    vectors = _embedded(embedder, [_liked(each) for each in given])
    same = int((vectors @ vectors.T >= ALIKE).sum(axis=1).max())
    if same >= FLOOD and same > len(given) / 2:
        return f"{same} of {len(given)} examples say nearly the same"
    return ""


def _contradicts(person: int, ratings: Sequence[Example], vectors: Vectors) -> str:
    """Whether they press the other thumb than one would guess from everybody else's."""
    theirs = np.array([person in each.raters for each in ratings], dtype=bool)
    labels = np.array([each.label for each in ratings], dtype=bool)
    count = int(theirs.sum())
    if count < LEAST_RATINGS or len(ratings) - count < LEAST_OTHERS:
        return ""
    if len(set(labels[~theirs])) < 2:
        return ""
    guess = LogisticRegression(max_iter=1000, class_weight="balanced")
    guess.fit(vectors[~theirs], labels[~theirs])
    agreed = int((guess.predict(vectors[theirs]) == labels[theirs]).sum())
    by_lot = sum(math.comb(count, number) for number in range(agreed + 1)) / 2**count
    if by_lot >= DOUBT:
        return ""
    return f"{count - agreed} of {count} ratings are the opposite of what everybody else's say"


def _liked(each: AnyExample) -> str:
    return each.chosen if isinstance(each, PreferencePair) else each.completion


def _embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """One row a text, of length 1."""
    return np.array(embedder.embed([text.strip() or "." for text in texts]))
