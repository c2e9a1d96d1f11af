"""The worker sees every run to an end, whatever becomes of the process that carries it out."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

from benchmarks.tiny_models import make_tiny_adapter
from store.adapters import Adapters
from store.database import Database
from store.domain import AdapterStatus, Rating, RatingSource, RunStatus, TrainingRun
from store.ratings import Ratings
from store.runs import HEARTBEAT_LOST_SECONDS, LOG_CHARS, Runs
from store.tables import AdapterRow, TurnRow
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, meet, preference, take_in, talk
from tests.trainer.examples import settings
from trainer.worker import Worker

PATIENCE_SECONDS = 20

SLEEPS = "import time; time.sleep(60)"
RECORDS = """
import sys
from store.database import Database
from store.domain import RunStatus
from store.runs import Runs

print("looked at 3 examples", file=sys.stderr)
Runs(Database(sys.argv[2])).finish(int(sys.argv[1]), RunStatus.SKIPPED, "There are 3 examples.")
"""

DEAF = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[3]).touch()
time.sleep(60)
"""
HAS_A_LAST_WORD = """
import signal, sys, time
from pathlib import Path
from store.database import Database
from store.domain import RunStatus
from store.runs import Runs

def finish(*_):
    Runs(Database(sys.argv[2])).finish(int(sys.argv[1]), RunStatus.REJECTED, "It was no better.")
    sys.exit()

signal.signal(signal.SIGTERM, finish)
Path(sys.argv[3]).touch()
time.sleep(60)
"""

Play = Callable[[str], list["subprocess.Popen[bytes]"]]


def make_worker(database: Database, *, stop_seconds: float = 20.0, **chosen: object) -> Worker:
    """Return a worker that looks often, so that no test waits."""
    return Worker(
        settings(**chosen),
        database,
        look_seconds=0.01,
        beat_seconds=0.05,
        stop_seconds=stop_seconds,
    )


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Return a file by which a process says that it listens to signals."""
    return tmp_path / "ready"


@pytest.fixture
def play(sqlite: Database, ready: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Yield a function that has runs carried out by a script.

    The script's arguments are the run's id, the database's URL and the file `ready`.
    """
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def let(script: str) -> list["subprocess.Popen[bytes]"]:
        def start(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
            assert command[1:3] == ["-m", "trainer.run"]
            child: subprocess.Popen[bytes] = popen(
                [sys.executable, "-c", script, command[3], sqlite.url, str(ready)],
                **options,  # type: ignore[call-overload]
            )
            started.append(child)
            return child

        monkeypatch.setattr(subprocess, "Popen", start)
        return started

    yield let
    for child in started:
        child.kill()
        child.wait(PATIENCE_SECONDS)


@pytest.fixture
def runs(sqlite: Database) -> Runs:
    return Runs(sqlite)


@pytest.fixture
def hand(sqlite: Database, tmp_path: Path) -> Worker:
    return make_worker(sqlite, data_dir=tmp_path, train_cron="off", train_min_ratings=5)


@contextmanager
def at_work(hand: Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=hand.work, name="worker")
    thread.start()
    try:
        yield thread
    finally:
        hand.stop.set()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def carried_out(hand: Worker, runs: Runs) -> TrainingRun:
    run, _ = runs.queue("this test")
    hand.work_on(run.id)
    return runs.get(run.id)


def test_a_run_ends_as_its_process_says_and_keeps_its_log(
    hand: Worker, runs: Runs, play: Play
) -> None:
    play(RECORDS)

    run = carried_out(hand, runs)

    assert (run.status, run.outcome) == (RunStatus.SKIPPED, "There are 3 examples.")
    assert run.log == "looked at 3 examples\n"


@pytest.mark.bad_input("a run that is killed in the middle")
def test_a_run_whose_process_is_killed_has_failed_by_that_signal(
    hand: Worker, runs: Runs, play: Play
) -> None:
    play("import os, sys; print('step 7', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)")

    run = carried_out(hand, runs)

    assert run.status is RunStatus.FAILED
    assert "SIGKILL" in run.outcome
    assert run.log == "step 7\n"


def test_a_run_whose_process_raises_has_failed_for_that_reason(
    hand: Worker, runs: Runs, play: Play
) -> None:
    play("raise MemoryError('cannot allocate 3 GB')")

    run = carried_out(hand, runs)

    assert run.status is RunStatus.FAILED
    assert run.outcome == "It failed: MemoryError: cannot allocate 3 GB"
    assert run.log.startswith("Traceback")


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_whose_process_says_nothing_has_failed(
    hand: Worker, runs: Runs, play: Play, code: int
) -> None:
    play(f"raise SystemExit({code})")

    run = carried_out(hand, runs)

    assert run.status is RunStatus.FAILED
    assert f"exit code {code}" in run.outcome


def test_of_a_long_log_the_end_is_kept(hand: Worker, runs: Runs, play: Play) -> None:
    play(f"import sys; sys.stderr.write('é' * {LOG_CHARS} + ' the end')")

    run = carried_out(hand, runs)

    assert len(run.log) <= LOG_CHARS
    assert run.log.endswith("é the end")


def test_a_run_that_is_cancelled_has_its_process_ended(
    hand: Worker, runs: Runs, play: Play
) -> None:
    children = play(SLEEPS)

    with at_work(hand):
        run, _ = runs.queue("this test")
        until(lambda: children)
        runs.cancel(run.id)
        until(lambda: runs.get(run.id).status.ended)

    assert runs.get(run.id).status is RunStatus.CANCELLED
    assert [child.returncode for child in children] == [-signal.SIGTERM]


def test_a_process_that_will_not_end_is_killed(
    sqlite: Database, tmp_path: Path, runs: Runs, play: Play, ready: Path
) -> None:
    children = play(DEAF)
    strict = make_worker(sqlite, data_dir=tmp_path, train_cron="off", stop_seconds=0.1)

    with at_work(strict):
        run, _ = runs.queue("this test")
        until(ready.exists)
        runs.cancel(run.id)
        until(lambda: runs.get(run.id).status.ended)

    assert runs.get(run.id).status is RunStatus.CANCELLED
    assert [child.returncode for child in children] == [-signal.SIGKILL]


def test_a_process_that_is_asked_to_end_has_the_last_word(
    hand: Worker, runs: Runs, play: Play, ready: Path
) -> None:
    play(HAS_A_LAST_WORD)

    with at_work(hand):
        run, _ = runs.queue("this test")
        until(ready.exists)
        runs.cancel(run.id)
        until(lambda: runs.get(run.id).status.ended)

    assert runs.get(run.id).outcome == "It was no better."


def test_a_run_whose_process_cannot_be_started_has_failed(
    hand: Worker, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)

    assert carried_out(hand, runs).status is RunStatus.FAILED


def test_a_worker_that_is_stopped_leaves_no_process_and_no_run_behind(
    hand: Worker, runs: Runs, play: Play
) -> None:
    children = play(SLEEPS)

    with at_work(hand) as thread:
        run, _ = runs.queue("this test")
        until(lambda: children)
        hand.stop.set()
        thread.join(PATIENCE_SECONDS)

    assert [child.returncode for child in children] == [-signal.SIGTERM]
    assert runs.get(run.id).status.ended


def test_a_worker_with_nothing_to_do_stops_at_once(hand: Worker) -> None:
    with at_work(hand) as thread:
        hand.stop.set()
        thread.join(2)
        assert not thread.is_alive()


def test_a_run_that_was_cancelled_in_the_queue_is_not_begun(
    hand: Worker, runs: Runs, play: Play
) -> None:
    children = play(SLEEPS)
    run, _ = runs.queue("this test")
    runs.cancel(run.id)

    hand.work_on(run.id)

    assert children == []


def test_runs_are_carried_out_one_after_another(hand: Worker, runs: Runs, play: Play) -> None:
    children = play("")

    def ends() -> bool:
        return runs.recent(1)[0].status.ended

    with at_work(hand):
        for count in (1, 2):
            runs.queue("this test")
            until(ends)
            assert len(children) == count


def test_while_a_run_runs_no_other_worker_begins_one(
    hand: Worker, runs: Runs, play: Play, sqlite: Database
) -> None:
    children = play(SLEEPS)
    other = make_worker(sqlite, train_cron="off")

    with at_work(hand), at_work(other):
        run, _ = runs.queue("this test")
        until(lambda: children)
        again, new = runs.queue("the same, again")
        time.sleep(0.2)
        assert (again.id, new) == (run.id, False)

    assert len(children) == 1


def test_a_run_whose_worker_died_is_not_waited_for_for_ever(
    hand: Worker, runs: Runs, clock: Clock
) -> None:
    run, _ = runs.queue("this test")
    runs.take()
    clock.advance(seconds=HEARTBEAT_LOST_SECONDS + 1)

    hand.work_on(run.id)

    assert runs.get(run.id).status is RunStatus.FAILED


def test_what_a_killed_run_left_on_disk_is_removed(
    hand: Worker, runs: Runs, play: Play, tmp_path: Path
) -> None:
    play(
        "import os, pathlib, signal, sys; "
        f"folder = pathlib.Path({str(tmp_path)!r}, 'runs', sys.argv[1]); "
        "folder.mkdir(parents=True); (folder / 'job.json').write_text('words'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )

    carried_out(hand, runs)

    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.bad_input("a run that is killed in the middle")
def test_what_a_killed_run_made_stays_out_of_use(
    hand: Worker, runs: Runs, play: Play, sqlite: Database, tmp_path: Path, tiny_model: Path
) -> None:
    adapters = Adapters(sqlite, tmp_path / "adapters")
    made = make_tiny_adapter(tiny_model, tmp_path / "made")
    play("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    run, _ = runs.queue("this test")
    candidate = adapters.add(made, base_model="tiny", run_id=run.id)

    hand.work_on(run.id)

    assert adapters.get(candidate.name).status is AdapterStatus.REJECTED


def test_a_run_is_named_to_its_process(hand: Worker, runs: Runs, play: Play) -> None:
    play("import sys; print(sys.argv[1], file=sys.stderr)")

    run = carried_out(hand, runs)

    assert run.log == f"{run.id}\n"


def rate(database: Database, count: int) -> None:
    """Add a thumb of each of so many people, each on a turn of its own."""
    for _ in range(count):
        Ratings(database).rate(talk(database), ADA, Rating.UP, RatingSource.BUTTON)


def ended(runs: Runs, status: RunStatus) -> None:
    """Add a run that was carried out now, and ended so."""
    run, _ = runs.queue("before")
    runs.take(run.id)
    runs.finish(run.id, status, "so")


def test_a_run_is_due_once_enough_was_rated(hand: Worker, runs: Runs, sqlite: Database) -> None:
    rate(sqlite, 4)
    assert not hand.queue_if_due()
    assert runs.recent() == ()

    rate(sqlite, 1)
    assert hand.queue_if_due()
    assert [run.status for run in runs.recent()] == [RunStatus.QUEUED]
    assert "5 new ratings" in runs.recent()[0].reason


def test_a_run_is_due_when_the_active_version_was_trained_on_what_is_erased(
    hand: Worker, runs: Runs, sqlite: Database, tmp_path: Path, tiny_model: Path
) -> None:
    adapters = Adapters(sqlite, tmp_path / "adapters")
    version = adapters.add(make_tiny_adapter(tiny_model, tmp_path / "made"), base_model="tiny")
    adapters.promote(version.name, base_model="tiny", reason="this test")
    assert not hand.queue_if_due()

    with sqlite.session() as session:
        session.execute(update(AdapterRow).values(erased_at=sqlite.now()))

    assert hand.queue_if_due()
    assert runs.recent()[0].reason == f"{version.name} was trained on what is erased now"


def test_imported_ratings_count(hand: Worker, sqlite: Database) -> None:
    take_in(sqlite, (preference(f"why {number}?", label=True) for number in range(5)))

    assert hand.queue_if_due()


def test_a_thumb_that_was_turned_over_is_one_rating(hand: Worker, sqlite: Database) -> None:
    turn_id = talk(sqlite)
    for number in range(10):
        rating = Rating.UP if number % 2 else Rating.DOWN
        Ratings(sqlite).rate(turn_id, ADA, rating, RatingSource.BUTTON)

    assert not hand.queue_if_due()


def test_everybodys_thumb_on_a_turn_counts(hand: Worker, sqlite: Database) -> None:
    meet(sqlite, *range(101, 106))
    turn_id = talk(sqlite, person_id=BOB)
    for person_id in range(101, 106):
        Ratings(sqlite).rate(turn_id, person_id, Rating.UP, RatingSource.BUTTON)

    assert hand.queue_if_due()


LEARNED = [RunStatus.PASSED, RunStatus.PROMOTED, RunStatus.REJECTED]


@pytest.mark.parametrize("status", LEARNED)
def test_only_ratings_since_the_last_run_that_learned_count(
    hand: Worker, runs: Runs, sqlite: Database, clock: Clock, status: RunStatus
) -> None:
    rate(sqlite, 5)
    clock.advance(seconds=1)
    ended(runs, status)
    clock.advance(seconds=1)
    assert not hand.queue_if_due()

    rate(sqlite, 5)

    assert hand.queue_if_due()


@pytest.mark.parametrize("status", [RunStatus.SKIPPED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_ratings_that_a_run_did_not_learn_from_still_count(
    hand: Worker, runs: Runs, sqlite: Database, clock: Clock, status: RunStatus
) -> None:
    rate(sqlite, 5)
    clock.advance(seconds=1)
    ended(runs, status)

    assert hand.queue_if_due()


def test_what_is_rated_while_a_run_learns_counts_for_the_next(
    hand: Worker, runs: Runs, sqlite: Database, clock: Clock
) -> None:
    run, _ = runs.queue("before")
    runs.take(run.id)
    clock.advance(seconds=1)
    rate(sqlite, 5)
    clock.advance(seconds=1)
    runs.finish(run.id, RunStatus.PROMOTED, "so")

    assert hand.queue_if_due()


def test_a_run_that_waits_is_not_queued_again(hand: Worker, runs: Runs, sqlite: Database) -> None:
    rate(sqlite, 5)
    hand.queue_if_due()

    assert not hand.queue_if_due()
    assert len(runs.recent()) == 1


def test_what_is_too_old_is_deleted_while_the_worker_works(
    sqlite: Database, clock: Clock, tmp_path: Path
) -> None:
    def turn_ids() -> list[int]:
        with sqlite.reading() as session:
            return list(session.scalars(select(TurnRow.id).order_by(TurnRow.id)))

    old = talk(sqlite, "old")
    clock.advance(seconds=90_000)
    new = talk(sqlite, "new")
    assert turn_ids() == [old, new]
    with at_work(make_worker(sqlite, data_dir=tmp_path, keep_days=1)):
        until(lambda: turn_ids() == [new])
