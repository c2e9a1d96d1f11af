"""The queue of training runs: one at a time, and an end that stays. On both databases."""

import pytest

from store.database import Database
from store.domain import ExampleCounts, Progress, RunMetrics, RunStatus
from store.errors import RunNotFound
from store.runs import HEARTBEAT_LOST_SECONDS, LOG_CHARS, Runs
from tests.fakes import Clock
from tests.store.talk import ADA
from tests.store.threads import at_once

ENDED = [status for status in RunStatus if status.ended]


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


def queued(runs: Runs) -> int:
    """Queue a new run; return its id."""
    run, new = runs.queue("a test")
    assert new
    return run.id


def running(runs: Runs) -> int:
    """Queue a run and begin it; return its id."""
    run_id = queued(runs)
    run = runs.take()
    assert run is not None
    assert run.id == run_id
    return run_id


def ended(runs: Runs, status: RunStatus = RunStatus.REJECTED) -> int:
    """Carry out a run; return its id."""
    run_id = running(runs)
    runs.finish(run_id, status, "It is over.")
    return run_id


def test_a_queued_run_keeps_who_asked_for_it_why_and_when(runs: Runs, clock: Clock) -> None:
    run, new = runs.queue("an admin", requested_by=ADA)
    assert new
    assert runs.get(run.id) == run
    assert (run.status, run.reason, run.requested_by) == (RunStatus.QUEUED, "an admin", ADA)
    assert (run.created_at, run.started_at, run.finished_at) == (clock(), None, None)
    assert (run.outcome, run.log, run.seconds) == ("", "", 0)
    assert (run.examples, run.metrics, run.progress) == (None, RunMetrics(), Progress())


@pytest.mark.bad_input("two /train at once")
def test_queueing_twice_gives_the_run_that_waits(runs: Runs) -> None:
    first, _ = runs.queue("the schedule")
    again, new = runs.queue("an admin")
    assert not new
    assert again == first
    assert (runs.queued(), len(runs.recent())) == (1, 1)


def test_queueing_while_one_runs_gives_that_one(runs: Runs) -> None:
    run_id = running(runs)
    again, new = runs.queue("an admin")
    assert (again.id, again.status, new) == (run_id, RunStatus.RUNNING, False)
    assert runs.queued() == 0


@pytest.mark.parametrize("status", ENDED)
def test_a_run_that_has_ended_makes_room_for_the_next(runs: Runs, status: RunStatus) -> None:
    first = ended(runs, status)
    assert running(runs) > first


def test_queueing_from_eight_threads_queues_one(runs: Runs) -> None:
    for _ in range(3):
        answers = at_once(8, lambda _: runs.queue("at once"))
        assert len({run.id for run, _ in answers}) == 1
        assert [new for _, new in answers].count(True) == 1
        runs.cancel(answers[0][0].id)


def test_taking_begins_the_run_that_waits(runs: Runs, clock: Clock) -> None:
    run_id = queued(runs)
    clock.advance(seconds=30)
    run = runs.take()
    assert run is not None
    assert (run.id, run.status, run.started_at) == (run_id, RunStatus.RUNNING, clock())
    assert runs.get(run_id) == run
    assert runs.queued() == 0


def test_there_is_nothing_to_take_from_an_empty_queue(runs: Runs) -> None:
    assert runs.take() is None
    ended(runs)
    assert runs.take() is None


def test_nothing_is_taken_while_one_runs(runs: Runs) -> None:
    run_id = running(runs)
    assert runs.take() is None
    assert runs.take(run_id) is None
    assert runs.get(run_id).status is RunStatus.RUNNING


def test_a_run_is_taken_by_its_id_if_it_waits(runs: Runs) -> None:
    over = ended(runs)
    run_id = queued(runs)
    assert runs.take(404) is None
    assert runs.take(over) is None
    taken = runs.take(run_id)
    assert taken is not None
    assert taken.id == run_id


def test_of_two_threads_that_take_at_once_one_gets_it(runs: Runs) -> None:
    for _ in range(5):
        run_id = queued(runs)
        taken = at_once(2, lambda _: runs.take())
        assert sorted(run.id for run in taken if run) == [run_id]
        runs.finish(run_id, RunStatus.FAILED, "It is over.")


def test_a_run_cancelled_while_it_waits_never_begins(runs: Runs, clock: Clock) -> None:
    run_id = queued(runs)
    run = runs.cancel(run_id)
    assert (run.status, run.finished_at) == (RunStatus.CANCELLED, clock())
    assert run.outcome == "It was cancelled before it began."
    assert runs.take() is None
    assert runs.queued() == 0


def test_a_run_cancelled_while_it_runs_is_asked_to_stop(runs: Runs) -> None:
    run_id = running(runs)
    assert not runs.beat(run_id)
    run = runs.cancel(run_id)
    assert (run.status, run.cancel_requested) == (RunStatus.RUNNING, True)
    assert runs.beat(run_id)


def test_cancelling_what_has_ended_changes_nothing(runs: Runs) -> None:
    run_id = ended(runs, RunStatus.PROMOTED)
    before = runs.get(run_id)
    assert runs.cancel(run_id) == before == runs.get(run_id)


def test_a_run_whose_heartbeat_is_lost_has_failed_when_the_next_is_queued(
    runs: Runs, clock: Clock
) -> None:
    lost = running(runs)
    clock.advance(seconds=HEARTBEAT_LOST_SECONDS + 1)
    assert queued(runs) > lost
    run = runs.get(lost)
    assert (run.status, run.finished_at) == (RunStatus.FAILED, clock())
    assert run.outcome == "Its worker died; nothing of it is in use."


def test_a_run_whose_heartbeat_is_lost_has_failed_when_somebody_looks_for_work(
    runs: Runs, clock: Clock
) -> None:
    lost = running(runs)
    runs.report_progress(lost, Progress(stage="training", share=0.5))
    clock.advance(seconds=HEARTBEAT_LOST_SECONDS + 1)
    assert runs.take() is None
    run = runs.get(lost)
    assert (run.status, run.progress) == (RunStatus.FAILED, Progress())


def test_a_run_whose_worker_says_that_it_lives_goes_on(runs: Runs, clock: Clock) -> None:
    run_id = running(runs)
    for _ in range(3):
        clock.advance(seconds=HEARTBEAT_LOST_SECONDS - 1)
        runs.beat(run_id)
        assert runs.take() is None
    assert runs.get(run_id).status is RunStatus.RUNNING


def test_a_run_may_wait_in_the_queue_for_as_long_as_it_takes(runs: Runs, clock: Clock) -> None:
    run_id = queued(runs)
    clock.advance(seconds=100 * HEARTBEAT_LOST_SECONDS)
    taken = runs.take()
    assert taken is not None
    assert taken.id == run_id


def test_the_word_of_a_worker_that_was_given_up_does_not_count(runs: Runs, clock: Clock) -> None:
    lost = running(runs)
    clock.advance(seconds=HEARTBEAT_LOST_SECONDS + 1)
    runs.take()
    assert not runs.report_progress(lost, Progress(stage="training"))
    assert not runs.report_metrics(lost, held_back=1)
    run = runs.finish(lost, RunStatus.PROMOTED, "It passed.")
    assert (run.status, run.metrics, run.progress) == (RunStatus.FAILED, RunMetrics(), Progress())


def test_a_worker_that_was_given_up_is_told_to_stop(runs: Runs, clock: Clock) -> None:
    lost = running(runs)
    clock.advance(seconds=HEARTBEAT_LOST_SECONDS + 1)
    runs.take()
    given_up = runs.get(lost)
    assert runs.beat(lost)
    assert runs.get(lost) == given_up


def test_what_becomes_known_of_a_running_run_is_kept(runs: Runs) -> None:
    run_id = running(runs)
    progress = Progress(stage="training", step=3, steps=9, loss=0.5, share=0.25, seconds_left=60.0)
    runs.report_progress(run_id, progress)
    runs.choose(run_id, ExampleCounts(train=8), {})
    run = runs.get(run_id)
    assert run.progress == progress
    assert run.examples == ExampleCounts(train=8)


def test_metrics_are_added_to_those_before(runs: Runs) -> None:
    run_id = running(runs)
    runs.report_metrics(run_id, recipe={"rank": 8}, curve=[(1, 1.0)])
    runs.report_metrics(run_id, curve=[(1, 1.0), (2, 0.5)])
    assert runs.get(run_id).metrics == RunMetrics(recipe={"rank": 8}, curve=((1, 1.0), (2, 0.5)))


def test_an_end_keeps_what_was_measured_and_how_long_it_took(runs: Runs, clock: Clock) -> None:
    run_id = running(runs)
    runs.report_progress(run_id, Progress(stage="training"))
    runs.report_metrics(run_id, held_back=2)
    clock.advance(seconds=90)
    run = runs.finish(run_id, RunStatus.PROMOTED, "It is live.", log="fine")
    assert runs.get(run_id) == run
    assert (run.status, run.outcome, run.log) == (RunStatus.PROMOTED, "It is live.", "fine")
    assert (run.metrics, run.progress, run.seconds) == (RunMetrics(held_back=2), Progress(), 90)


def test_the_first_word_about_an_end_counts(runs: Runs, clock: Clock) -> None:
    run_id = running(runs)
    first = runs.finish(run_id, RunStatus.PROMOTED, "It is live.")
    clock.advance(seconds=5)
    assert runs.finish(run_id, RunStatus.FAILED, "Its process ended.") == first


def test_the_log_of_a_run_that_has_ended_may_still_be_handed_in(runs: Runs) -> None:
    run_id = ended(runs)
    runs.finish(run_id, RunStatus.FAILED, "Its process ended.", log="the last lines")
    run = runs.get(run_id)
    assert (run.status, run.log) == (RunStatus.REJECTED, "the last lines")


def test_notes_after_the_end_change_nothing(runs: Runs) -> None:
    run_id = ended(runs)
    before = runs.get(run_id)
    assert not runs.report_progress(run_id, Progress(stage="training"))
    assert not runs.report_metrics(run_id, held_back=1)
    assert not runs.choose(run_id, ExampleCounts(train=1), {})
    assert not runs.keep_samples(run_id, [])
    assert runs.get(run_id) == before


def test_of_a_long_log_the_end_is_kept(runs: Runs) -> None:
    run_id = running(runs)
    run = runs.finish(run_id, RunStatus.FAILED, "It failed.", log="a" * LOG_CHARS + "the cause")
    assert len(run.log) == LOG_CHARS
    assert run.log.endswith("aaa" + "the cause")


def test_an_ended_run_is_news_until_it_is_announced(runs: Runs) -> None:
    first = ended(runs)
    cancelled = runs.cancel(queued(runs)).id
    assert [run.id for run in runs.unannounced()] == [first, cancelled]
    runs.mark_announced(first)
    assert [run.id for run in runs.unannounced()] == [cancelled]


def test_a_run_that_has_not_ended_is_not_announced(runs: Runs) -> None:
    queued(runs)
    assert runs.unannounced() == ()
    runs.take()
    assert runs.unannounced() == ()


def test_recent_runs_come_newest_first(runs: Runs) -> None:
    ids = [ended(runs) for _ in range(4)]
    assert [run.id for run in runs.recent(3)] == ids[:0:-1]


def test_no_run_has_learned_before_one_got_as_far_as_a_candidate(runs: Runs) -> None:
    for status in (RunStatus.FAILED, RunStatus.SKIPPED, RunStatus.CANCELLED):
        ended(runs, status)
    running(runs)
    assert runs.last_learned() is None


@pytest.mark.parametrize("status", [RunStatus.PASSED, RunStatus.PROMOTED, RunStatus.REJECTED])
def test_the_last_run_that_learned_is_the_newest_that_got_as_far_as_a_candidate(
    runs: Runs, status: RunStatus
) -> None:
    ended(runs)
    learned = ended(runs, status)
    ended(runs, RunStatus.FAILED)
    queued(runs)
    run = runs.last_learned()
    assert run is not None
    assert run.id == learned


@pytest.mark.parametrize("run_id", [404, 0, -1, 2**63, 2**70])
def test_a_run_that_does_not_exist_is_not_found(runs: Runs, run_id: int) -> None:
    asked = [
        lambda: runs.get(run_id),
        lambda: runs.cancel(run_id),
        lambda: runs.report_metrics(run_id, held_back=1),
        lambda: runs.finish(run_id, RunStatus.FAILED, "It failed."),
        lambda: runs.beat(run_id),
    ]
    for ask in asked:
        with pytest.raises(RunNotFound, match=f"no run {run_id}: /runs"):
            ask()
