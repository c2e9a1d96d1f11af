"""Limits how much each person, and all unproven people together, give to a run or to its exam.

Pure. An example costs the people who decide it: those whom an admin vouched for, if their thumbs
alone have a majority; else those who are proven, if theirs have one; else everybody of its
majority. So nobody lends their good name to a crowd: what a crowd decides is the crowd's. A
correction is words, not a thumb, so only somebody whom an admin vouched for decides one.

Admins and trusted imports are not limited: whoever puts them in runs the bot.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from store.domain import AnyExample, ExampleSet, OriginKind

PROVEN_AGREEMENT = 0.5
"""Agreement from which a person who is not new is proven: half of the median person's."""

LEAST_AGREEMENT = 0.1
"""Agreement that everybody is granted, so that a different taste is not left out altogether."""

LEAST_VOUCHED_AGREEMENT = 0.5
"""Agreement that people are granted for whom an admin vouched."""

EQUAL_SHARES = 3
"""Equal shares that somebody whom no admin vouched for may give; one where nobody's agreement is
known."""

MIN_PROVEN_EXAMPLES = 10
"""Examples by proven people from which the others have a limit together: with fewer, nothing could
be learned without them."""

ROUNDING = 1e-9
"""Added to a limit before it is compared with, so that 0.1 · 30 is 3 in floating point, too."""


class Standing(IntEnum):
    """The trust in a person, or in the people who decide an example."""

    UNPROVEN = 0
    PROVEN = 1
    """Was active on enough days, and agrees with others."""
    VOUCHED = 2
    """Was let in or released by an admin."""
    TRUSTED = 3
    """An admin, or a trusted import."""


@dataclass(frozen=True, kw_only=True)
class RaterTrust:
    """How far each person is trusted."""

    trusted: frozenset[int] = frozenset()
    """People who may give any number of examples."""
    vouched: frozenset[int] = frozenset()
    """People whom an admin let in, or released from the quarantine."""
    newcomers: frozenset[int] = frozenset()
    """People who were active on too few days to be proven."""
    agreement: Mapping[int, float] | None = None
    """Agreement with others by person, from 0 (chance or less) to 1 (as the median person's); None
    if it could not be measured for anybody. Who is missing has shown none."""

    def standing(self, person: int) -> Standing:
        """Return the standing of a person, or of an import."""
        if person in self.trusted:
            return Standing.TRUSTED
        if person in self.vouched:
            return Standing.VOUCHED
        is_new = person in self.newcomers or person < 0
        if is_new or self._agreement(person) < PROVEN_AGREEMENT:
            return Standing.UNPROVEN
        return Standing.PROVEN

    def weight(self, person: int) -> float:
        """Return the part of a full share that a person may give, above 0 and up to 1."""
        vouched = self.standing(person) >= Standing.VOUCHED
        least = LEAST_VOUCHED_AGREEMENT if vouched else LEAST_AGREEMENT
        return max(least, self._agreement(person))

    def _agreement(self, person: int) -> float:
        return 1.0 if self.agreement is None else self.agreement.get(person, 0.0)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest shares of a run's examples, or of its exam."""

    room: int
    """Examples that there is room for."""
    person_share: float
    """Largest share of one person, who may give one example in any case; with few people, each may
    give as many as any other."""
    unproven_share: float
    """Largest share of all unproven people together, unless hardly anybody else gave any."""
    unvouched_share: float
    """Largest share of all people together whom no admin vouched for, once others gave enough."""
    enough: int
    """Examples by people whom an admin vouched for from which that holds."""
    unvouched_room: int
    """Examples of all others together for which there is room before that."""


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """An example, and the people whom it costs a part of their share."""

    example: AnyExample
    standing: Standing
    payers: tuple[int, ...]


def limit_shares(
    examples: ExampleSet, trust: RaterTrust, limits: Limits, *, best_first: bool = False
) -> ExampleSet:
    """Return as many of the examples as the limits allow.

    The newest are preferred. With `best_first`, those of the people with the best standing are, and
    of these each person's newest, then each person's second, and so on, so that many people speak;
    no more are returned than there is room for.
    """
    offers = [_offer(each, trust) for each in examples.every]
    offers.sort(key=lambda each: each.example.created_at, reverse=True)
    unlimited = [each for each in offers if each.standing is Standing.TRUSTED]
    limited = [each for each in offers if each.standing is not Standing.TRUSTED]
    if best_first:
        unlimited, limited = unlimited[: limits.room], _best_first(limited)
    kept = _Allotment(trust, limits, unlimited=len(unlimited)).choose(limited)
    if best_first:
        kept = kept[: limits.room - len(unlimited)]
    origins = {each.example.origin for each in (*unlimited, *kept)}
    return ExampleSet(
        unpaired=tuple(each for each in examples.unpaired if each.origin in origins),
        pairs=tuple(each for each in examples.pairs if each.origin in origins),
        demonstrations=tuple(each for each in examples.demonstrations if each.origin in origins),
    )


def _offer(each: AnyExample, trust: RaterTrust) -> _Offer:
    """Return an example with its standing, and the people who decide it."""
    standings = {rater: trust.standing(rater) for rater in each.raters}
    if not each.raters or Standing.TRUSTED in standings.values():
        return _Offer(example=each, standing=Standing.TRUSTED, payers=())
    is_text = each.origin.kind in (OriginKind.CORRECTED, OriginKind.DEMONSTRATED)
    for least in (Standing.VOUCHED, Standing.PROVEN):
        if is_text and least is Standing.PROVEN:
            break
        deciding = tuple(rater for rater, standing in standings.items() if standing >= least)
        against = sum(trust.standing(rater) >= least for rater in each.outvoted)
        if len(deciding) > against:
            return _Offer(example=each, standing=least, payers=deciding)
    return _Offer(example=each, standing=Standing.UNPROVEN, payers=each.raters)


def _best_first(newest_first: Iterable[_Offer]) -> list[_Offer]:
    given = Counter[int]()
    ranked = []
    for each in newest_first:
        given.update(each.payers)
        turn = min(given[payer] for payer in each.payers)
        ranked.append((-each.standing, turn, each))
    return [each for *_, each in sorted(ranked, key=lambda row: row[:2])]


class _Allotment:
    """A choice of offers such that nobody's exceed their share of what is chosen."""

    def __init__(self, trust: RaterTrust, limits: Limits, *, unlimited: int) -> None:
        self._trust = trust
        self._limits = limits
        self._unlimited = unlimited

    def choose(self, offers: Sequence[_Offer]) -> list[_Offer]:
        """Return the first offers that fit.

        Smaller shares leave fewer examples, of which the shares are then smaller, so the total that
        they are shares of is lowered until it is no larger than what it leaves.
        """
        proven = sum(each.standing >= Standing.PROVEN for each in offers) + self._unlimited
        vouched = sum(each.standing >= Standing.VOUCHED for each in offers) + self._unlimited
        has_pool = proven >= MIN_PROVEN_EXAMPLES
        shares = self._shares(offers, has_pool=has_pool)
        total = min(self._limits.room, self._unlimited + len(offers))
        while True:
            most = _Most(
                by_person={
                    person: max(1.0, share * total) + ROUNDING for person, share in shares.items()
                },
                unproven=self._limits.unproven_share * total + ROUNDING
                if has_pool
                else len(offers),
                unvouched=self._limits.unvouched_share * total + ROUNDING
                if vouched >= self._limits.enough
                else self._limits.unvouched_room,
            )
            kept = _fitting(offers, most)
            left = self._unlimited + len(kept)
            if left >= total:
                return kept
            total = left

    def _shares(self, offers: Sequence[_Offer], *, has_pool: bool) -> Mapping[int, float]:
        """Return the largest share of each person.

        Where the unproven have a limit together, however many they are takes nothing from others.
        """
        people = {payer for each in offers for payer in each.payers}
        weights = {person: self._trust.weight(person) for person in people}
        counted = [
            weight
            for person, weight in weights.items()
            if not has_pool or self._trust.standing(person) > Standing.UNPROVEN
        ]
        equal = 1 / max(1.0, sum(counted))
        share = max(self._limits.person_share, equal)
        equal_shares = 1 if self._trust.agreement is None else EQUAL_SHARES
        unvouched = min(share, equal_shares * equal)
        return {
            person: weight
            * (share if self._trust.standing(person) >= Standing.VOUCHED else unvouched)
            for person, weight in weights.items()
        }


@dataclass(frozen=True, kw_only=True)
class _Most:
    """The largest numbers of examples."""

    by_person: Mapping[int, float]
    unproven: float
    unvouched: float


def _fitting(offers: Sequence[_Offer], most: _Most) -> list[_Offer]:
    """Return the first offers that fit. One costs each of its n payers 1/n of an example."""
    by_person = defaultdict[int, float](float)
    unproven = unvouched = 0
    kept = []
    for each in offers:
        cost = 1 / len(each.payers)
        is_unproven = each.standing is Standing.UNPROVEN
        is_unvouched = each.standing < Standing.VOUCHED
        if (
            unproven + is_unproven > most.unproven
            or unvouched + is_unvouched > most.unvouched
            or any(by_person[payer] + cost > most.by_person[payer] for payer in each.payers)
        ):
            continue
        for payer in each.payers:
            by_person[payer] += cost
        unproven += is_unproven
        unvouched += is_unvouched
        kept.append(each)
    return kept
