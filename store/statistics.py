"""Statistics: counts over all ratings, runs, updates and documents of one database.

Every count reads an index and no turn, so that it stays fast with a million turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import func, select

from store.database import Database
from store.domain import Tally
from store.tables import DocumentRow, FeedbackRow, PersonRow, RunRow, UpdateRow


@dataclass(frozen=True, kw_only=True)
class VersionRatings:
    """The ratings that stand for the replies of one version; `adapter` is None for the base."""

    adapter: str | None
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class DayRatings:
    """The ratings given on one day (UTC) that still stand."""

    day: date
    tally: Tally


class Statistics:
    """The counts that reports and monitoring show."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ratings_by_version(self) -> tuple[VersionRatings, ...]:
        """Return the ratings of every rated version, in the order of their first ratings."""
        with self._database.reading() as session:
            rows = session.execute(
                select(
                    FeedbackRow.adapter,
                    FeedbackRow.rating,
                    func.count(),
                    func.min(FeedbackRow.id),
                )
                .where(FeedbackRow.replaced_at.is_(None))
                .group_by(FeedbackRow.adapter, FeedbackRow.rating)
            ).all()
        counts: dict[str | None, dict[int, int]] = {}
        for adapter, rating, count, _ in sorted(rows, key=lambda row: row[3]):
            counts.setdefault(adapter, {})[rating] = count
        return tuple(
            VersionRatings(adapter=adapter, tally=_tally(by_rating))
            for adapter, by_rating in counts.items()
        )

    def ratings_by_day(self, days: int) -> tuple[DayRatings, ...]:
        """Return the ratings of each of the last `days` days, oldest first, today included."""
        today = self._database.now().date()
        return tuple(
            DayRatings(day=day, tally=self._ratings_of(day))
            for day in (today - timedelta(days=back) for back in range(days - 1, -1, -1))
        )

    def runs_by_status(self) -> dict[str, int]:
        """Return the number of training runs with each status."""
        with self._database.reading() as session:
            rows = session.execute(select(RunRow.status, func.count()).group_by(RunRow.status))
            return dict(rows.all())

    def updates_waiting(self) -> int:
        """Return the number of updates that are stored and not handled yet."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).where(UpdateRow.handled_at.is_(None))) or 0

    def people(self) -> int:
        """Return the number of people who have written to the bot or rated a reply."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(PersonRow)) or 0

    def documents(self) -> int:
        """Return the number of documents."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(DocumentRow)) or 0

    def documents_pending(self) -> int:
        """Return the number of documents that were never indexed."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).where(DocumentRow.indexed_in.is_(None))) or 0

    def _ratings_of(self, day: date) -> Tally:
        begins = datetime.combine(day, time(), UTC)
        with self._database.reading() as session:
            rows = session.execute(
                select(FeedbackRow.rating, func.count())
                .where(
                    FeedbackRow.replaced_at.is_(None),
                    FeedbackRow.created_at >= begins,
                    FeedbackRow.created_at < begins + timedelta(days=1),
                )
                .group_by(FeedbackRow.rating)
            )
            return _tally(dict(rows.all()))


def _tally(by_rating: Mapping[int, int]) -> Tally:
    return Tally(
        up=sum(count for rating, count in by_rating.items() if rating > 0),
        down=sum(count for rating, count in by_rating.items() if rating <= 0),
    )
