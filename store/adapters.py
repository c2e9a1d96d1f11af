"""Adapters: rows, and directories that are known by their content.

Invariant: an adapter's files never change under its name, and at most one adapter is active.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import Activation, Adapter, AdapterStatus, Check, GateReport
from store.errors import AdapterDamaged, AdapterNotFit, AdapterNotFound, NothingToRollBack
from store.tables import ActivationRow, AdapterRow, EvaluationRow, RunRow

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter consists of, in the order in which it is hashed; PEFT's names."""

RECIPE_FILE = "recipe.json"
"""How it was made; kept beside it where there is one."""

BEING_MADE_SECONDS = 3600.0
"""A younger directory may be one that another process is just putting there."""

HOLDS_ERASED = "holds_erased"
"""Among the metrics of a run, or of a version: it was trained on what somebody had erased since."""

_UNUSED = (AdapterStatus.RETIRED, AdapterStatus.REJECTED)
_WITH_FILES = (*_UNUSED, AdapterStatus.CANDIDATE)

ADAPTERS_KEY = -1
"""Promotions take turns under this key; no Telegram chat has it as its id."""


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
        metrics: Mapping[str, object] | None = None,
    ) -> Adapter:
        """Copy a finished adapter in, as a candidate. Raises `AdapterDamaged`.

        The copy is made aside and renamed, so a half-written directory is never seen.
        """
        sha256 = hash_adapter(source)
        aside = self._folder / f".{uuid4().hex}"
        try:
            copy_adapter(source, aside)
            return self._add(aside, sha256, base_model, run_id, dict(metrics or {}))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _add(
        self,
        aside: Path,
        sha256: str,
        base_model: str,
        run_id: int | None,
        metrics: dict[str, object],
    ) -> Adapter:
        with self._database.session() as session:
            self._database.take_turns(session, ADAPTERS_KEY)
            sequence = (session.scalar(select(func.max(AdapterRow.id))) or 0) + 1
            name = f"a{sequence}-{sha256[:8]}"
            path = self._folder / name
            shutil.rmtree(path, ignore_errors=True)  # of a crash before the row was committed
            aside.rename(path)
            _flush(self._folder)
            run = session.get(RunRow, run_id) if run_id is not None else None
            if run is not None and run.metrics.get(HOLDS_ERASED):
                metrics[HOLDS_ERASED] = True
            row = AdapterRow(
                name=name,
                sha256=sha256,
                base_model=base_model,
                run_id=run_id,
                status=AdapterStatus.CANDIDATE,
                metrics=metrics,
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            return self._adapter(row)

    def get(self, name: str) -> Adapter:
        """The adapter of that name, its files checked.

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
        """The adapter that replies are written with; None is the base model.

        Its files are not checked here, on the way of every reply, but when it is loaded.
        """
        with self._database.reading() as session:
            row = session.scalars(
                select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
            ).first()
            return self._adapter(row) if row else None

    def all(self) -> tuple[Adapter, ...]:
        """Every version, oldest first; their files are not checked."""
        with self._database.reading() as session:
            rows = session.scalars(select(AdapterRow).order_by(AdapterRow.id))
            return tuple(self._adapter(row) for row in rows)

    def of_run(self, run_id: int) -> Adapter | None:
        """The version that a run made last, if it got so far."""
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
        """Make an adapter the active one. One transaction: there is never a moment with two.

        What a run has made and the gate has not passed needs `force`. With `instead_of`, nothing
        happens unless one of these is active, None being the base model. Raises
        `AdapterNotFound`, `AdapterDamaged`, or `AdapterNotFit` for one that did not pass, that was
        trained on another base model, or that is not to take the place of the active one.
        """
        adapter = self.get(name)
        if adapter.base_model != base_model:
            raise AdapterNotFit(
                f"{name} was trained on {adapter.base_model}, and {base_model} is in use"
            )
        with self._database.session() as session:
            self._database.take_turns(session, ADAPTERS_KEY)
            row = _named(session, name)
            self._check_passed(session, row, force=force)
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
        self, *, reason: str, person_id: int | None = None, expected: str | None = None
    ) -> Adapter | None:
        """Go back to the version before the active one; None is the base model.

        What was rolled back is not gone back to again, nor what can no longer be loaded. With
        `expected`, nothing happens unless that version is active. Raises `NothingToRollBack`, or
        `AdapterNotFit` when another one is active.
        """
        with self._database.session() as session:
            return self._go_back(session, reason, person_id, expected)

    def withdraw(self, name: str, *, reason: str) -> Adapter | None:
        """Go back from the active version for good: it cannot be used; None is the base model.

        Raises `NothingToRollBack` or `AdapterNotFit`, when it is not active any more.
        """
        with self._database.session() as session:
            before = self._go_back(session, reason, None, name)
            _named(session, name).status = AdapterStatus.REJECTED
            return before

    def history(self, limit: int = 10) -> tuple[Activation, ...]:
        """The newest changes of the active adapter, newest first."""
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

    def note(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Keep what was found out about an adapter. Raises `AdapterNotFound`."""
        with self._database.session() as session:
            row = _named(session, name)
            row.metrics = {**row.metrics, **metrics}

    def tidy(self, *, keep: int) -> tuple[str, ...]:
        """Make rows and directories agree, and bound the room they take; what was done, in words.

        Of versions that are not in use the newest `keep` are kept; the active one, the one that
        `rollback` would go back to, and candidates are never removed. Directories that no row
        knows are what a crash left.
        """
        with self._database.session() as session:
            self._database.take_turns(session, ADAPTERS_KEY)
            rows = list(session.scalars(select(AdapterRow).order_by(AdapterRow.id.desc())))
            active = next((row for row in rows if row.status == AdapterStatus.ACTIVE), None)
            before = self._before(session, active) if active else None
            unused = [row for row in rows if row.status in _UNUSED and row is not before]
            gone = [row for row in rows if row.status in _WITH_FILES and not self._has_files(row)]
            surplus = [row for row in unused[keep:] if row not in gone]
            for row in (*gone, *surplus):
                row.status = AdapterStatus.REMOVED
            known = {row.name for row in rows}
        # Committed first: what is said to be removed may still be there, but never the reverse.
        for row in surplus:
            shutil.rmtree(self._folder / row.name, ignore_errors=True)
        return (
            *(f"the files of {row.name} are gone" for row in gone),
            *(f"removed {row.name}, which was not in use" for row in surplus),
            *(f"removed {name}, which a crash left" for name in self._clear(known)),
        )

    def _clear(self, known: Collection[str]) -> Iterator[str]:
        """Remove directories that are of no version; their names."""
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            age = time.time() - folder.stat().st_mtime
            if folder.is_dir() and folder.name not in known and age > BEING_MADE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
                yield folder.name

    def _has_files(self, row: AdapterRow) -> bool:
        return (self._folder / row.name).is_dir()

    def evaluate(self, name: str, report: GateReport, *, run_id: int | None) -> None:
        """Keep what the gate said of an adapter. Raises `AdapterNotFound`."""
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
        """What the gate last said of an adapter."""
        with self._database.reading() as session:
            return _report(session, name)

    @staticmethod
    def _check_passed(session: Session, row: AdapterRow, *, force: bool) -> None:
        """What a run has made must have passed; what came without a run was never asked."""
        report = _report(session, row.name)
        passed = report.passed if report else row.run_id is None
        if row.status == AdapterStatus.REJECTED:
            reason = "was rejected"
        elif not passed:
            reason = "has not passed the gate"
        else:
            return
        if not force:
            raise AdapterNotFit(f"{row.name} {reason}; --force promotes it all the same")

    def _go_back(
        self, session: Session, reason: str, person_id: int | None, expected: str | None
    ) -> Adapter | None:
        self._database.take_turns(session, ADAPTERS_KEY)
        active = session.scalars(
            select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
        ).first()
        if active is None:
            raise NothingToRollBack
        if expected is not None and active.name != expected:
            raise AdapterNotFit(f"{expected} is not in use any more; nothing has changed")
        before = self._before(session, active)
        session.execute(
            update(ActivationRow).where(ActivationRow.adapter_id == active.id).values(undone=True)
        )
        self._switch(session, before)
        self._remember(session, before, reason, person_id, undone=True)
        return self._adapter(before) if before else None

    def _before(self, session: Session, active: AdapterRow) -> AdapterRow | None:
        """The newest version before the active one that was not undone and can be loaded."""
        steps = session.scalars(
            select(AdapterRow)
            .join(ActivationRow, ActivationRow.adapter_id == AdapterRow.id)
            .where(ActivationRow.undone.is_(False), AdapterRow.id != active.id)
            .where(AdapterRow.base_model == active.base_model)
            .order_by(ActivationRow.id.desc())
        )
        return next((row for row in steps if self._usable(row)), None)

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
        session.add(
            ActivationRow(
                adapter_id=row.id if row else None,
                person_id=person_id,
                reason=reason,
                undone=undone,
                created_at=self._database.now(),
            )
        )

    def _adapter(self, row: AdapterRow) -> Adapter:
        return Adapter(
            name=row.name,
            sha256=row.sha256,
            base_model=row.base_model,
            path=str((self._folder / row.name).absolute()),
            run_id=row.run_id,
            status=AdapterStatus(row.status),
            metrics=row.metrics,
            created_at=row.created_at,
        )


def copy_adapter(source: Path, folder: Path) -> None:
    """Copy what an adapter consists of, so that it would survive a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(source / file, folder / file)
    if (source / RECIPE_FILE).is_file():
        shutil.copyfile(source / RECIPE_FILE, folder / RECIPE_FILE)
    for written in (*folder.iterdir(), folder):
        _flush(written)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def hash_adapter(folder: Path) -> str:
    """SHA-256 of an adapter's configuration and weights. Raises `AdapterDamaged`."""
    digest = hashlib.sha256()
    for name in FILES:
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise AdapterDamaged(f"the adapter in {folder} lacks {name}: {error}") from error
    return digest.hexdigest()


def _checked(adapter: Adapter) -> Adapter:
    if hash_adapter(Path(adapter.path)) != adapter.sha256:
        raise AdapterDamaged(
            f"the files of {adapter.name} were changed after it was made: do not use it"
        )
    return adapter
