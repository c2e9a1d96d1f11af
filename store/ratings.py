"""Ratings and corrections. A person's last rating of a turn counts; earlier ones are kept.

Invariant: at most one row per person and turn has no `replaced_at`, and that row is their rating.
"""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import Correction, Feedback, Rating, RatingSource, Tally
from store.errors import TurnNotFound
from store.memories import remember
from store.tables import CorrectionRow, FeedbackRow, SpentRow, TurnRow

CHANGES_KEPT = 10
"""Ratings of one person on one turn that are kept beside the one that stands."""


class Ratings:
    """The ratings and corrections of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rate(
        self, turn_id: int, person_id: int, rating: Rating | None, source: RatingSource
    ) -> bool:
        """Record a person's rating of a turn, and return whether anything changed.

        None takes their rating back; the same rating twice changes nothing. Raises `TurnNotFound`.
        """
        with self._database.session() as session:
            adapter = _adapter_of(session, turn_id)
            last = session.scalars(
                select(FeedbackRow).where(
                    FeedbackRow.turn_id == turn_id,
                    FeedbackRow.person_id == person_id,
                    FeedbackRow.replaced_at.is_(None),
                )
            ).first()
            if (last.rating if last else None) == rating:
                return False
            now = self._database.now()
            if last is not None:
                last.replaced_at = now
                session.flush()  # before the new row, or the unique index would refuse it
            if rating is not None:
                session.add(
                    FeedbackRow(
                        turn_id=turn_id,
                        person_id=person_id,
                        rating=int(rating),
                        adapter=adapter,
                        source=source,
                        created_at=now,
                        replaced_at=None,
                    )
                )
                session.flush()
            _forget_old_changes(session, turn_id, person_id)
            remember(session, [turn_id])
            return True

    def ratings(self, turn_id: int) -> tuple[Feedback, ...]:
        """Return everybody's last rating of a turn."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(FeedbackRow)
                .where(FeedbackRow.turn_id == turn_id, FeedbackRow.replaced_at.is_(None))
                .order_by(FeedbackRow.id)
            )
            return tuple(_feedback(row) for row in rows)

    def tally(self, turn_id: int) -> Tally:
        """Return the number of people who rated a turn each way."""
        ratings = [feedback.rating for feedback in self.ratings(turn_id)]
        return Tally(up=ratings.count(Rating.UP), down=ratings.count(Rating.DOWN))

    def revisions(self, turn_id: int, person_id: int) -> tuple[Feedback, ...]:
        """Return every rating of a turn by a person, oldest first, taken back or not."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(FeedbackRow)
                .where(FeedbackRow.turn_id == turn_id, FeedbackRow.person_id == person_id)
                .order_by(FeedbackRow.id)
            )
            return tuple(_feedback(row) for row in rows)

    def correct(self, turn_id: int, person_id: int, text: str) -> Correction:
        """Record a person's correction of a reply. Raises `TurnNotFound`.

        The text that they gave last, given again, changes nothing.
        """
        with self._database.session() as session:
            _adapter_of(session, turn_id)
            last = _last_correction(session, turn_id, person_id)
            if last is not None and last.text == text:
                return _correction(last)
            row = CorrectionRow(
                turn_id=turn_id, person_id=person_id, text=text, created_at=self._database.now()
            )
            session.add(row)
            session.flush()
            remember(session, [turn_id])
            return _correction(row)

    def was_given(self, turn_id: int, person_id: int, text: str) -> bool:
        """Return whether a text is the last correction that a person gave of a turn."""
        with self._database.reading() as session:
            last = _last_correction(session, turn_id, person_id)
            return last is not None and last.text == text

    def corrections(self, turn_id: int) -> tuple[Correction, ...]:
        """Return every correction of a turn, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(CorrectionRow)
                .where(CorrectionRow.turn_id == turn_id)
                .order_by(CorrectionRow.id)
            )
            return tuple(_correction(row) for row in rows)

    def given_by(self, person_id: int, lately: timedelta) -> int:
        """Return the number of a person's ratings and corrections in the last `lately`."""
        since = self._database.now() - lately
        with self._database.reading() as session:
            erased = select(func.sum(SpentRow.ratings)).where(
                SpentRow.person_id == person_id, SpentRow.created_at > since
            )
            given = [
                select(func.count()).where(table.person_id == person_id, table.created_at > since)
                for table in (FeedbackRow, CorrectionRow)
            ]
            return sum(session.scalar(count) or 0 for count in (erased, *given))


def _last_correction(session: Session, turn_id: int, person_id: int) -> CorrectionRow | None:
    return session.scalars(
        select(CorrectionRow)
        .where(CorrectionRow.turn_id == turn_id, CorrectionRow.person_id == person_id)
        .order_by(CorrectionRow.id.desc())
        .limit(1)
    ).first()


def _forget_old_changes(session: Session, turn_id: int, person_id: int) -> None:
    """Keep only the newest of a person's changes of mind about a turn."""
    of_them = (FeedbackRow.turn_id == turn_id, FeedbackRow.person_id == person_id)
    older = (
        select(FeedbackRow.id)
        .where(*of_them, FeedbackRow.replaced_at.is_not(None))
        .order_by(FeedbackRow.id.desc())
        .offset(CHANGES_KEPT)
    )
    session.execute(delete(FeedbackRow).where(FeedbackRow.id.in_(session.scalars(older).all())))


def _adapter_of(session: Session, turn_id: int) -> str | None:
    """Lock a turn and return the adapter that wrote it. Raises `TurnNotFound`.

    The lock puts one person's ratings of one turn in order, on Postgres too.
    """
    turn = session.execute(
        select(TurnRow.id, TurnRow.adapter).where(TurnRow.id == turn_id).with_for_update()
    ).first()
    if turn is None:
        raise TurnNotFound(turn_id)
    adapter: str | None = turn[1]
    return adapter


def _feedback(row: FeedbackRow) -> Feedback:
    return Feedback(
        turn_id=row.turn_id,
        person_id=row.person_id,
        rating=Rating(row.rating),
        source=RatingSource(row.source),
        created_at=row.created_at,
    )


def _correction(row: CorrectionRow) -> Correction:
    return Correction(
        id=row.id,
        turn_id=row.turn_id,
        person_id=row.person_id,
        text=row.text,
        created_at=row.created_at,
    )
