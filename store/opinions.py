"""People's opinions on turns: the thumbs that count, and the correction that stands.

A correction stands if at least as many people gave it as the reply has 👍 more than 👎, without the
thumbs of people who corrected it. So nobody overrules a group alone, and everybody may correct a
reply that nobody else liked.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from store.database import in_parts
from store.tables import CorrectionRow, FeedbackRow


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """The thumbs on a turn and the last correction by each person."""

    ratings: dict[int, int] = field(default_factory=dict)
    """+1 or −1 by person id."""
    rated_at: dict[int, datetime] = field(default_factory=dict)
    """The time of the rating by person id."""
    corrections: dict[int, CorrectionRow] = field(default_factory=dict)
    """The last correction by person id, oldest first."""

    @property
    def lead(self) -> int:
        """👍 less 👎; a tie teaches nothing."""
        return sum(self.ratings.values())

    @property
    def winners(self) -> tuple[int, ...]:
        """The people whose thumb is that of the majority."""
        lead = self.lead
        return tuple(id for id, rating in self.ratings.items() if rating * lead > 0)

    @property
    def outvoted(self) -> tuple[int, ...]:
        """The people whose thumb is not that of the majority."""
        lead = self.lead
        return tuple(id for id, rating in self.ratings.items() if rating * lead < 0)

    @property
    def support(self) -> int:
        """The number of people who stand for the answer: its correction's voices, or the lead."""
        standing = self.standing()
        return self._voices[_plain(standing[0])] if standing else self.lead

    def standing(self) -> tuple[CorrectionRow, ...]:
        """Return the corrections that stand; the first replaces the reply.

        Those that most people gave come first, and of these the newest.
        """
        voices = self._voices
        others = sum(
            rating for person, rating in self.ratings.items() if person not in self.corrections
        )
        ordered = sorted(
            self.corrections.values(), key=lambda row: (voices[_plain(row)], row.id), reverse=True
        )
        return tuple(each for each in ordered if voices[_plain(each)] >= others)

    @property
    def _voices(self) -> Counter[str]:
        return Counter(_plain(each) for each in self.corrections.values())


def read_opinions(
    session: Session,
    turn_ids: Collection[int],
    *,
    ratings: ColumnElement[bool],
    corrections: ColumnElement[bool],
) -> Mapping[int, Opinion]:
    """Return the opinions on turns: the ratings and corrections that meet the conditions."""
    opinions = defaultdict[int, Opinion](Opinion)
    for part in in_parts(turn_ids):
        for turn_id, person_id, rating, at in session.execute(_ratings(part).where(ratings)):
            opinions[turn_id].ratings[person_id] = rating
            opinions[turn_id].rated_at[person_id] = at
        for row in session.scalars(_corrections(part).where(corrections)):
            opinions[row.turn_id].corrections[row.person_id] = row
    return opinions


def _ratings(turn_ids: Sequence[int]) -> Select[int, int, int, datetime]:
    return (
        select(
            FeedbackRow.turn_id, FeedbackRow.person_id, FeedbackRow.rating, FeedbackRow.created_at
        )
        .where(FeedbackRow.turn_id.in_(turn_ids), FeedbackRow.replaced_at.is_(None))
        .order_by(FeedbackRow.id)
    )


def _corrections(turn_ids: Sequence[int]) -> Select[CorrectionRow]:
    last = (
        select(func.max(CorrectionRow.id))
        .where(CorrectionRow.turn_id.in_(turn_ids))
        .group_by(CorrectionRow.turn_id, CorrectionRow.person_id)
    )
    return (
        select(CorrectionRow)
        .where(CorrectionRow.id.in_(last), CorrectionRow.text != "")
        .order_by(CorrectionRow.id)
    )


def _plain(row: CorrectionRow) -> str:
    return " ".join(row.text.casefold().split())
