"""The commands `train`, `trainer`, `adapters` and `generate`."""

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from bot.app import Store, open_engine
from bot.cli.console import example, opened_store, out, print_json
from bot.cli.generate import AT_ONCE, read_lines, write_rows
from bot.cli.generate import generate as generate_lines
from bot.cli.worker_process import WORKER, worker_for
from bot.engine.base import SamplingParams
from bot.engine.source import model_name
from bot.errors import BotError, UsageError
from bot.reports.wording import activation_line, adapter_line, gate_rows, progress_text
from store.domain import Adapter, ExampleCounts, GateReport, RunStatus, Sample, TrainingRun

LOOK_SECONDS = 0.5
"""Time between two looks at a run's progress."""


@click.command(epilog=example("ratchet trainer"))
def trainer() -> None:
    """Train on schedule and from the queue; needs an upgraded database."""
    os.execv(WORKER[0], WORKER)


@click.command(epilog=example("ratchet train --wait"))
@click.option("--wait", is_flag=True, help="Carry out the run and show its progress.")
@click.option("--json", "as_json", is_flag=True, help="With --wait: print one JSON document.")
def train(wait: bool, as_json: bool) -> None:
    """Queue a training run."""
    with opened_store(changes=True) as store:
        run, new = store.runs.queue("the command line")
        if not wait:
            if as_json:
                print_json({"run_id": run.id, "status": run.status})
                return
            state = "is queued" if new else f"is {run.status} already"
            click.echo(
                f"Run {run.id} {state}. A running `ratchet run` or `ratchet trainer` takes it."
            )
            return
        with worker_for(run.id) as worker:
            ended = _follow(store, run.id, worker)
        report, adapter = _result(store, ended)
        samples = store.runs.samples(ended.id)
        if as_json:
            print_json(_run_json(ended, adapter, report))
        else:
            _show_run(ended, report, samples)
        if ended.status in (RunStatus.FAILED, RunStatus.CANCELLED):
            raise BotError(ended.outcome)


def _follow(store: Store, run_id: int, worker: "subprocess.Popen[bytes]") -> TrainingRun:
    """Show a run's progress on stderr until it ends; Ctrl-C cancels the run."""
    columns = (BarColumn(), TextColumn("{task.description}"))
    console, shown = _stderr(), None
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("is waiting", total=1.0)
        try:
            while not (run := store.runs.get(run_id)).status.ended:
                if worker.poll() is not None and not store.runs.get(run_id).status.ended:
                    raise BotError(
                        f"the trainer died; `ratchet train --wait` continues run {run_id}"
                    )
                bar.update(task, completed=run.progress.share, description=progress_text(run))
                now = (run.status, run.progress.stage)
                if not console.is_interactive and now != shown:  # a pipe shows no bar
                    click.echo(progress_text(run), err=True)
                    shown = now
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            run = store.runs.cancel(run_id)
            click.echo(f"Run {run_id}: {run.outcome or progress_text(run)}", err=True)
            raise
    return run


def _stderr() -> Console:
    return Console(stderr=True)


def _result(store: Store, run: TrainingRun) -> tuple[GateReport | None, Adapter | None]:
    adapter = store.adapters.of_run(run.id)
    return (store.adapters.report(adapter.name) if adapter else None), adapter


def _run_json(
    run: TrainingRun, adapter: Adapter | None, report: GateReport | None
) -> dict[str, Any]:
    kinds = ("train", "held_out", "positive", "negative", "pairs")
    counts = asdict(run.examples or ExampleCounts())
    checks = [
        {"name": c.name, "value": c.value, "limit": c.limit, "passed": c.passed}
        for c in (report.checks if report else ())
    ]
    return {
        "run_id": run.id,
        "status": run.status,
        "outcome": run.outcome,
        "adapter": adapter.name if adapter else None,
        "examples": {kind: counts[kind] for kind in kinds},
        "gate": {"passed": bool(report and report.passed), "checks": checks},
        "seconds": round(run.seconds, 1),
    }


def _show_run(run: TrainingRun, report: GateReport | None, samples: Sequence[Sample]) -> None:
    click.echo(f"Run {run.id}: {run.outcome} ({run.seconds:.0f} s)")
    if report is not None:
        _show_report(report)
    for each in samples:
        click.echo(f"\n{each.question}\n  before: {each.before}\n  after:  {each.after}")


def _show_report(report: GateReport) -> None:
    names = ("", "check", "measured", "allowed", "detail")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in gate_rows(report):
        table.add_row(*row)
    out.print(table)


@click.group(invoke_without_command=True, epilog=example("ratchet adapters --json"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def adapters(context: click.Context, as_json: bool) -> None:
    """List the versions, and which of them have answered."""
    if context.invoked_subcommand is not None:
        return
    with opened_store() as store:
        versions, changes = store.adapters.all(), store.adapters.history()
    if as_json:
        print_json([_adapter_json(each) for each in versions])
        return
    for each in versions:
        click.echo(adapter_line(each))
    if not versions:
        click.echo("There are no versions yet: the base model answers. `ratchet train` makes one.")
    if changes:
        click.echo("\nChanges of the active version, newest first:")
    for change in changes:
        click.echo(activation_line(change))


def _adapter_json(adapter: Adapter) -> dict[str, Any]:
    row = asdict(adapter)
    del row["path"]
    notes = row.pop("notes")
    erased_at = adapter.erased_at.isoformat() if adapter.erased_at else None
    created_at = adapter.created_at.isoformat()
    return {**row, "metrics": notes, "erased_at": erased_at, "created_at": created_at}


@adapters.command(epilog=example("ratchet adapters show a3-1f2e3d4c"))
@click.argument("name")
def show(name: str) -> None:
    """Show a version: its run, its recipe and the report of the gate."""
    with opened_store() as store:
        adapter = store.adapters.get(name)
        report = store.adapters.report(name)
    click.echo(adapter_line(adapter))
    click.echo(f"sha256 {adapter.sha256}\nbase model {adapter.base_model}")
    for kind in ("recipe", "examples"):
        shown = asdict(adapter.notes)[kind] or {}
        click.echo(f"{kind}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))
    if adapter.erased_at is not None:
        click.echo(f"It learned from what was erased on {adapter.erased_at:%Y-%m-%d}.")
    if report is not None:
        _show_report(report)


@adapters.command(epilog=example("ratchet adapters promote a3-1f2e3d4c"))
@click.argument("name")
@click.option("--force", is_flag=True, help="Promote even a version that the gate rejected.")
def promote(name: str, force: bool) -> None:
    """Make a version the active one; a running bot answers with it from now on."""
    with opened_store(changes=True) as store:
        reason = "the command line" + (", forced" if force else "")
        store.adapters.promote(
            name, base_model=model_name(store.settings.engine.model), reason=reason, force=force
        )
    click.echo(f"{name} is active.")


@adapters.command(epilog=example('ratchet adapters rollback --reason "too chatty"'))
@click.option("--reason", default="the command line", help="Reason that is stored with the change.")
@click.option("--force", is_flag=True, help="Even to a version that learned what was erased.")
def rollback(reason: str, force: bool) -> None:
    """Go back to the version before the active one, or to the base model."""
    with opened_store(changes=True) as store:
        before = store.adapters.rollback(reason=reason, force=force)
    click.echo(f"{before.name} is active again." if before else "The base model answers again.")


@click.command(epilog=example("ratchet generate prompts.jsonl replies.jsonl --adapter base"))
@click.argument("source", metavar="IN.jsonl", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.jsonl", type=click.Path(path_type=Path))
@click.option(
    "--adapter", metavar="NAME", help="Version to use, or `base`; by default the active one."
)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="Seed of sampling, for the same result again.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="Longest completion; by default RATCHET_MAX_NEW_TOKENS.",
)
def generate(
    source: Path,
    target: Path,
    adapter: str | None,
    temperature: float,
    seed: int | None,
    max_new_tokens: int | None,
) -> None:
    """Complete a file of prompts."""
    if not target.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {target.absolute().parent}")
    with opened_store() as store:
        settings = store.settings
        lines = read_lines(source, system_prompt=settings.reply.system_prompt)
        if adapter is None:
            version = store.adapters.active()
        else:
            version = None if adapter == "base" else store.adapters.get(adapter)
        sampling = SamplingParams(
            temperature=temperature,
            top_p=settings.reply.top_p,
            max_new_tokens=max_new_tokens or settings.reply.max_new_tokens,
            seed=seed,
        )

        async def complete() -> list[dict[str, Any]]:
            engine = await open_engine(settings)
            try:
                if version is not None:
                    await engine.load_adapter(version)
                with Progress(console=_stderr(), transient=True) as bar:
                    task = bar.add_task("generating", total=len(lines))
                    return await generate_lines(
                        engine,
                        lines,
                        sampling,
                        adapter=version.name if version else None,
                        at_once=min(AT_ONCE, settings.engine.queue_size),
                        done=lambda: bar.advance(task),
                    )
            finally:
                await engine.close()

        rows = asyncio.run(complete())
    write_rows(target, rows)
    click.echo(f"{len(rows)} completed.")
