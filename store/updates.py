"""The inbox: every update is stored here before Telegram is told that it was received.

An update is handled once, by its id, however often and by whichever process it is received. The
process that handles it holds a lease; when that runs out, because the process died, another one
takes the update over. A handled update is emptied; its id is kept for as long as Telegram might
send it again. One that could not be handled keeps its body for that time, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Row, delete, select, update
from sqlalchemy.exc import IntegrityError

from store.database import Database, in_parts
from store.tables import UpdateRow

LEASE = timedelta(seconds=60)
"""Time after which a lease runs out; a living process renews it several times before."""

REMEMBERED = timedelta(days=2)
"""Time for which ids are kept; Telegram keeps an update for a day."""

ATTEMPTS = 3
"""Attempts that began and did not end, because the process died, until an update is given up."""

REASON_CHARS = 500
"""Length at which the reason of a failure is cut."""


@dataclass(frozen=True, kw_only=True)
class ReceivedUpdate:
    """An update as Telegram sent it."""

    id: int
    person_id: int | None
    body: dict[str, Any]


class Updates:
    """The updates of one database, for one process that handles them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = uuid4().hex

    def take_in(self, updates: Sequence[ReceivedUpdate]) -> set[int]:
        """Store updates and hold them; return the ids of those that this process is to handle.

        Among them are updates that it holds already and has not handled: it may have stored them
        without being told so, as when a connection breaks. Others were known before.
        """
        try:
            return self._take_in(updates)
        except IntegrityError:  # one was received by another process in the same moment
            return {id for each in updates for id in self._take_in_if_new(each)}

    def _take_in(self, updates: Sequence[ReceivedUpdate]) -> set[int]:
        with self._database.session() as session:
            known: set[int] = set()
            ours: set[int] = set()
            is_ours = (UpdateRow.holder == self._holder) & UpdateRow.handled_at.is_(None)
            for part in in_parts(each.id for each in updates):
                for id, is_held in session.execute(
                    select(UpdateRow.id, is_ours).where(UpdateRow.id.in_(part))
                ):
                    known.add(id)
                    if is_held:
                        ours.add(id)
            now = self._database.time(session)
            new = {each.id: each for each in updates if each.id not in known}
            session.add_all(
                UpdateRow(
                    id=each.id,
                    person_id=each.person_id,
                    body=each.body,
                    received_at=now,
                    holder=self._holder,
                    held_until=now + LEASE,
                    attempts=0,
                    handled_at=None,
                )
                for each in new.values()
            )
        return ours | set(new)

    def _take_in_if_new(self, received: ReceivedUpdate) -> set[int]:
        try:
            return self._take_in([received])
        except IntegrityError:
            return set()

    def begin(self, update_ids: Sequence[int]) -> None:
        """Count an attempt to handle updates, which has not ended yet."""
        with self._database.session() as session:
            for part in in_parts(update_ids):
                session.execute(
                    update(UpdateRow)
                    .where(UpdateRow.id.in_(part))
                    .values(attempts=UpdateRow.attempts + 1)
                )

    def handled(self, update_ids: Sequence[int]) -> None:
        """Mark updates as handled, and delete their contents."""
        with self._database.session() as session:
            now = self._database.time(session)
            for part in in_parts(update_ids):
                session.execute(
                    update(UpdateRow)
                    .where(UpdateRow.id.in_(part))
                    .values(body={}, person_id=None, handled_at=now)
                )

    def fail(self, update_id: int, reason: str) -> None:
        """Mark an update as one that cannot be handled; store it if it is not known."""
        with self._database.session() as session:
            now = self._database.time(session)
            row = session.get(UpdateRow, update_id)
            if row is None:
                row = UpdateRow(
                    id=update_id,
                    person_id=None,
                    body={},
                    received_at=now,
                    holder=self._holder,
                    held_until=now,
                    attempts=0,
                )
                session.add(row)
            row.handled_at = now
            row.failure = reason[:REASON_CHARS].encode(errors="replace").decode()

    def hold(self) -> None:
        """Renew the lease on everything that this process has not handled yet."""
        with self._database.session() as session:
            session.execute(
                update(UpdateRow)
                .where(UpdateRow.holder == self._holder, UpdateRow.handled_at.is_(None))
                .values(held_until=self._database.time(session) + LEASE)
            )

    def release(self, begun: Sequence[int]) -> None:
        """End the lease on everything that this process has not handled.

        `begun` are updates whose handling was stopped in good order: that attempt does not count.
        """
        with self._database.session() as session:
            for part in in_parts(begun):
                session.execute(
                    update(UpdateRow)
                    .where(UpdateRow.id.in_(part), UpdateRow.attempts > 0)
                    .values(attempts=UpdateRow.attempts - 1)
                )
            session.execute(
                update(UpdateRow)
                .where(UpdateRow.holder == self._holder, UpdateRow.handled_at.is_(None))
                .values(held_until=self._database.time(session) - LEASE)
            )

    def give_up(self, *, alone: bool = False) -> list[ReceivedUpdate]:
        """Mark updates that processes died of as failed; return them. See `ATTEMPTS`.

        `alone` says that no other process handles updates, so that no lease needs to run out.
        """
        with self._database.session() as session:
            now = self._database.time(session)
            rows = session.execute(
                update(UpdateRow)
                .where(*self._left(now, alone=alone), UpdateRow.attempts >= ATTEMPTS)
                .values(handled_at=now, failure="the process died while it was handled")
                .returning(UpdateRow.id, UpdateRow.person_id, UpdateRow.body)
            ).all()
        return _oldest_first(rows)

    def take_over(self, *, alone: bool = False) -> list[ReceivedUpdate]:
        """Take over updates that nobody holds any more; return them, oldest first.

        `alone` says that no other process handles updates, so that no lease needs to run out.
        """
        with self._database.session() as session:
            now = self._database.time(session)
            # Another process that takes over at the same time waits here and then finds them held.
            rows = session.execute(
                update(UpdateRow)
                .where(*self._left(now, alone=alone), UpdateRow.attempts < ATTEMPTS)
                .values(holder=self._holder, held_until=now + LEASE)
                .returning(UpdateRow.id, UpdateRow.person_id, UpdateRow.body)
            ).all()
        return _oldest_first(rows)

    def sweep(self) -> None:
        """Delete the ids of updates that Telegram will not send again."""
        with self._database.session() as session:
            forgotten = self._database.time(session) - REMEMBERED
            session.execute(delete(UpdateRow).where(UpdateRow.handled_at < forgotten))

    def _left(self, now: Any, *, alone: bool) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions of updates that another process left."""
        left = (UpdateRow.handled_at.is_(None), UpdateRow.holder != self._holder)
        return left if alone else (*left, UpdateRow.held_until < now)


def _oldest_first(
    rows: Sequence[Row[int, int | None, dict[str, Any]]],
) -> list[ReceivedUpdate]:
    found = (ReceivedUpdate(id=row[0], person_id=row[1], body=row[2]) for row in rows)
    return sorted(found, key=lambda each: each.id)
