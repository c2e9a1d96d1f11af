"""The inbox: every update is stored here before Telegram is told that it was received.

An update is handled once, by its id, however often and by whichever process it is received. The
process that handles it holds a lease; when that runs out, because the process died, another one
takes the update over. A handled update is emptied; its id is kept for as long as Telegram might
send it again.
"""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from store.database import Database
from store.tables import UpdateRow

LEASE = timedelta(seconds=60)
"""Time after which a lease runs out; a living process renews it several times before."""

REMEMBERED = timedelta(days=2)
"""Time for which ids are kept; Telegram keeps an update for a day."""

ATTEMPTS = 3
"""Number of tries; an update during which the process died so often is not tried again."""


class Updates:
    """The updates of one database, for one process that handles them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = uuid4().hex

    def take_in(self, update_id: int, person_id: int | None, body: dict[str, Any]) -> bool:
        """Store an update and hold it; False if it is known already."""
        try:
            with self._database.session() as session:
                if session.get(UpdateRow, update_id) is not None:
                    return False
                now = self._database.now()
                session.add(
                    UpdateRow(
                        id=update_id,
                        person_id=person_id,
                        body=body,
                        received_at=now,
                        holder=self._holder,
                        held_until=now + LEASE,
                        attempts=1,
                        handled_at=None,
                    )
                )
        except IntegrityError:  # received by another process in the same moment
            return False
        return True

    def handled(self, update_id: int) -> None:
        """Mark an update as handled, and delete its contents."""
        with self._database.session() as session:
            session.execute(
                update(UpdateRow)
                .where(UpdateRow.id == update_id)
                .values(body={}, person_id=None, handled_at=self._database.now())
            )

    def hold(self) -> None:
        """Renew the lease on everything that this process has not handled yet."""
        with self._database.session() as session:
            session.execute(
                update(UpdateRow)
                .where(UpdateRow.holder == self._holder, UpdateRow.handled_at.is_(None))
                .values(held_until=self._database.now() + LEASE)
            )

    def take_over(self, *, alone: bool = False) -> list[dict[str, Any]]:
        """Take over updates that nobody holds any more; return them, oldest first. See `ATTEMPTS`.

        `alone` says that no other process handles updates, so that no lease needs to run out.
        """
        now = self._database.now()
        with self._database.session() as session:
            left = (
                UpdateRow.handled_at.is_(None),
                UpdateRow.holder != self._holder,
                *(() if alone else (UpdateRow.held_until < now,)),
            )
            session.execute(
                update(UpdateRow)
                .where(*left, UpdateRow.attempts >= ATTEMPTS)
                .values(body={}, person_id=None, handled_at=now)
            )
            # Another process that takes over at the same time waits here and then finds them held.
            rows = session.execute(
                update(UpdateRow)
                .where(*left)
                .values(
                    holder=self._holder, held_until=now + LEASE, attempts=UpdateRow.attempts + 1
                )
                .returning(UpdateRow.id, UpdateRow.body)
            ).all()
        return [body for _, body in sorted(rows, key=lambda row: int(row[0]))]

    def sweep(self) -> None:
        """Delete the ids of updates that Telegram will not send again."""
        with self._database.session() as session:
            session.execute(
                delete(UpdateRow).where(UpdateRow.handled_at < self._database.now() - REMEMBERED)
            )
