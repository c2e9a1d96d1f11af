"""The audit log: what changed the bot, by whom, and when.

Commands and buttons of admins stand in it, commands of the command line, and decisions that the
machine made by itself. Each entry holds the hash of the one before, so that an entry that was
changed, taken out or put in is found (`verify`).
"""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.database import Database, Lock
from store.domain import AuditEntry
from store.tables import AuditRow

KEPT = timedelta(days=365)

ACTION_CHARS = 200
"""Length at which an action is cut."""

COMMAND_LINE = "command line"
MACHINE = "the bot itself"
"""Names of those who are nobody in Telegram."""


@dataclass(frozen=True, kw_only=True)
class AuditChain:
    """The result of a check of the audit log."""

    entries: int
    broken: tuple[int, ...]
    """Ids of entries that do not follow from the one before."""
    last_hash: str


class AuditEntries:
    """The audit log of one database; entries are kept for a year and never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, action: str, *, name: str, person_id: int | None = None) -> None:
        """Store what somebody does, as one line."""
        now = self._database.now()
        with self._database.session() as session:
            add_entry(session, action, now, name=name, person_id=person_id)
            session.execute(delete(AuditRow).where(AuditRow.created_at < now - KEPT))

    def recent(self, limit: int, *, before: int | None = None) -> tuple[AuditEntry, ...]:
        """Return the newest entries, newest first; with `before`, only older ones than that."""
        newest = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if before is not None:
            newest = newest.where(AuditRow.id < before)
        with self._database.reading() as session:
            return tuple(
                AuditEntry(
                    id=row.id,
                    person_id=row.person_id,
                    name=row.name,
                    action=row.action,
                    created_at=row.created_at,
                )
                for row in session.scalars(newest)
            )

    def verify(self) -> AuditChain:
        """Check the chain of entries.

        Found are entries that were changed, put in, or taken out between others. Not found is that
        the newest are missing, or the oldest, which go after a year: compare the hash of the last
        entry with one that was kept elsewhere. Entries of before there were hashes break nothing.
        """
        broken: list[int] = []
        count, before = 0, None
        with self._database.reading() as session:
            for row in session.scalars(select(AuditRow).order_by(AuditRow.id)):
                count += 1
                if row.hash is None and before is None:
                    continue
                # The first entry with a hash has none before it, or those before it went.
                is_first = before is None and (count == 1 or row.hash_before == "")
                if not (is_first or row.hash_before == before) or row.hash != _hash(row):
                    broken.append(row.id)
                before = row.hash
        return AuditChain(entries=count, broken=tuple(broken), last_hash=before or "")


def add_entry(
    session: Session,
    action: str,
    now: datetime,
    *,
    name: str = MACHINE,
    person_id: int | None = None,
) -> None:
    """Add an entry in the transaction of what it tells of."""
    Database.lock(session, Lock.AUDIT)
    newest = select(AuditRow.hash).order_by(AuditRow.id.desc()).limit(1)
    row = AuditRow(
        person_id=person_id,
        name=_line(name),
        action=_line(action),
        created_at=now,
        hash_before=session.scalar(newest) or "",
    )
    row.hash = _hash(row)
    session.add(row)
    session.flush()


def _line(text: str) -> str:
    """Return a text as one line without characters that show nothing or move others."""
    shown = (" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join("".join(shown).split())[:ACTION_CHARS]


def _hash(row: AuditRow) -> str:
    moment: datetime = row.created_at.astimezone(UTC)
    content = [row.hash_before, moment.isoformat(), row.person_id, row.name, row.action]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
