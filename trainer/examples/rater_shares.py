"""Limits how many examples each person gives to a run, so that nobody alone moves the weights.

Pure. Admins and imported examples are not limited: whoever puts them in runs the bot.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from store.domain import AnyExample, ExampleSet

ROUNDING = 1e-9
"""Added before a share is rounded down, so that 0.1 · 30 is 3 in floating point, too."""


@dataclass(frozen=True, kw_only=True)
class RaterShares:
    """The people to whom the limits on shares do not apply alike."""

    trusted: frozenset[int] = frozenset()
    """People who may give any number of examples."""
    newcomers: frozenset[int] = frozenset()
    """People who are new, and whose examples have a limit together, too."""


def limit_shares(
    examples: ExampleSet,
    rater_shares: RaterShares,
    *,
    person_share: float,
    newcomer_share: float,
    room: int,
) -> ExampleSet:
    """Return each person's newest examples, up to their share of what is returned.

    `person_share` is the largest share of one person; with fewer than 1 / `person_share` people,
    each may give as many as any other. `newcomer_share` is the largest share of all new people
    together, unless everybody is new. Shares are of at most `room` examples, as many as a run
    takes. An example of several raters counts for the one of them who has fewest so far.
    """
    unlimited = [each for each in examples.every if _is_unlimited(each, rater_shares)]
    limited = _newest_first(
        [each for each in examples.every if not _is_unlimited(each, rater_shares)]
    )
    people = {rater for each in limited for rater in each.raters}
    share = max(person_share, 1 / max(1, len(people)))
    kept = _limit_each_person(limited, share, len(unlimited), room)
    if not people <= rater_shares.newcomers:
        kept = _limit_newcomers(kept, rater_shares.newcomers, newcomer_share, len(unlimited), room)
    origins = {each.origin for each in (*unlimited, *kept)}
    return ExampleSet(
        unpaired=tuple(each for each in examples.unpaired if each.origin in origins),
        pairs=tuple(each for each in examples.pairs if each.origin in origins),
        demonstrations=tuple(each for each in examples.demonstrations if each.origin in origins),
    )


def _limit_each_person(
    limited: Sequence[AnyExample], share: float, unlimited: int, room: int
) -> Sequence[AnyExample]:
    """Keep as many examples as possible such that nobody's exceed `share` of those kept.

    A lower number per person leaves fewer examples in all, so the number is lowered from the
    largest possible one until it satisfies the share of what it leaves.
    """
    most = len(limited)
    while True:
        kept = _newest_of_each(limited, most)
        allowed = math.floor(share * min(room, unlimited + len(kept)) + ROUNDING)
        if most <= allowed:
            return kept
        most = allowed


def _newest_of_each(newest_first: Sequence[AnyExample], most: int) -> list[AnyExample]:
    """Keep each person's first `most` examples."""
    given = Counter[int]()
    kept = []
    for each in newest_first:
        rater = min(each.raters, key=lambda rater: (given[rater], rater))
        if given[rater] < most:
            given[rater] += 1
            kept.append(each)
    return kept


def _limit_newcomers(
    kept: Sequence[AnyExample],
    newcomers: Collection[int],
    share: float,
    unlimited: int,
    room: int,
) -> list[AnyExample]:
    """Limit the examples that only new people gave to `share` of the result."""
    new = [each for each in kept if set(each.raters) <= set(newcomers)]
    others = [each for each in kept if not set(each.raters) <= set(newcomers)]
    most = math.floor(share * min(room, (unlimited + len(others)) / (1 - share)) + ROUNDING)
    return [*others, *new[:most]]


def _is_unlimited(each: AnyExample, rater_shares: RaterShares) -> bool:
    return not each.raters or not rater_shares.trusted.isdisjoint(each.raters)


def _newest_first(examples: Iterable[AnyExample]) -> list[AnyExample]:
    return sorted(examples, key=lambda each: each.created_at, reverse=True)
