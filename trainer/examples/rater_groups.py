"""Finds groups of people who rate together: the same replies alike, or at the same times.

A group is no proof of an attack: a class rates in its lesson, friends rate what they read
together. But its members are judged by what they rated all together, and they count as one where
an exam must not depend on few.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from store.domain import Example

MIN_SHARED = 8
"""Ratings that two people must share to be of one group."""

SHARED_PART = 0.8
"""Part of the ratings of the one who gave more that two people must share to be of one group."""

WINDOW = timedelta(minutes=10)
"""Ratings that are given in one window are given at the same time."""


def find_groups(ratings: Sequence[Example]) -> tuple[frozenset[int], ...]:
    """Return the groups of two or more people who rate together, in order of their members."""
    thumbs = defaultdict[int, set[object]](set)
    windows = defaultdict[int, Counter[object]](Counter)
    for each in ratings:
        for person, label, at in each.votes:
            thumbs[person].add((each.prompt, each.completion, label))
            windows[person][at.timestamp() // WINDOW.total_seconds()] += 1
    people = sorted(person for person, given in thumbs.items() if len(given) >= MIN_SHARED)
    number = {person: place for place, person in enumerate(people)}
    links = [
        (number[one], number[other])
        for one, other in _meeting(people, thumbs, windows)
        if _is_shared(len(thumbs[one] & thumbs[other]), len(thumbs[one]), len(thumbs[other]))
        or _is_shared(
            (windows[one] & windows[other]).total(), windows[one].total(), windows[other].total()
        )
    ]
    if not links:
        return ()
    rows, columns = zip(*links, strict=True)
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(people), len(people)))
    _, labels = connected_components(graph, directed=False)
    members = defaultdict[int, list[int]](list)
    for person, label in zip(people, labels, strict=True):
        members[int(label)].append(person)
    return tuple(frozenset(group) for group in members.values() if len(group) > 1)


def _meeting(
    people: Sequence[int],
    thumbs: Mapping[int, Collection[object]],
    windows: Mapping[int, Collection[object]],
) -> set[tuple[int, int]]:
    """Return the pairs of people who rated anything alike or at the same time."""
    at = defaultdict[object, list[int]](list)
    for person in people:
        for place in (*thumbs[person], *windows[person]):
            at[place].append(person)
    return {pair for there in at.values() for pair in combinations(there, 2)}


def _is_shared(shared: int, one: int, other: int) -> bool:
    return shared >= MIN_SHARED and shared >= SHARED_PART * max(one, other)
