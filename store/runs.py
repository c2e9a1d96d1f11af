"""The queue of training runs, with their progress and outcomes.

Invariant: at most one run is running, and a run that has ended never changes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta

from pydantic import TypeAdapter
from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from store.database import Database, Lock, in_parts
from store.domain import (
    ExampleCounts,
    Origin,
    Progress,
    RunMetrics,
    RunStatus,
    Sample,
    SentSample,
    Split,
    TrainingRun,
)
from store.errors import RunNotFound
from store.parts import was_erased_from
from store.tables import (
    CorrectionRow,
    ErasureRow,
    RunExampleRow,
    RunRow,
    RunSampleRow,
    SampleMessageRow,
    TurnRow,
)

HEARTBEAT_LOST_SECONDS = 60.0
"""The silence of a worker after which its run counts as dead."""

LEARNED = (RunStatus.PASSED, RunStatus.PROMOTED, RunStatus.REJECTED)
"""Runs that got as far as a candidate."""

_METRICS = TypeAdapter(RunMetrics)
_COUNTS = TypeAdapter(ExampleCounts)

LOG_CHARS = 20_000
"""The end of a run's log that is kept."""


class Runs:
    """The training runs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self, reason: str, *, requested_by: int | None = None) -> tuple[TrainingRun, bool]:
        """Queue a run unless one waits or runs; return the run and whether it is new."""
        with self._database.session() as session:
            self._database.lock(session, Lock.RUNS)
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
        """Begin the oldest queued run, or a given one; None while another runs or none waits."""
        with self._database.session() as session:
            self._database.lock(session, Lock.RUNS)
            self._fail_the_dead(session)
            if session.scalars(select(RunRow).where(RunRow.status == RunStatus.RUNNING)).first():
                return None
            queued = select(RunRow).where(RunRow.status == RunStatus.QUEUED).order_by(RunRow.id)
            if run_id is not None:
                queued = queued.where(RunRow.id == run_id)
            row = session.scalars(queued).first()
            if row is None:
                return None
            now = self._database.time(session)
            row.status, row.started_at, row.heartbeat_at = RunStatus.RUNNING, now, now
            return _run(row)

    def beat(self, run_id: int) -> bool:
        """Record that a run's worker lives; return whether the run must stop or has ended."""
        with self._database.session() as session:
            row = _row(session, run_id, lock=True)
            if RunStatus(row.status).ended:
                return True
            row.heartbeat_at = self._database.time(session)
            return row.cancel_requested

    def report_progress(self, run_id: int, progress: Progress) -> bool:
        """Record the progress of a running run; False if it has ended meanwhile."""
        with self._database.session() as session:
            row = _running(session, run_id)
            if row is not None:
                row.progress = asdict(progress)
            return row is not None

    def choose(
        self, run_id: int, counts: ExampleCounts, examples: Mapping[Split, Sequence[Origin]]
    ) -> bool:
        """Record the examples of a running run; False if it has ended meanwhile.

        The run is marked if one of them was erased since it was read.
        """
        with self._database.session() as session:
            row = _running(session, run_id)
            if row is None:
                return False
            row.examples = asdict(counts)
            session.execute(delete(RunExampleRow).where(RunExampleRow.run_id == run_id))
            chosen = [(split, each) for split, origins in examples.items() for each in origins]
            gone = _gone(session, {each for _, each in chosen})
            for ordinal, (split, origin) in enumerate(chosen):
                if origin not in gone:
                    session.add(_example_row(run_id, ordinal, split, origin))
                elif split is Split.TRAIN:
                    row.erased_at = row.erased_at or self._database.now()
            return True

    def report_metrics(
        self,
        run_id: int,
        *,
        recipe: Mapping[str, object] | None = None,
        curve: Sequence[tuple[int, float]] | None = None,
        held_back: int | None = None,
    ) -> bool:
        """Record figures of a running run; False if it has ended meanwhile."""
        with self._database.session() as session:
            row = _running(session, run_id)
            if row is None:
                return False
            metrics = _METRICS.validate_python(row.metrics)
            if recipe is not None:
                metrics = replace(metrics, recipe=recipe)
            if curve is not None:
                points = tuple((step, loss) for step, loss in curve)
                metrics = replace(metrics, curve=points)
            if held_back is not None:
                metrics = replace(metrics, held_back=held_back)
            row.metrics = _METRICS.dump_python(metrics, mode="json")
            return True

    def keep_samples(self, run_id: int, samples: Sequence[tuple[Origin | None, Sample]]) -> bool:
        """Store replies before and after a run, in place of earlier ones; False if it has ended.

        A sample is deleted together with the turn that asked its question.
        """
        with self._database.session() as session:
            if _running(session, run_id) is None:
                return False
            session.execute(delete(RunSampleRow).where(RunSampleRow.run_id == run_id))
            gone = _gone(session, {origin for origin, _ in samples if origin})
            for origin, sample in samples:
                if origin not in gone:
                    turn_id = origin.turn_id if origin else None
                    session.add(RunSampleRow(run_id=run_id, turn_id=turn_id, **asdict(sample)))
            return True

    def samples(self, run_id: int) -> tuple[Sample, ...]:
        """Return the samples of a run that were not erased."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(RunSampleRow).where(RunSampleRow.run_id == run_id).order_by(RunSampleRow.id)
            )
            return tuple(
                Sample(question=row.question, before=row.before, after=row.after) for row in rows
            )

    def record_sample_message(self, run_id: int, chat_id: int, message_id: int) -> None:
        """Store a message that shows samples of a run, so that it can be deleted.

        It is to be deleted at once if the samples were erased while it was sent.
        """
        kept = exists().where(RunSampleRow.run_id == run_id)
        with self._database.session() as session:
            session.merge(
                SampleMessageRow(
                    chat_id=chat_id,
                    message_id=message_id,
                    run_id=run_id,
                    unwanted=not session.scalar(select(kept)),
                )
            )

    def unwanted_messages(self) -> tuple[SentSample, ...]:
        """Return messages that show samples which were erased since."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(SampleMessageRow).where(SampleMessageRow.unwanted.is_(True)).limit(100)
            )
            return tuple(SentSample(chat_id=row.chat_id, message_id=row.message_id) for row in rows)

    def forget_message(self, message: SentSample) -> None:
        """Forget a message that was deleted."""
        with self._database.session() as session:
            row = session.get(SampleMessageRow, (message.chat_id, message.message_id))
            if row is not None:
                session.delete(row)

    def finish(self, run_id: int, status: RunStatus, outcome: str, *, log: str = "") -> TrainingRun:
        """Record a run's outcome; only the first one counts. Raises `RunNotFound`."""
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
            self._database.lock(session, Lock.RUNS)
            row = _row(session, run_id, lock=True)
            if row.status == RunStatus.QUEUED:
                self._end(row, RunStatus.CANCELLED, "It was cancelled before it began.")
            elif row.status == RunStatus.RUNNING:
                row.cancel_requested = True
            return _run(row)

    def get(self, run_id: int) -> TrainingRun:
        """Return a run. Raises `RunNotFound`."""
        with self._database.reading() as session:
            return _run(_row(session, run_id))

    def recent(self, limit: int = 10) -> tuple[TrainingRun, ...]:
        """Return the newest runs, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.id.desc()).limit(limit))
            return tuple(_run(row) for row in rows)

    def last_learned(self) -> TrainingRun | None:
        """Return the newest run that got as far as a candidate, or None."""
        with self._database.reading() as session:
            row = session.scalars(
                select(RunRow).where(RunRow.status.in_(LEARNED)).order_by(RunRow.id.desc())
            ).first()
            return _run(row) if row else None

    def queued(self) -> int:
        """Return the number of runs that wait."""
        with self._database.reading() as session:
            waiting = select(func.count()).where(RunRow.status == RunStatus.QUEUED)
            return session.scalar(waiting) or 0

    def unannounced(self) -> tuple[TrainingRun, ...]:
        """Return the ended runs that admins were not told of yet, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(RunRow)
                .where(RunRow.announced.is_(False), RunRow.finished_at.is_not(None))
                .order_by(RunRow.id)
            )
            return tuple(_run(row) for row in rows)

    def mark_announced(self, run_id: int) -> None:
        """Record that the admins were told of a run. Raises `RunNotFound`."""
        with self._database.session() as session:
            _row(session, run_id, lock=True).announced = True

    def _fail_the_dead(self, session: Session) -> None:
        deadline = self._database.time(session) - timedelta(seconds=HEARTBEAT_LOST_SECONDS)
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


def _running(session: Session, run_id: int) -> RunRow | None:
    """Return the run, locked; None if it has ended."""
    row = _row(session, run_id, lock=True)
    return None if RunStatus(row.status).ended else row


def _gone(session: Session, origins: set[Origin]) -> set[Origin]:
    """Return the origins of which something was erased, or is being erased."""
    turn_ids = {id for each in origins for id in (each.turn_id, each.other_turn_id) if id}
    given = {each.correction_id for each in origins if each.correction_id}
    turns: set[int] = set()
    for part in in_parts(turn_ids):
        whole = select(TurnRow.id).where(TurnRow.id.in_(part), ~was_erased_from())
        turns.update(session.scalars(whole))
    corrections: set[int] = set()
    for part in in_parts(given):
        kept = CorrectionRow.person_id.not_in(select(ErasureRow.person_id))
        corrections.update(
            session.scalars(select(CorrectionRow.id).where(CorrectionRow.id.in_(part), kept))
        )
    return {
        each
        for each in origins
        if not {each.turn_id, each.other_turn_id} - {None} <= turns
        or not {each.correction_id} - {None} <= corrections
    }


def _example_row(run_id: int, ordinal: int, split: Split, origin: Origin) -> RunExampleRow:
    return RunExampleRow(
        run_id=run_id,
        ordinal=ordinal,
        split=split,
        kind=origin.kind,
        turn_id=origin.turn_id,
        other_turn_id=origin.other_turn_id,
        correction_id=origin.correction_id,
        imported_id=origin.imported_id,
    )


def _run(row: RunRow) -> TrainingRun:
    return TrainingRun(
        id=row.id,
        status=RunStatus(row.status),
        reason=row.reason,
        outcome=row.outcome,
        requested_by=row.requested_by,
        examples=_COUNTS.validate_python(row.examples) if row.examples else None,
        metrics=_METRICS.validate_python(row.metrics),
        progress=Progress(**row.progress),
        log=row.log,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
