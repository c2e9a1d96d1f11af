"""Adapters: rows in SQL, and directories that are named by their content.

Invariant: an adapter's files never change under its name, and at most one adapter is active.
"""

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store.adapter_files import copy_adapter, flush, folder_of, hash_adapter
from store.audit import add_entry
from store.database import Database, Lock
from store.domain import Activation, Adapter, AdapterNotes, AdapterStatus, Check, GateReport
from store.errors import AdapterDamaged, AdapterNotFit, AdapterNotFound, NothingToRollBack
from store.tables import ActivationRow, AdapterRow, EvaluationRow, RunRow

BEING_MADE_SECONDS = 3600.0
"""Age below which a directory without a row may still be in the making by another process."""

_NOTES = TypeAdapter(AdapterNotes)
_UNUSED = (AdapterStatus.RETIRED, AdapterStatus.REJECTED)
_WITH_FILES = (*_UNUSED, AdapterStatus.CANDIDATE)


class Adapters:
    """The adapters of one database, with their directories under one folder."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def add(
        self,
        source: Path,
        *,
        base_model: str,
        run_id: int | None = None,
        notes: AdapterNotes | None = None,
    ) -> Adapter:
        """Copy a finished adapter in, as a candidate. Raises `AdapterDamaged`.

        The copy is made aside and renamed, so a half-written directory is never seen.
        """
        sha256 = hash_adapter(source)
        aside = self._folder / f".{uuid4().hex}"
        try:
            copy_adapter(source, aside)
            return self._add(aside, sha256, base_model, run_id, notes or AdapterNotes())
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _add(
        self,
        aside: Path,
        sha256: str,
        base_model: str,
        run_id: int | None,
        notes: AdapterNotes,
    ) -> Adapter:
        with self._database.session() as session:
            self._database.lock(session, Lock.ADAPTERS)
            sequence = (session.scalar(select(func.max(AdapterRow.id))) or 0) + 1
            name = f"a{sequence}-{sha256[:8]}"
            path = self._folder / name
            shutil.rmtree(path, ignore_errors=True)  # left by a crash before the commit
            aside.rename(path)
            flush(self._folder)
            run = session.get(RunRow, run_id, with_for_update=True) if run_id is not None else None
            row = AdapterRow(
                name=name,
                sha256=sha256,
                base_model=base_model,
                run_id=run_id,
                status=AdapterStatus.CANDIDATE,
                metrics=_NOTES.dump_python(notes, mode="json"),
                erased_at=run.erased_at if run else None,
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            return self._adapter(row)

    def get(self, name: str) -> Adapter:
        """Return the adapter with a name, after a check of its files.

        Raises `AdapterNotFound`, `AdapterDamaged`, or `AdapterNotFit` for one that was removed.
        """
        with self._database.reading() as session:
            row = _named(session, name)
            if row.status == AdapterStatus.REMOVED:
                raise AdapterNotFit(
                    f"the files of {name} were removed to save room (RATCHET_KEEP_ADAPTERS)"
                )
            return _checked(self._adapter(row))

    def active(self) -> Adapter | None:
        """Return the adapter that writes the replies; None is the base model.

        Its files are checked when it is loaded, and not here, where every reply would wait for it.
        """
        with self._database.reading() as session:
            row = session.scalars(
                select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
            ).first()
            return self._adapter(row) if row else None

    def all(self) -> tuple[Adapter, ...]:
        """Return every version, oldest first; their files are not checked."""
        with self._database.reading() as session:
            rows = session.scalars(select(AdapterRow).order_by(AdapterRow.id))
            return tuple(self._adapter(row) for row in rows)

    def of_run(self, run_id: int) -> Adapter | None:
        """Return the last version that a run made, or None."""
        with self._database.reading() as session:
            row = session.scalars(
                select(AdapterRow).where(AdapterRow.run_id == run_id).order_by(AdapterRow.id.desc())
            ).first()
            return self._adapter(row) if row else None

    def promote(
        self,
        name: str,
        *,
        base_model: str,
        reason: str,
        person_id: int | None = None,
        force: bool = False,
        instead_of: Collection[str | None] | None = None,
    ) -> Adapter:
        """Make an adapter the active one, in one transaction: there is never a moment with two.

        A version needs `force` if a run made it and the gate has not passed it, or if it learned
        from erased words. With `instead_of`, nothing happens unless one of these is active; None
        is the base model. Raises `AdapterNotFound`, `AdapterDamaged`, or `AdapterNotFit` for a
        version that did not pass, that was trained on another base model, or that may not replace
        the active one.
        """
        adapter = self.get(name)
        if adapter.base_model != base_model:
            raise AdapterNotFit(
                f"{name} was trained on {adapter.base_model}, and {base_model} is in use"
            )
        with self._database.session() as session:
            self._database.lock(session, Lock.ADAPTERS)
            row = _named(session, name)
            _check_passed(session, row, force=force)
            active = session.scalars(
                select(AdapterRow.name).where(AdapterRow.status == AdapterStatus.ACTIVE)
            ).first()
            if instead_of is not None and active not in instead_of:
                raise AdapterNotFit(f"{active or 'the base model'} went live meanwhile")
            if row.status != AdapterStatus.ACTIVE:
                self._switch(session, row)
                self._remember(session, row, reason, person_id)
            return self._adapter(row)

    def reject(self, name: str) -> None:
        """Keep a candidate out of use. Raises `AdapterNotFound`."""
        with self._database.session() as session:
            row = _named(session, name)
            if row.status == AdapterStatus.CANDIDATE:
                row.status = AdapterStatus.REJECTED

    def rollback(
        self,
        *,
        reason: str,
        person_id: int | None = None,
        expected: str | None = None,
        force: bool = False,
    ) -> Adapter | None:
        """Go back to the version before the active one and return it; None is the base model.

        Versions that were rolled back or cannot be loaded are skipped; without `force`, so are
        those that learned from erased words. With `expected`, nothing happens unless that version
        is active. Raises `NothingToRollBack`, or `AdapterNotFit` if another version is active.
        """
        with self._database.session() as session:
            return self._go_back(session, reason, person_id, expected, force=force)

    def retire_erased(self, age: timedelta) -> tuple[str, Adapter | None] | None:
        """Replace an active version that has held erased words for as long as `age`.

        The newest version without erased words replaces it, or else the base model. Return the
        name of the old version and its replacement, or None if there was nothing to do.
        """
        with self._database.session() as session:
            self._database.lock(session, Lock.ADAPTERS)
            active = _active(session)
            if active is None or active.erased_at is None:
                return None
            if self._database.now() - active.erased_at < age:
                return None
            clean = self._newest_clean(session, active)
            self._switch(session, clean)
            reason = f"{active.name} learned from words that were erased"
            self._remember(session, clean, reason, None)
            return active.name, self._adapter(clean) if clean else None

    def _newest_clean(self, session: Session, active: AdapterRow) -> AdapterRow | None:
        """Return the newest loadable version that was live and has no erased words.

        Versions that were rolled back are skipped.
        """
        rows = session.scalars(
            select(AdapterRow)
            .where(
                AdapterRow.id != active.id,
                AdapterRow.base_model == active.base_model,
                AdapterRow.erased_at.is_(None),
                AdapterRow.status == AdapterStatus.RETIRED,
                AdapterRow.id.not_in(
                    select(ActivationRow.adapter_id).where(
                        ActivationRow.undone.is_(True), ActivationRow.adapter_id.is_not(None)
                    )
                ),
            )
            .order_by(AdapterRow.id.desc())
        )
        return next((row for row in rows if self._usable(row)), None)

    def withdraw(self, name: str, *, reason: str) -> Adapter | None:
        """Reject the active version, which cannot be used, and go back to the one before it.

        Return that one; None is the base model. Raises `NothingToRollBack` or `AdapterNotFit` if
        the version is no longer active.
        """
        with self._database.session() as session:
            before = self._go_back(session, reason, None, name, force=False)
            _named(session, name).status = AdapterStatus.REJECTED
            return before

    def history(self, limit: int = 10) -> tuple[Activation, ...]:
        """Return the newest changes of the active adapter, newest first."""
        with self._database.reading() as session:
            rows = session.execute(
                select(ActivationRow, AdapterRow.name)
                .outerjoin(AdapterRow, AdapterRow.id == ActivationRow.adapter_id)
                .order_by(ActivationRow.id.desc())
                .limit(limit)
            )
            return tuple(
                Activation(
                    adapter=name,
                    reason=row.reason,
                    person_id=row.person_id,
                    created_at=row.created_at,
                )
                for row, name in rows
            )

    def note_merged(self, name: str, merged: bool) -> None:
        """Record whether the engine has merged a version. Raises `AdapterNotFound`."""
        with self._database.session() as session:
            row = _named(session, name)
            notes = replace(_NOTES.validate_python(row.metrics), merged=merged)
            row.metrics = _NOTES.dump_python(notes, mode="json")

    def tidy(self, *, keep: int) -> tuple[str, ...]:
        """Make rows and directories agree, remove old files, and return sentences on what was done.

        The newest `keep` versions that are not in use are kept. The active one, the one that
        `rollback` would go back to, and candidates are never removed. Directories without a row
        were left by a crash.
        """
        with self._database.session() as session:
            self._database.lock(session, Lock.ADAPTERS)
            rows = list(session.scalars(select(AdapterRow).order_by(AdapterRow.id.desc())))
            active = next((row for row in rows if row.status == AdapterStatus.ACTIVE), None)
            before = self._before(session, active) if active else None
            unused = [row for row in rows if row.status in _UNUSED and row is not before]
            gone = [row for row in rows if row.status in _WITH_FILES and not self._has_files(row)]
            surplus = [row for row in unused[keep:] if row not in gone]
            for row in (*gone, *surplus):
                row.status = AdapterStatus.REMOVED
            known = {row.name for row in rows}
        # After the commit: a crash may leave files of a removed version, never a row without files.
        for row in surplus:
            shutil.rmtree(folder_of(self._folder, row.name), ignore_errors=True)
        return (
            *(f"the files of {row.name} are gone" for row in gone),
            *(f"removed {row.name}, which was not in use" for row in surplus),
            *(f"removed {name}, which a crash left" for name in self._clear(known)),
        )

    def _clear(self, known: Collection[str]) -> Iterator[str]:
        """Remove directories that belong to no version, and yield their names."""
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            age = time.time() - folder.stat().st_mtime
            if folder.is_dir() and folder.name not in known and age > BEING_MADE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                yield folder.name

    def _has_files(self, row: AdapterRow) -> bool:
        return folder_of(self._folder, row.name).is_dir()

    def evaluate(self, name: str, report: GateReport, *, run_id: int | None) -> None:
        """Store the gate's report on an adapter. Raises `AdapterNotFound`."""
        with self._database.session() as session:
            row = _named(session, name)
            session.add(
                EvaluationRow(
                    adapter_id=row.id,
                    run_id=run_id,
                    report={"checks": [asdict(check) for check in report.checks]},
                    created_at=self._database.now(),
                )
            )

    def report(self, name: str) -> GateReport | None:
        """Return the gate's last report on an adapter, or None."""
        with self._database.reading() as session:
            return _report(session, name)

    def _go_back(
        self,
        session: Session,
        reason: str,
        person_id: int | None,
        expected: str | None,
        *,
        force: bool,
    ) -> Adapter | None:
        self._database.lock(session, Lock.ADAPTERS)
        active = _active(session)
        if active is None:
            raise NothingToRollBack
        if expected is not None and active.name != expected:
            raise AdapterNotFit(f"{expected} is not in use any more; nothing has changed")
        before = self._before(session, active, force=force)
        session.execute(
            update(ActivationRow).where(ActivationRow.adapter_id == active.id).values(undone=True)
        )
        self._switch(session, before)
        self._remember(session, before, reason, person_id, undone=True)
        return self._adapter(before) if before else None

    def _before(
        self, session: Session, active: AdapterRow, *, force: bool = False
    ) -> AdapterRow | None:
        """Return the newest version before the active one that was not undone and can be loaded."""
        steps = (
            select(AdapterRow)
            .join(ActivationRow, ActivationRow.adapter_id == AdapterRow.id)
            .where(ActivationRow.undone.is_(False), AdapterRow.id != active.id)
            .where(AdapterRow.base_model == active.base_model)
            .order_by(ActivationRow.id.desc())
        )
        if not force:
            steps = steps.where(AdapterRow.erased_at.is_(None))
        return next((row for row in session.scalars(steps) if self._usable(row)), None)

    def _usable(self, row: AdapterRow) -> bool:
        try:
            _checked(self._adapter(row))
        except AdapterDamaged:
            return False
        return True

    def _switch(self, session: Session, row: AdapterRow | None) -> None:
        for old in session.scalars(
            select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
        ):
            old.status = AdapterStatus.RETIRED
        session.flush()  # before the new one, or the unique index would refuse it
        if row is not None:
            row.status = AdapterStatus.ACTIVE

    def _remember(
        self,
        session: Session,
        row: AdapterRow | None,
        reason: str,
        person_id: int | None,
        *,
        undone: bool = False,
    ) -> None:
        now = self._database.now()
        session.add(
            ActivationRow(
                adapter_id=row.id if row else None,
                person_id=person_id,
                reason=reason,
                undone=undone,
                created_at=now,
            )
        )
        answers = row.name if row else "the base model"
        add_entry(session, f"{answers} answers from now on: {reason}", now)

    def _adapter(self, row: AdapterRow) -> Adapter:
        return Adapter(
            name=row.name,
            sha256=row.sha256,
            base_model=row.base_model,
            path=str(folder_of(self._folder, row.name).absolute()),
            run_id=row.run_id,
            status=AdapterStatus(row.status),
            notes=_NOTES.validate_python(row.metrics),
            erased_at=row.erased_at,
            created_at=row.created_at,
        )


def _active(session: Session) -> AdapterRow | None:
    return session.scalars(
        select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
    ).first()


def _check_passed(session: Session, row: AdapterRow, *, force: bool) -> None:
    """Raise `AdapterNotFit` for a version that did not pass the gate or has erased words."""
    report = _report(session, row.name)
    passed = report.passed if report else row.run_id is None
    if row.status == AdapterStatus.REJECTED:
        reason = "was rejected"
    elif not passed:
        reason = "has not passed the gate"
    elif row.erased_at is not None:
        reason = "learned from words that were erased"
    else:
        return
    if not force:
        raise AdapterNotFit(f"{row.name} {reason}; --force promotes it anyway")


def _named(session: Session, name: str) -> AdapterRow:
    row = session.scalars(select(AdapterRow).where(AdapterRow.name == name)).first()
    if row is None:
        raise AdapterNotFound(name)
    return row


def _report(session: Session, name: str) -> GateReport | None:
    row = session.scalars(
        select(EvaluationRow)
        .join(AdapterRow, AdapterRow.id == EvaluationRow.adapter_id)
        .where(AdapterRow.name == name)
        .order_by(EvaluationRow.id.desc())
    ).first()
    if row is None:
        return None
    return GateReport(checks=tuple(Check(**check) for check in row.report["checks"]))


def _checked(adapter: Adapter) -> Adapter:
    if hash_adapter(Path(adapter.path)) != adapter.sha256:
        raise AdapterDamaged(
            f"the files of {adapter.name} were changed after it was made: do not use it"
        )
    return adapter
