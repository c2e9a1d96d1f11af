"""Runs, versions and the gate's report in words."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bot.reports.wording import MARKS, adapter_line, gate_rows, gate_text, progress_text, run_line
from store.domain import AdapterStatus, Check, GateReport, Progress, RunStatus, TrainingRun
from tests.records import make_adapter, make_run

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

RUN = make_run(id=7, created_at=WHEN)
ADAPTER = make_adapter(name="a3-1f2e3d4c", run_id=7, status=AdapterStatus.ACTIVE, created_at=WHEN)

GOOD = Check(name="preference", value=0.625, limit="≥ 0.5", passed=True, detail="of 40 replies")
BAD = Check(name="drift", value=0.75, limit="≤ 0.5", passed=False, detail="nats a token")
UNKNOWN = Check(name="gain", value=None, limit="≥ 0", passed=False, detail="too few ratings")


def running(progress: Progress) -> TrainingRun:
    return replace(RUN, status=RunStatus.RUNNING, progress=progress)


def test_every_check_of_a_report_is_a_row_with_its_mark() -> None:
    assert gate_rows(GateReport(checks=(GOOD, BAD, UNKNOWN))) == [
        ("✅", "preference", "0.625", "≥ 0.5", "of 40 replies"),
        ("⛔", "drift", "0.75", "≤ 0.5", "nats a token"),
        ("⛔", "gain", "–", "≥ 0", "too few ratings"),
    ]


def test_a_report_is_a_table_with_the_failed_checks_explained_under_it() -> None:
    assert gate_text(GateReport(checks=(GOOD, BAD, UNKNOWN))).splitlines() == [
        "✅ preference  0.625  ≥ 0.5",
        "⛔ drift        0.75  ≤ 0.5",
        "⛔ gain            –  ≥ 0",
        "",
        "drift: nats a token",
        "gain: too few ratings",
    ]


def test_a_report_that_passed_explains_nothing() -> None:
    assert gate_text(GateReport(checks=(GOOD,))) == "✅ preference  0.625  ≥ 0.5"


def test_every_status_of_a_run_has_a_mark_of_its_own() -> None:
    assert set(MARKS) == set(RunStatus)
    assert len(set(MARKS.values())) == len(RunStatus)


def test_a_run_that_waits_says_so() -> None:
    assert progress_text(RUN) == "is waiting"
    assert run_line(RUN) == "⏳ run 7 · 01-02 03:04 UTC · is waiting"


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        (Progress(), "is starting"),
        (Progress(stage="loading the model", share=0.01), "1% · loading the model · 0 examples"),
        (
            Progress(stage="training", share=0.3, step=3, steps=9, examples=80),
            "30% · training · 80 examples",
        ),
        (
            Progress(
                stage="training",
                step=3,
                steps=9,
                loss=0.51234,
                share=0.3,
                seconds_left=61.7,
                examples=80,
            ),
            "30% · training · step 3 of 9, loss 0.512 · 80 examples · about 62 s left",
        ),
    ],
)
def test_a_run_that_runs_says_how_far_it_is(progress: Progress, told: str) -> None:
    run = running(progress)

    assert progress_text(run) == told
    assert run_line(run) == f"{MARKS[RunStatus.RUNNING]} run 7 · 01-02 03:04 UTC · {told}"


def test_a_run_that_has_ended_says_how_and_is_no_further() -> None:
    run = replace(RUN, status=RunStatus.REJECTED, outcome="It did not pass the gate: drift.")

    assert progress_text(run) == ""
    assert run_line(run) == "⛔ run 7 · 01-02 03:04 UTC · It did not pass the gate: drift."


def test_a_run_without_an_outcome_says_why_there_was_one() -> None:
    run = replace(RUN, status=RunStatus.PROMOTED)

    assert run_line(run) == "✅ run 7 · 01-02 03:04 UTC · the schedule"


def test_a_version_is_a_line_with_its_run_if_it_had_one() -> None:
    assert adapter_line(ADAPTER) == "a3-1f2e3d4c · active · run 7 · 2026-01-02 03:04 UTC"
    assert adapter_line(replace(ADAPTER, run_id=None, status=AdapterStatus.RETIRED)) == (
        "a3-1f2e3d4c · retired · no run · 2026-01-02 03:04 UTC"
    )
