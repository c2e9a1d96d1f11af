"""People whose ratings are held back: they teach nothing until an admin has looked.

Invariant: a person whom an admin has released is not held back again.
"""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from store.audit import add_entry
from store.database import Database
from store.domain import Suspect
from store.memories import of_person, reconsider, retry_withheld
from store.tables import PersonRow, QuarantineRow


class Suspects:
    """The quarantine of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, person_id: int, reason: str) -> bool:
        """Hold a person's ratings back; return whether that is new."""
        try:
            with self._database.session() as session:
                if session.get(QuarantineRow, person_id) is not None:
                    return False
                now = self._database.now()
                session.add(QuarantineRow(person_id=person_id, reason=reason, held_at=now))
                session.flush()
                reconsider(session, of_person(person_id))
                add_entry(session, f"holds the ratings of {person_id} back: {reason}", now)
        except IntegrityError:  # they were erased meanwhile
            return False
        return True

    def release(self, person_id: int) -> bool:
        """Let a person's ratings teach; return whether they were held back."""
        with self._database.session() as session:
            row = session.get(QuarantineRow, person_id)
            if row is None or row.released_at is not None:
                return False
            row.released_at = self._database.now()
            session.flush()
            reconsider(session, of_person(person_id))
            retry_withheld(session)
            return True

    def held(self) -> tuple[Suspect, ...]:
        """Return the people who are held back, newest first."""
        with self._database.reading() as session:
            rows = session.execute(
                select(QuarantineRow, PersonRow.name)
                .join(PersonRow, PersonRow.id == QuarantineRow.person_id)
                .where(QuarantineRow.released_at.is_(None))
                .order_by(QuarantineRow.held_at.desc(), QuarantineRow.person_id)
            )
            return tuple(
                Suspect(person_id=row.person_id, name=name, reason=row.reason, held_at=row.held_at)
                for row, name in rows
            )

    def released(self) -> frozenset[int]:
        """Return the people whom an admin has released."""
        with self._database.reading() as session:
            return frozenset(
                session.scalars(
                    select(QuarantineRow.person_id).where(QuarantineRow.released_at.is_not(None))
                )
            )
