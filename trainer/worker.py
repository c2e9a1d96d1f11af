"""The trainer worker: queues runs on schedule and carries them out, each in a child process.

Leaves the learning itself to `trainer/run.py`, and never imports torch. Several workers may share
one database: the queue gives a run to one of them, and only one run at a time.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from typing import IO

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from store.adapters import Adapters
from store.database import Database
from store.domain import RunStatus, TrainingRun
from store.erasure import Eraser
from store.errors import StoreError
from store.examples import Examples
from store.logs import set_up_logging
from store.runs import LOG_CHARS, Runs
from store.settings import Settings, load_settings
from store.teaching import TeachingRule
from trainer.run_folder import clear

logger = logging.getLogger(__name__)

RUN_ENVIRONMENT = {
    # By default glibc returns every large tensor to the system and gets fresh, zeroed pages for the
    # next one, which takes half of the training time (docs/experiments.md). Other C libraries
    # ignore the variable.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=2000000000:"
    "glibc.malloc.trim_threshold=8000000000",
}
"""Environment variables of a run's process; those of the worker take precedence."""

LOOK_SECONDS = 1.0
"""Pause between two looks at the queue."""

BEAT_SECONDS = 5.0
"""Pause between two heartbeats of a run."""

STOP_SECONDS = 20.0
"""Time that a cancelled run has to clean up before it is killed."""

MISFIRE_SECONDS = 3600
"""Delay up to which a missed schedule is made up for, as after the machine slept."""


class Worker:
    """Carries out queued runs until `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        look_seconds: float = LOOK_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._settings = settings
        self._look_seconds = look_seconds
        self._beat_seconds = beat_seconds
        self._stop_seconds = stop_seconds
        self._runs = Runs(database)
        self._adapters = Adapters(database, settings.storage.adapters_path)
        rule = TeachingRule.of(settings.admission, settings.privacy)
        self._examples = Examples(database, rule)
        self._database = database
        self._eraser = Eraser(database)
        self.stop = threading.Event()

    def work(self) -> None:
        """Run the schedule, and carry out queued runs one after another."""
        scheduler = self._scheduler()
        scheduler.start()
        self._tidy()
        try:
            while not self.stop.is_set():
                try:
                    run = self._runs.take()
                    if run is not None:
                        self._carry_out(run)
                except StoreError as error:
                    logger.error("the queue of runs cannot be read: %s", error)
                self.stop.wait(self._look_seconds)
        finally:
            scheduler.shutdown(wait=False)

    def work_on(self, run_id: int) -> None:
        """Carry out one run when the queue allows it; return when it has ended, whoever ran it."""
        while not self.stop.is_set() and not self._runs.get(run_id).status.ended:
            run = self._runs.take(run_id)
            if run is not None:
                self._carry_out(run)
            self.stop.wait(self._look_seconds)

    def _tidy(self) -> None:
        try:
            for change in self._adapters.tidy(keep=self._settings.versions.keep_adapters):
                logger.info("adapters: %s", change)
        except (StoreError, OSError) as error:
            logger.error("old adapters cannot be removed: %s", error)

    def clean_up(self) -> None:
        """Delete old turns, finish erasures, and retire a version trained on erased data."""
        days = self._settings.privacy.keep_days
        grace = timedelta(days=self._settings.privacy.forget_days)
        try:
            self._eraser.resume()
            self._eraser.drop_old_usage()
            retired = self._adapters.retire_erased(grace)
            if retired is not None:
                name, clean = retired
                successor = clean.name if clean else "the base model"
                logger.warning("%s was trained on erased data: now %s answers", name, successor)
            if days:
                count = self._eraser.expire(timedelta(days=days))
                logger.info("deleted %d turns older than %d days", count, days)
            self._database.scrub()
        except StoreError as error:
            logger.error("old turns cannot be deleted: %s", error)

    def queue_if_due(self) -> bool:
        """Queue a run if there are enough new ratings; return whether one was queued.

        A run is also due if the active version was trained on data that was erased since.
        """
        active = self._adapters.active()
        if active is not None and active.erased_at is not None:
            _, queued = self._runs.queue(f"{active.name} was trained on what is erased now")
            return queued
        last = self._runs.last_learned()
        new = self._examples.ratings_since(last.started_at if last else None)
        if new < self._settings.train.min_ratings:
            logger.info(
                "no run is due: %d new ratings of %d", new, self._settings.train.min_ratings
            )
            return False
        _, queued = self._runs.queue(f"the schedule: {new} new ratings")
        return queued

    def _scheduler(self) -> BackgroundScheduler:
        scheduler = BackgroundScheduler(timezone="UTC", daemon=True)
        if self._settings.train.cron != "off":
            scheduler.add_job(
                self.queue_if_due,
                CronTrigger.from_crontab(self._settings.train.cron, timezone="UTC"),
                misfire_grace_time=MISFIRE_SECONDS,
                coalesce=True,
                max_instances=1,
            )
        scheduler.add_job(
            self.clean_up,
            IntervalTrigger(hours=1),
            next_run_time=datetime.now(UTC),
            misfire_grace_time=MISFIRE_SECONDS,
            coalesce=True,
            max_instances=1,
        )
        return scheduler

    def _carry_out(self, run: TrainingRun) -> None:
        logger.info("run %d begins (%s)", run.id, run.reason)
        try:
            self._run_child(run)
        except OSError as error:  # no memory, disk space or process left
            logger.exception("run %d cannot be started", run.id)
            self._runs.finish(run.id, RunStatus.FAILED, f"It could not be started: {error}")

    def _run_child(self, run: TrainingRun) -> None:
        """Carry out a run in a child process, and record how it ended if it did not itself."""
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "trainer.run", str(run.id)],
                env=RUN_ENVIRONMENT | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            cancelled = self._watch(run.id, child) or self.stop.is_set()
            text = _tail(log)
        clear(self._settings.storage.data_dir, run.id)  # a killed run could not do it
        if cancelled:
            ended = self._runs.finish(
                run.id, RunStatus.CANCELLED, "It was cancelled; nothing of it is in use.", log=text
            )
        else:
            ended = self._runs.finish(
                run.id, RunStatus.FAILED, f"It failed: {_cause(child.returncode, text)}", log=text
            )
        candidate = self._adapters.of_run(run.id)
        if candidate is not None and ended.status in (RunStatus.CANCELLED, RunStatus.FAILED):
            self._adapters.reject(candidate.name)  # a killed run could not do it
        self._tidy()
        logger.info("run %d ended as %s: %s", run.id, ended.status, ended.outcome)

    def _watch(self, run_id: int, child: "subprocess.Popen[bytes]") -> bool:
        """Wait until a child ends, with a heartbeat; return whether it had to be stopped."""
        while True:
            try:
                child.wait(self._beat_seconds if not self.stop.is_set() else 0.1)
                return False
            except subprocess.TimeoutExpired:
                pass
            try:
                cancelled = self._runs.beat(run_id)
            except StoreError as error:  # the run goes on while the database is away
                logger.error("run %d has no heartbeat: %s", run_id, error)
                cancelled = False
            if cancelled or self.stop.is_set():
                child.terminate()
                try:
                    child.wait(self._stop_seconds)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                return True


def _tail(log: IO[bytes]) -> str:
    """Return the last `LOG_CHARS` bytes of a log."""
    size = log.seek(0, 2)
    log.seek(max(0, size - LOG_CHARS))
    return log.read().decode("utf-8", "replace")


def _cause(code: int, log: str) -> str:
    """Say why a process ended: a signal, the last line of its log, or its exit code."""
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"its process was killed by {names.get(-code, f'signal {-code}')}"
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"its process ended with exit code {code}"


def _stop_with_parent(worker: Worker) -> None:
    """Stop the worker when standard input ends, as it does when the parent process ends."""
    sys.stdin.read()
    worker.stop.set()


def main() -> None:
    """Run `python -m trainer.worker [--run ID] [--tied]`."""
    parser = argparse.ArgumentParser(description="Carries out training runs.")
    parser.add_argument("--run", type=int, help="carry out this run and exit")
    parser.add_argument("--tied", action="store_true", help="exit when standard input ends")
    options = parser.parse_args()
    run_id: int | None = options.run
    try:
        settings = load_settings()
        set_up_logging(settings.monitoring.log_level, settings.monitoring.log_format)
        settings.storage.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.storage.database)
        try:
            database.check_at_head()
            worker = Worker(settings, database)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: worker.stop.set())
            if options.tied:
                threading.Thread(
                    target=_stop_with_parent, args=(worker,), name="parent", daemon=True
                ).start()
            if run_id is None:
                worker.work()
            else:
                worker.work_on(run_id)
        finally:
            database.close()
    except StoreError as error:
        sys.exit(f"ratchet trainer: {error}")


if __name__ == "__main__":
    main()
