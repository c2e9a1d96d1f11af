"""Invitations: tokens that let people in until they expire or their places are taken.

Only the token's SHA-256 is kept, so that nobody who reads the database can use it.
"""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from store.database import Database
from store.domain import Access
from store.memories import retry_withheld
from store.tables import InvitationRow, PersonRow

TOKEN_BYTES = 16


class Invitations:
    """The invitations of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, *, lasts: timedelta, places: int) -> tuple[str, datetime]:
        """Make a token for a number of people; return it and the time when it expires."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now = self._database.now()
        with self._database.session() as session:
            session.execute(delete(InvitationRow).where(InvitationRow.expires_at <= now))
            session.add(
                InvitationRow(
                    token_sha256=_digest(token),
                    expires_at=now + lasts,
                    places=places,
                )
            )
        return token, now + lasts

    def accept(self, token: str, person_id: int) -> bool:
        """Let a person in by a token, unless an admin has decided; return whether it did."""
        with self._database.session() as session:
            found = session.scalar(
                select(InvitationRow)
                .where(
                    InvitationRow.token_sha256 == _digest(token),
                    InvitationRow.expires_at > self._database.now(),
                )
                .with_for_update()
            )
            person = session.get(PersonRow, person_id, with_for_update=True)
            if found is None or person is None or person.access != Access.UNDECIDED:
                return False
            person.access = Access.INVITED
            retry_withheld(session)
            found.places -= 1
            if not found.places:
                session.delete(found)
            return True

    def withdraw(self) -> int:
        """Make every token invalid; return the number of tokens that still let people in."""
        with self._database.session() as session:
            rows = session.scalars(select(InvitationRow)).all()
            session.execute(delete(InvitationRow))
            return sum(row.expires_at > self._database.now() for row in rows)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
