"""How much each person's word counts in a run: nobody moves the weights alone.

Pure. Admins are trusted, and so are imported examples: whoever puts them in runs the bot.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from store.domain import AnyExample, ExampleSet


@dataclass(frozen=True, kw_only=True)
class RaterShares:
    """What is known of those who rate."""

    trusted: frozenset[int] = frozenset()
    newcomers: frozenset[int] = frozenset()


def shared_out(
    examples: ExampleSet,
    voices: RaterShares,
    *,
    person_share: float,
    newcomer_share: float,
    room: int,
) -> ExampleSet:
    """The newest examples of each person, as far as their share of what is kept allows.

    `room` is what a run has room for: a share is never of more than that. What several people said
    alike counts as the word of the one who has said least. Where there are few people, each may
    give as much as any other; where everybody is new, nobody is.
    """
    free = [each for each in examples.every if _is_free(each, voices)]
    bound = _newest_first([each for each in examples.every if not _is_free(each, voices)])
    people = {rater for each in bound for rater in each.raters}
    share = max(person_share, 1 / max(1, len(people)))
    kept = _within(bound, share, len(free), room)
    if not people <= voices.newcomers:
        kept = _without_a_crowd(kept, voices.newcomers, newcomer_share, len(free), room)
    wanted = {each.origin for each in (*free, *kept)}
    return ExampleSet(
        unpaired=tuple(each for each in examples.unpaired if each.origin in wanted),
        pairs=tuple(each for each in examples.pairs if each.origin in wanted),
        demonstrations=tuple(each for each in examples.demonstrations if each.origin in wanted),
    )


def _within(
    bound: Sequence[AnyExample], share: float, free: int, room: int
) -> Sequence[AnyExample]:
    """What remains when nobody gives more than that share of what remains.

    The fewer one person may give, the less remains in all: from the most that they could give it
    goes down to the first number that holds.
    """
    most = len(bound)
    while True:
        kept = _most_of_each(bound, most)
        allowed = math.floor(share * min(room, free + len(kept)) + 1e-9)
        if most <= allowed:
            return kept
        most = allowed


def _most_of_each(bound: Sequence[AnyExample], most: int) -> list[AnyExample]:
    given = Counter[int]()
    kept = []
    for each in bound:
        least = min(each.raters, key=lambda rater: (given[rater], rater))
        if given[least] < most:
            given[least] += 1
            kept.append(each)
    return kept


def _without_a_crowd(
    kept: Sequence[AnyExample], newcomers: Collection[int], share: float, free: int, room: int
) -> list[AnyExample]:
    """The same with no more of what only new people said than their share, all together."""
    new = [each for each in kept if set(each.raters) <= set(newcomers)]
    old = [each for each in kept if not set(each.raters) <= set(newcomers)]
    most = math.floor(share * min(room, (free + len(old)) / (1 - share)) + 1e-9)
    return [*old, *new[:most]]


def _is_free(each: AnyExample, voices: RaterShares) -> bool:
    return not each.raters or not voices.trusted.isdisjoint(each.raters)


def _newest_first(examples: Iterable[AnyExample]) -> list[AnyExample]:
    return sorted(examples, key=lambda each: each.created_at, reverse=True)
