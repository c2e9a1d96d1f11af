"""Statistics: counts over all ratings, runs, updates and documents of one database.

Every count reads an index and no turn, so that it stays fast with a million turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ScalarSelect, exists, func, select

from store.database import Database
from store.domain import Rating, Tally
from store.tables import AdapterRow, DocumentRow, FeedbackRow, PersonRow, RunRow, UpdateRow


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

    def ratings_by_version(self, newest: int | None = None) -> tuple[VersionRatings, ...]:
        """Return the ratings of every rated version, oldest first, the base model before them.

        `newest` leaves out all but so many of the newest.
        """
        up, down = (_count_of(AdapterRow.name, rating) for rating in Rating)
        is_rated = exists().where(
            FeedbackRow.adapter == AdapterRow.name, FeedbackRow.replaced_at.is_(None)
        )
        versions = select(AdapterRow.name, up, down).where(is_rated)
        base = select(_count_of(None, Rating.UP), _count_of(None, Rating.DOWN))
        with self._database.reading() as session:
            newest_first = versions.order_by(AdapterRow.id.desc()).limit(newest)
            rows: list[Any] = [*session.execute(newest_first)]
            if newest is None or len(rows) < newest:
                ups, downs = session.execute(base).one()
                rows += [(None, ups, downs)] if ups + downs else []
        return tuple(
            VersionRatings(adapter=adapter, tally=Tally(up=ups, down=downs))
            for adapter, ups, downs in reversed(rows)
        )

    def ratings(self) -> Tally:
        """Return the ratings that stand, of all versions."""
        tallies = [each.tally for each in self.ratings_by_version()]
        return Tally(up=sum(each.up for each in tallies), down=sum(each.down for each in tallies))

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


def _count_of(adapter: Any, rating: Rating) -> ScalarSelect[int]:
    """Return the subquery that counts the ratings of one kind that stand for a version."""
    return (
        select(func.count())
        .where(
            FeedbackRow.replaced_at.is_(None),
            FeedbackRow.adapter == adapter,
            FeedbackRow.rating == rating,
        )
        .scalar_subquery()
    )


def _tally(by_rating: Mapping[int, int]) -> Tally:
    return Tally(
        up=sum(count for rating, count in by_rating.items() if rating > 0),
        down=sum(count for rating, count in by_rating.items() if rating <= 0),
    )
