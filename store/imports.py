"""Imports of preferences that were collected elsewhere: who made them, and how to withdraw one."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, func, select

from store.database import Database, Lock
from store.domain import Message
from store.errors import ImportNotFound
from store.examples import preference_sha256
from store.tables import AdapterRow, ImportedRow, ImportRow, RunExampleRow


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A line of a preference file: a labelled or demonstrated completion, or a pair."""

    prompt: tuple[Message, ...]
    completion: str
    rejected: str | None = None
    label: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Import:
    """An import, with the number of its preferences."""

    id: int
    source: str
    imported_by: str
    """The account that ran the command; empty for imports of versions that did not record it."""
    trusted: bool
    preferences: int
    created_at: datetime


class Imports:
    """The imports of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take_in(
        self, preferences: Iterable[Preference], *, source: str, imported_by: str, trusted: bool
    ) -> int:
        """Import the preferences that are not here yet, and return their number.

        Either all of them are imported or none: it is one transaction. A trusted import may give
        any part of a run's examples; any other counts as one new person.
        """
        added = 0
        with self._database.session() as session:
            self._database.lock(session, Lock.IMPORTS)
            known = set(session.scalars(select(ImportedRow.digest)))
            row = ImportRow(
                source=source,
                imported_by=imported_by,
                trusted=trusted,
                created_at=self._database.now(),
            )
            for each in preferences:
                digest = preference_sha256(
                    each.prompt, each.completion, rejected=each.rejected, label=each.label
                )
                if digest in known:
                    continue
                if not added:
                    session.add(row)
                    session.flush()
                known.add(digest)
                session.add(
                    ImportedRow(
                        import_id=row.id,
                        digest=digest,
                        prompt=[asdict(message) for message in each.prompt],
                        completion=each.completion,
                        rejected=each.rejected,
                        label=each.label,
                        created_at=self._database.now(),
                    )
                )
                added += 1
        return added

    def all(self) -> tuple[Import, ...]:
        """Return every import that was not withdrawn, oldest first."""
        count = func.count(ImportedRow.id)
        with self._database.reading() as session:
            rows = session.execute(
                select(ImportRow, count)
                .outerjoin(ImportedRow, ImportedRow.import_id == ImportRow.id)
                .group_by(ImportRow.id)
                .order_by(ImportRow.id)
            )
            return tuple(
                Import(
                    id=row.id,
                    source=row.source,
                    imported_by=row.imported_by,
                    trusted=row.trusted,
                    preferences=preferences,
                    created_at=row.created_at,
                )
                for row, preferences in rows
            )

    def withdraw(self, import_id: int) -> tuple[str, ...]:
        """Delete an import with all its preferences; return the versions that learned from it.

        Raises `ImportNotFound`.
        """
        of_import = select(ImportedRow.id).where(ImportedRow.import_id == import_id)
        with self._database.session() as session:
            self._database.lock(session, Lock.IMPORTS)
            if session.get(ImportRow, import_id) is None:
                raise ImportNotFound(import_id)
            runs = select(RunExampleRow.run_id).where(RunExampleRow.imported_id.in_(of_import))
            versions = session.scalars(
                select(AdapterRow.name).where(AdapterRow.run_id.in_(runs)).order_by(AdapterRow.id)
            ).all()
            session.execute(delete(ImportedRow).where(ImportedRow.import_id == import_id))
            session.execute(delete(ImportRow).where(ImportRow.id == import_id))
        return tuple(versions)
