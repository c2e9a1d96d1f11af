"""Tombstones: who was erased and when, so that restoring an older backup brings nobody back.

A tombstone has no id: only a keyed hash of it, by which a person who is there again is recognised.
"""

import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.database import Database
from store.split import read_split
from store.tables import ErasureRow, PersonRow, TombstoneRow


class Tombstones:
    """The tombstones of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = read_split(database).key

    def set(self, session: Session, person_id: int) -> None:
        """Set a person's tombstone in the transaction that ends their erasure."""
        row = TombstoneRow(digest=self._digest(person_id), erased_at=self._database.now())
        session.merge(row)

    def after(self, moment: datetime) -> Mapping[str, datetime]:
        """Return the hashes of people who were erased after a moment, with the time."""
        with self._database.reading() as session:
            rows = session.scalars(select(TombstoneRow).where(TombstoneRow.erased_at > moment))
            return {row.digest: row.erased_at for row in rows}

    def matching(self, people: Iterable[int], digests: Iterable[str]) -> frozenset[int]:
        """Return those of some people who have one of the hashes."""
        wanted = set(digests)
        return frozenset(each for each in people if self._digest(each) in wanted)

    def _digest(self, person_id: int) -> str:
        return hmac.digest(self._key, f"person {person_id}".encode(), "sha256").hex()


def erase_again(older: Database, newer: Database, moment: datetime) -> int:
    """Begin to erase people in an older copy whom a newer one erased after a moment.

    `Eraser.resume` carries it out. Returns the number of people.
    """
    tombstones = Tombstones(newer)
    gone = tombstones.after(moment)
    with older.session() as session:
        people = tombstones.matching(session.scalars(select(PersonRow.id)), gone)
        for person_id in people:
            session.merge(ErasureRow(person_id=person_id, requested_at=older.now()))
        for digest, erased_at in gone.items():
            session.merge(TombstoneRow(digest=digest, erased_at=erased_at))
    return len(people)
