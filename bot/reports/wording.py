"""Runs, versions and the gate's report in words, for Telegram and the terminal alike."""

from store.domain import Activation, Adapter, Check, GateReport, RunStatus, TrainingRun

MARKS = {
    RunStatus.QUEUED: "⏳",
    RunStatus.RUNNING: "🏋️",
    RunStatus.PASSED: "🟢",
    RunStatus.PROMOTED: "✅",
    RunStatus.REJECTED: "⛔",
    RunStatus.FAILED: "💥",
    RunStatus.CANCELLED: "✖️",
    RunStatus.SKIPPED: "⏭️",
}


OUTCOME_CHARS = 300
"""Of an outcome in a line; a failed run may quote a library at length."""


def gate_rows(report: GateReport) -> list[tuple[str, str, str, str, str]]:
    """Mark, name, value, limit and detail of every check."""
    return [
        ("✅" if each.passed else "⛔", each.name, _value(each), each.limit, each.detail)
        for each in report.checks
    ]


def gate_text(report: GateReport) -> str:
    """The report as a table of fixed width, the failed checks explained under it."""
    if not report.checks:
        return "The gate measured nothing."
    rows = [(mark, name, value, limit) for mark, name, value, limit, _ in gate_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in (1, 2)]
    lines = [
        f"{mark} {name:<{widths[0]}}  {value:>{widths[1]}}  {limit}"
        for mark, name, value, limit in rows
    ]
    why = [f"{each.name}: {each.detail}" for each in report.checks if not each.passed]
    return "\n".join([*lines, *([""] if why else []), *why])


def run_line(run: TrainingRun) -> str:
    """A run in a line."""
    what = run.outcome[:OUTCOME_CHARS] or progress_text(run) or run.reason
    return f"{MARKS[run.status]} run {run.id} · {run.created_at:%m-%d %H:%M} · {what}"


def progress_text(run: TrainingRun) -> str:
    """How far a run is."""
    if run.status is RunStatus.QUEUED:
        return "waits for its turn"
    if run.status is RunStatus.RUNNING and run.cancel_requested:
        return "is being stopped"
    progress = run.progress
    if run.status is not RunStatus.RUNNING or not progress.stage:
        return "begins" if run.status is RunStatus.RUNNING else ""
    parts = [f"{progress.share:.0%}", progress.stage]
    if progress.steps and progress.loss is not None:
        parts.append(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")
    parts.append(f"{progress.examples} examples")
    if progress.seconds_left is not None:
        parts.append(f"about {progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def adapter_line(adapter: Adapter) -> str:
    """A version in a line."""
    run = f"run {adapter.run_id}" if adapter.run_id else "no run"
    return f"{adapter.name} · {adapter.status} · {run} · {adapter.created_at:%Y-%m-%d %H:%M}"


def activation_line(change: Activation) -> str:
    """A change of the active version in a line."""
    what = change.adapter or "the base model"
    who = f", by {change.person_id}" if change.person_id is not None else ""
    return f"{change.created_at:%Y-%m-%d %H:%M} · {what} · {change.reason}{who}"


def _value(check: Check) -> str:
    return "–" if check.value is None else f"{check.value:g}"
