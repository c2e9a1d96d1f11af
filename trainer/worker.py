"""The trainer worker: queues runs on schedule, takes them one at a time, each in a child process.

Leaves the learning itself to `trainer/run.py`; torch is never imported here. Several workers may
share one database: the queue gives a run to one of them.
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
    # glibc would give every large tensor back to the system and be given fresh, empty pages for
    # the next one: half of the training's time (docs/experiments.md). Others ignore this.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=2000000000:"
    "glibc.malloc.trim_threshold=8000000000",
}
"""Of a run's process, unless the worker's own says otherwise."""

LOOK_SECONDS = 1.0
BEAT_SECONDS = 5.0
STOP_SECONDS = 20.0
"""How long a run that was cancelled may take to clean up before it is killed."""

MISFIRE_SECONDS = 3600
"""A schedule that was missed by less, because the machine slept, is made up for."""


class Worker:
    """Works until `stop` is set."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._runs = Runs(database)
        self._adapters = Adapters(database, settings.storage.adapters_path)
        rule = TeachingRule.of(settings.admission, settings.privacy)
        self._examples = Examples(database, rule)
        self._database = database
        self._eraser = Eraser(database)
        self.stop = threading.Event()

    def work(self) -> None:
        """Keep the schedule and take what is queued."""
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
                    logger.error("cannot look for runs: %s", error)
                self.stop.wait(LOOK_SECONDS)
        finally:
            scheduler.shutdown(wait=False)

    def work_on(self, run_id: int) -> None:
        """Wait for one run's turn and carry it out, or for another worker to, or to die of it."""
        while not self.stop.is_set() and not self._runs.get(run_id).status.ended:
            run = self._runs.take(run_id)
            if run is not None:
                self._carry_out(run)
            self.stop.wait(LOOK_SECONDS)

    def _tidy(self) -> None:
        try:
            for done in self._adapters.tidy(keep=self._settings.versions.keep_adapters):
                logger.info("adapters: %s", done)
        except (StoreError, OSError) as error:
            logger.error("the adapters cannot be tidied: %s", error)

    def clean_up(self) -> None:
        """Delete what is too old, finish erasures, and retire versions that hold erased words."""
        days = self._settings.privacy.keep_days
        forget = timedelta(days=self._settings.privacy.forget_days)
        try:
            self._eraser.resume()
            retired = self._adapters.retire_erased(forget)
            if retired is not None:
                name, clean = retired
                now = clean.name if clean else "the base model"
                logger.warning("%s learned from what was erased: %s answers", name, now)
            if days:
                count = self._eraser.expire(timedelta(days=days))
                logger.info("%d turns were older than %d days", count, days)
            self._database.scrub()
        except StoreError as error:
            logger.error("what is old or deleted cannot be cleaned up: %s", error)

    def queue_if_due(self) -> bool:
        """Queue a run if enough was rated since the last one that learned.

        Whatever was rated, if the active version was trained on what somebody had erased.
        """
        active = self._adapters.active()
        if active is not None and active.erased_at is not None:
            _, queued = self._runs.queue(f"{active.name} was trained on what is erased now")
            return queued
        last = self._runs.last_learned()
        new = self._examples.ratings_since(last.started_at if last else None)
        if new < self._settings.train.min_ratings:
            logger.info(
                "%d new ratings, %d are needed: no run", new, self._settings.train.min_ratings
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
        """Have a run carried out by a child process, and see how it ends."""
        logger.info("run %d begins (%s)", run.id, run.reason)
        try:
            self._have_it_done(run)
        except OSError as error:  # no memory, no disk, no process
            logger.exception("run %d cannot be carried out", run.id)
            self._runs.finish(run.id, RunStatus.FAILED, f"It could not be started: {error}")

    def _have_it_done(self, run: TrainingRun) -> None:
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
        clear(self._settings.storage.data_dir, run.id)  # a run that was killed could not
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
            self._adapters.reject(candidate.name)  # a run that was killed could not
        self._tidy()
        logger.info("run %d ended as %s: %s", run.id, ended.status, ended.outcome)

    def _watch(self, run_id: int, child: "subprocess.Popen[bytes]") -> bool:
        """Wait for a child to end, or make it; whether it was made to."""
        while True:
            try:
                child.wait(BEAT_SECONDS if not self.stop.is_set() else 0.1)
                return False
            except subprocess.TimeoutExpired:
                pass
            try:
                cancelled = self._runs.beat(run_id)
            except StoreError as error:  # the run goes on; its row waits for the database
                logger.error("run %d: %s", run_id, error)
                cancelled = False
            if cancelled or self.stop.is_set():
                child.terminate()
                try:
                    child.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                return True


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, 2)
    log.seek(max(0, size - LOG_CHARS))
    return log.read().decode("utf-8", "replace")


def _cause(code: int, log: str) -> str:
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"its process was killed by {names.get(-code, f'signal {-code}')}"
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"its process ended with exit code {code}"


def _outlast(worker: Worker) -> None:
    """Stop when whoever started this process is gone: its end of the pipe closes with it."""
    sys.stdin.read()
    worker.stop.set()


def main() -> None:
    """`python -m trainer.worker [--run ID] [--tied]`."""
    parser = argparse.ArgumentParser(description="Carries out training runs.")
    parser.add_argument("--run", type=int, help="carry out this one and leave")
    parser.add_argument("--tied", action="store_true", help="leave when standard input ends")
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
                threading.Thread(target=_outlast, args=(worker,), name="tie", daemon=True).start()
            worker.work() if run_id is None else worker.work_on(run_id)
        finally:
            database.close()
    except StoreError as error:
        sys.exit(f"ratchet trainer: {error}")


if __name__ == "__main__":
    main()
