"""The split of examples into those that are trained on and those that are measured with.

Invariant: what is held out once is held out for ever. A keyed hash of the turn decides (of the
first answer, for a regenerated one), or of an imported prompt. The key is made once and never
changed, so nobody who can see a turn's number knows on which side it is.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.database import Database, Lock
from store.tables import RunExampleRow, SplitKeyRow

HELD_OUT_SHARE = 0.2
"""The share that is held out. No setting: another share would train on what was held out."""

KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Split:
    """The split of one database.

    Examples before the first ids were used by runs of versions that had no key; a hash without one
    goes on to decide these.
    """

    key: bytes
    first_turn_id: int = 0
    first_imported_id: int = 0

    def holds_out_turn(self, turn_id: int) -> bool:
        """Return whether the examples of a turn, or of the first of its answers, are held out."""
        key = self.key if turn_id >= self.first_turn_id else b""
        return _is_held_out(f"turn {turn_id}", key)

    def holds_out_import(self, imported_id: int, prompt_sha256: str) -> bool:
        """Return whether imported examples with a prompt are held out."""
        key = self.key if imported_id >= self.first_imported_id else b""
        return _is_held_out(f"imported {prompt_sha256}", key)


def read_split(database: Database) -> Split:
    """Return the split of a database; its key is made at the first call."""
    with database.reading() as session:
        row = session.get(SplitKeyRow, 1)
    if row is None:
        with database.session() as session:
            database.lock(session, Lock.SPLIT)
            row = session.get(SplitKeyRow, 1) or _make_key(session)
    return Split(
        key=row.key,
        first_turn_id=row.first_turn_id,
        first_imported_id=row.first_imported_id,
    )


def _make_key(session: Session) -> SplitKeyRow:
    def first_unused(column: object) -> int:
        return (session.scalar(select(func.max(column))) or -1) + 1

    row = SplitKeyRow(
        id=1,
        key=new_key(),
        first_turn_id=max(
            first_unused(RunExampleRow.turn_id), first_unused(RunExampleRow.other_turn_id)
        ),
        first_imported_id=first_unused(RunExampleRow.imported_id),
    )
    session.add(row)
    session.flush()
    return row


def new_key() -> bytes:
    """Return a key that nobody can guess."""
    return secrets.token_bytes(KEY_BYTES)


def _is_held_out(name: str, key: bytes) -> bool:
    if key:
        digest = hmac.digest(key, name.encode(), "sha256")
    else:
        digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8]) < HELD_OUT_SHARE * 2**64
