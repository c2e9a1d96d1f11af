"""The queue of training runs: what was asked for, how far it is, how it ended.

Invariant: at most one run is running, and a run that has ended never changes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import Progress, RunStatus, TrainingRun
from store.errors import RunNotFound
from store.tables import RunRow

RUNS_KEY = -2
"""Whoever takes or queues a run takes turns under this key; no Telegram chat has it as its id."""

HEARTBEAT_LOST_SECONDS = 60.0
"""A run whose worker has said nothing for so long has died with it."""

LEARNED = (RunStatus.PASSED, RunStatus.PROMOTED, RunStatus.REJECTED)
"""Runs that got as far as a candidate."""

LOG_CHARS = 20_000
"""The end of a run's log that is kept."""


class Runs:
    """The training runs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self, reason: str, *, requested_by: int | None = None) -> tuple[TrainingRun, bool]:
        """Ask for a run; one that already waits or runs is given instead. Also: is it new?"""
        with self._database.session() as session:
            self._database.take_turns(session, RUNS_KEY)
            self._fail_the_dead(session)
            row = session.scalars(
                select(RunRow)
                .where(RunRow.status.in_((RunStatus.QUEUED, RunStatus.RUNNING)))
                .order_by(RunRow.id)
            ).first()
            if row is not None:
                return _run(row), False
            row = RunRow(
                status=RunStatus.QUEUED,
                requested_by=requested_by,
                reason=reason,
                outcome="",
                examples={},
                snapshot={},
                metrics={},
                progress={},
                log="",
                cancel_requested=False,
                announced=False,
                created_at=self._database.now(),
                started_at=None,
                heartbeat_at=None,
                finished_at=None,
            )
            session.add(row)
            session.flush()
            return _run(row), True

    def take(self, run_id: int | None = None) -> TrainingRun | None:
        """Begin the oldest queued run, or that one; None while another runs or none waits."""
        with self._database.session() as session:
            self._database.take_turns(session, RUNS_KEY)
            self._fail_the_dead(session)
            if session.scalars(select(RunRow).where(RunRow.status == RunStatus.RUNNING)).first():
                return None
            queued = select(RunRow).where(RunRow.status == RunStatus.QUEUED).order_by(RunRow.id)
            if run_id is not None:
                queued = queued.where(RunRow.id == run_id)
            row = session.scalars(queued).first()
            if row is None:
                return None
            now = self._database.now()
            row.status, row.started_at, row.heartbeat_at = RunStatus.RUNNING, now, now
            return _run(row)

    def beat(self, run_id: int) -> bool:
        """Say that the run's worker lives; whether the run is to stop, or was given up as dead."""
        with self._database.session() as session:
            row = _row(session, run_id, lock=True)
            if RunStatus(row.status).ended:
                return True
            row.heartbeat_at = self._database.now()
            return row.cancel_requested

    def note(
        self,
        run_id: int,
        *,
        progress: Progress | None = None,
        examples: Mapping[str, int] | None = None,
        snapshot: Mapping[str, Sequence[str]] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record what has become known of a running run; False if it has ended meanwhile."""
        with self._database.session() as session:
            row = _row(session, run_id, lock=True)
            if RunStatus(row.status).ended:
                return False
            if progress is not None:
                row.progress = asdict(progress)
            if examples is not None:
                row.examples = dict(examples)
            if snapshot is not None:
                row.snapshot = {name: list(ids) for name, ids in snapshot.items()}
            if metrics is not None:
                row.metrics = {**row.metrics, **metrics}
            return True

    def finish(self, run_id: int, status: RunStatus, outcome: str, *, log: str = "") -> TrainingRun:
        """Record how a run ended; the first word counts. Raises `RunNotFound`."""
        assert status.ended, "a run is finished with an outcome"
        with self._database.session() as session:
            row = _row(session, run_id, lock=True)
            if not RunStatus(row.status).ended:
                self._end(row, status, outcome)
            if log:
                row.log = log[-LOG_CHARS:]
            return _run(row)

    def cancel(self, run_id: int) -> TrainingRun:
        """Take a run out of the queue, or ask the running one to stop. Raises `RunNotFound`."""
        with self._database.session() as session:
            self._database.take_turns(session, RUNS_KEY)
            row = _row(session, run_id, lock=True)
            if row.status == RunStatus.QUEUED:
                self._end(row, RunStatus.CANCELLED, "It was cancelled before it began.")
            elif row.status == RunStatus.RUNNING:
                row.cancel_requested = True
            return _run(row)

    def get(self, run_id: int) -> TrainingRun:
        """One run. Raises `RunNotFound`."""
        with self._database.reading() as session:
            return _run(_row(session, run_id))

    def recent(self, limit: int = 10) -> tuple[TrainingRun, ...]:
        """The newest runs, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.id.desc()).limit(limit))
            return tuple(_run(row) for row in rows)

    def last_learned(self) -> TrainingRun | None:
        """The newest run that got as far as a candidate."""
        with self._database.reading() as session:
            row = session.scalars(
                select(RunRow).where(RunRow.status.in_(LEARNED)).order_by(RunRow.id.desc())
            ).first()
            return _run(row) if row else None

    def queued(self) -> int:
        """How many runs wait."""
        with self._database.reading() as session:
            waiting = select(func.count()).where(RunRow.status == RunStatus.QUEUED)
            return session.scalar(waiting) or 0

    def unannounced(self) -> tuple[TrainingRun, ...]:
        """Ended runs that the admins were not told of yet, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(RunRow)
                .where(RunRow.announced.is_(False), RunRow.finished_at.is_not(None))
                .order_by(RunRow.id)
            )
            return tuple(_run(row) for row in rows)

    def mark_announced(self, run_id: int) -> None:
        """The admins were told. Raises `RunNotFound`."""
        with self._database.session() as session:
            _row(session, run_id, lock=True).announced = True

    def _fail_the_dead(self, session: Session) -> None:
        deadline = self._database.now() - timedelta(seconds=HEARTBEAT_LOST_SECONDS)
        for row in session.scalars(
            select(RunRow).where(RunRow.status == RunStatus.RUNNING, RunRow.heartbeat_at < deadline)
        ):
            self._end(row, RunStatus.FAILED, "Its worker died; nothing of it is in use.")
        session.flush()

    def _end(self, row: RunRow, status: RunStatus, outcome: str) -> None:
        row.status, row.outcome, row.finished_at = status, outcome, self._database.now()
        row.progress = {}


def _row(session: Session, run_id: int, *, lock: bool = False) -> RunRow:
    row = session.get(RunRow, run_id, with_for_update=lock) if abs(run_id) < 2**63 else None
    if row is None:
        raise RunNotFound(run_id)
    return row


def _run(row: RunRow) -> TrainingRun:
    return TrainingRun(
        id=row.id,
        status=RunStatus(row.status),
        reason=row.reason,
        outcome=row.outcome,
        requested_by=row.requested_by,
        examples=row.examples,
        snapshot=row.snapshot,
        metrics=row.metrics,
        progress=Progress(**row.progress),
        log=row.log,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
