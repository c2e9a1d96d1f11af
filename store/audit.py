"""The audit log: the commands that admins gave the bot, and when."""

from datetime import timedelta

from sqlalchemy import delete, select

from store.database import Database
from store.domain import AuditEntry
from store.tables import AuditRow

KEPT = timedelta(days=365)


class AuditEntries:
    """The audit log of one database; entries are kept for a year and never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, person_id: int, name: str, action: str) -> None:
        """Store an admin's command or button, as it was sent."""
        now = self._database.now()
        with self._database.session() as session:
            session.add(AuditRow(person_id=person_id, name=name, action=action, created_at=now))
            session.execute(delete(AuditRow).where(AuditRow.created_at < now - KEPT))

    def recent(self, limit: int) -> tuple[AuditEntry, ...]:
        """Return the newest entries, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(limit))
            return tuple(
                AuditEntry(
                    person_id=row.person_id,
                    name=row.name,
                    action=row.action,
                    created_at=row.created_at,
                )
                for row in rows
            )
