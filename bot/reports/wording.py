"""Describes runs, versions and gate reports in words, for Telegram and the terminal."""

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
"""Length at which an outcome is cut; a failed run may quote a long error of a library."""


def gate_rows(report: GateReport) -> list[tuple[str, str, str, str, str]]:
    """Return mark, name, value, limit and detail of every check."""
    return [
        ("✅" if each.passed else "⛔", each.name, _value(each), each.limit, each.detail)
        for each in report.checks
    ]


def gate_text(report: GateReport) -> str:
    """Return the report as a table for a fixed-width font, with failed checks explained below."""
    if not report.checks:
        return "There were no checks."
    rows = [(mark, name, value, limit) for mark, name, value, limit, _ in gate_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in (1, 2)]
    lines = [
        f"{mark} {name:<{widths[0]}}  {value:>{widths[1]}}  {limit}"
        for mark, name, value, limit in rows
    ]
    reasons = [f"{each.name}: {each.detail}" for each in report.checks if not each.passed]
    if reasons:
        lines += ["", *reasons]
    return "\n".join(lines)


def run_line(run: TrainingRun) -> str:
    """Describe a run in one line."""
    what = run.outcome[:OUTCOME_CHARS] or progress_text(run) or run.reason
    return f"{MARKS[run.status]} run {run.id} · {run.created_at:%m-%d %H:%M} UTC · {what}"


def progress_text(run: TrainingRun) -> str:
    """Describe the progress of a run; empty once it has ended."""
    if run.status is RunStatus.QUEUED:
        return "is waiting"
    if run.status is RunStatus.RUNNING and run.cancel_requested:
        return "is being stopped"
    progress = run.progress
    if run.status is not RunStatus.RUNNING or not progress.stage:
        return "is starting" if run.status is RunStatus.RUNNING else ""
    parts = [f"{progress.share:.0%}", progress.stage]
    if progress.steps and progress.loss is not None:
        parts.append(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")
    parts.append(f"{progress.examples} examples")
    if progress.seconds_left is not None:
        parts.append(f"about {progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def adapter_line(adapter: Adapter) -> str:
    """Describe a version in one line."""
    run = f"run {adapter.run_id}" if adapter.run_id else "no run"
    return f"{adapter.name} · {adapter.status} · {run} · {adapter.created_at:%Y-%m-%d %H:%M} UTC"


def activation_line(change: Activation) -> str:
    """Describe a change of the active version in one line."""
    what = change.adapter or "the base model"
    who = f", by {change.person_id}" if change.person_id is not None else ""
    return f"{change.created_at:%Y-%m-%d %H:%M} UTC · {what} · {change.reason}{who}"


def _value(check: Check) -> str:
    return "–" if check.value is None else f"{check.value:g}"
