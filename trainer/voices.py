"""How much each person's word counts in a run: nobody moves the weights alone.

Pure. Admins are trusted, and so are imported examples: whoever puts them in runs the bot.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from store.domain import AnyExample, Examples


@dataclass(frozen=True, kw_only=True)
class Voices:
    """What is known of those who rate."""

    trusted: frozenset[int] = frozenset()
    newcomers: frozenset[int] = frozenset()


def shared_out(
    examples: Examples, voices: Voices, *, person_share: float, newcomer_share: float
) -> Examples:
    """The newest examples of each person, as far as their share of all that are kept allows.

    Where there are few people, each may give as much as any other. What several people said alike
    counts as each one's, and is kept as long as one of them has room.
    """
    free = {each.id for each in examples.every if _is_free(each, voices)}
    bound = [each for each in examples.every if each.id not in free]
    given = Counter(rater for each in bound for rater in each.raters)
    people = len(given) + bool(free)
    most = _most_each(given.values(), len(free), max(person_share, 1 / max(1, people)))
    kept = _with_room(bound, most)
    old = {each.id for each in bound if each.id in kept and not _is_new(each, voices)}
    most_new = math.floor(newcomer_share / (1 - newcomer_share) * (len(free) + len(old)) + 1e-9)
    new = [each for each in bound if each.id in kept - old]
    wanted = free | old | {each.id for each in _newest_first(new)[:most_new]}
    return Examples(
        unpaired=tuple(each for each in examples.unpaired if each.id in wanted),
        pairs=tuple(each for each in examples.pairs if each.id in wanted),
        demonstrations=tuple(each for each in examples.demonstrations if each.id in wanted),
    )


def _is_free(each: AnyExample, voices: Voices) -> bool:
    return not each.raters or not voices.trusted.isdisjoint(each.raters)


def _is_new(each: AnyExample, voices: Voices) -> bool:
    return voices.newcomers.issuperset(each.raters)


def _most_each(given: Iterable[int], free: int, share: float) -> int:
    """The most that one person may give, so that it is no more than that share of everything."""
    counts = list(given)
    for most in range(max(counts, default=0), 0, -1):
        if most <= share * (free + sum(min(count, most) for count in counts)) + 1e-9:
            return most
    return 0


def _with_room(examples: Sequence[AnyExample], most: int) -> set[str]:
    used = Counter[int]()
    kept = set[str]()
    for each in _newest_first(examples):
        if any(used[rater] < most for rater in each.raters):
            kept.add(each.id)
            used.update(each.raters)
    return kept


def _newest_first(examples: Sequence[AnyExample]) -> list[AnyExample]:
    return sorted(examples, key=lambda each: each.created_at, reverse=True)
