"""One training run, top to bottom: examples → fine-tuning → evaluation → gate → promotion.

The worker starts it as a process of its own (`python -m trainer.run ID`), so that a crash or a lack
of memory does not reach conversations, and all memory is freed at the end. Progress and results
are written into the run's row.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from bot.engine.errors import EngineError
from bot.engine.source import model_name
from store.adapters import Adapters
from store.database import Database
from store.domain import Adapter, AdapterNotes, GateReport, RunStatus
from store.embedder import SentenceEmbedder
from store.errors import AdapterNotFit, StoreError
from store.examples import Examples
from store.golden_answers import GoldenAnswer, GoldenAnswers
from store.people import People
from store.runs import Runs
from store.settings import Settings, load_settings
from store.suspects import Suspects
from store.teaching import TeachingRule
from trainer.errors import NothingToLearn, RunCancelled, TrainerError
from trainer.examples.dataset import Snapshot, take_snapshot
from trainer.examples.rater_audit import examine
from trainer.examples.rater_shares import RaterTrust
from trainer.progress import ProgressReporter, RunStage
from trainer.proving.comparison import Comparison, Exam
from trainer.proving.gate import went_too_far
from trainer.recipe import Recipe
from trainer.run_folder import run_folder
from trainer.tuning.checkpoints import Point
from trainer.tuning.finetune import scale_adapter
from trainer.tuning.launch import Job, predictor_for, train

logger = logging.getLogger(__name__)

SMALLER_SHARE = 0.6
"""Share of an update that is tried, once, if the whole update is liked but lost too much."""

CANDIDATES = 3
"""Rated turns that are read for a run, as a multiple of the examples that it trains on."""

NICENESS = 10
"""Priority of the process: replies to people come first."""


def learn(settings: Settings, database: Database, run_id: int) -> RunStatus:
    """Carry out a run that was taken from the queue, and record how it ended."""
    runs = Runs(database)
    try:
        status, outcome = _learn(settings, database, ProgressReporter(runs, run_id))
    except NothingToLearn as reason:
        status, outcome = RunStatus.SKIPPED, str(reason)
    except RunCancelled:
        active = Adapters(database, settings.storage.adapters_path).active()
        if active is not None and active.run_id == run_id:  # cancelled after the promotion
            status, outcome = RunStatus.PROMOTED, f"{active.name} passed the gate and is live."
        else:
            status, outcome = RunStatus.CANCELLED, "It was cancelled; nothing of it is in use."
    except (TrainerError, StoreError, EngineError, OSError) as error:
        logger.exception("the run failed")
        status, outcome = RunStatus.FAILED, f"It failed: {error}"
    except Exception as error:  # the outermost edge of this process
        logger.exception("the run failed")
        status, outcome = RunStatus.FAILED, f"It failed: {type(error).__name__}: {error}"
    return runs.finish(run_id, status, outcome).status


def _learn(
    settings: Settings, database: Database, progress: ProgressReporter
) -> tuple[RunStatus, str]:
    recipe = Recipe.of(settings.train)
    progress.start_stage(RunStage.CHOOSE_EXAMPLES)
    golden = GoldenAnswers(database, TeachingRule.of(settings.admission, settings.privacy)).all()
    snapshot, groups = _choose_examples(settings, database, recipe, progress, golden)
    progress.record_snapshot(snapshot, recipe)
    adapters = Adapters(database, settings.storage.adapters_path)
    progress.start_stage(RunStage.PREPARE)

    def report_step(point: Point) -> None:
        progress.report_step(point.step, point.steps, point.loss)

    predictor = predictor_for(settings.retrieval.embedder, snapshot)
    with run_folder(settings.storage.data_dir, progress.run_id) as folder:
        job = Job(snapshot=snapshot, recipe=recipe, folder=folder)
        update = train(settings, job, predictor, report_step)
        progress.record_curve()
        active = adapters.active()
        exam = Exam(held_out=snapshot.held_out, golden=golden, groups=groups)
        comparison = Comparison(settings, exam, predictor, active, progress)
        notes = AdapterNotes(recipe=recipe.as_dict(), examples=snapshot.counts)
        candidate, report = _prove(settings, adapters, comparison, update, progress, notes)
        if went_too_far(report):
            adapters.reject(candidate.name)
            update = scale_adapter(update, SMALLER_SHARE, folder / "smaller")
            notes = replace(notes, share=SMALLER_SHARE, instead_of=candidate.name)
            candidate, report = _prove(settings, adapters, comparison, update, progress, notes)
    return _decide(settings, adapters, candidate, active, report)


def _choose_examples(
    settings: Settings,
    database: Database,
    recipe: Recipe,
    progress: ProgressReporter,
    golden: Sequence[GoldenAnswer],
) -> tuple[Snapshot, tuple[frozenset[int], ...]]:
    """Quarantine people whose ratings look like an attack, then choose among the others'.

    Also return the groups of people who rate together.
    """
    rule = TeachingRule.of(settings.admission, settings.privacy)
    stored, suspects, people = Examples(database, rule), Suspects(database), People(database)
    most = CANDIDATES * recipe.max_examples
    examples = stored.collect(most, seed=recipe.seed)
    raters = {person for each in examples.every for person in (*each.raters, *each.outvoted)}
    released = suspects.released()
    vouched = people.vouched(raters) | released
    days = settings.train.newcomer_days
    newcomers = people.newcomers(raters, age=timedelta(days=days), active_days=-(-days // 2))
    findings = examine(
        examples,
        SentenceEmbedder(settings.retrieval.embedder),
        trusted=settings.admission.admins | released,
        vouched=vouched | settings.admission.admins,
        newcomers=newcomers,
    )
    quarantined = [
        person for person, reason in findings.suspects.items() if suspects.hold(person, reason)
    ]
    progress.record_held_back(len(quarantined))
    if quarantined:
        examples = stored.collect(most, seed=recipe.seed)
    trust = RaterTrust(
        trusted=settings.admission.admins,
        vouched=vouched,
        newcomers=newcomers,
        agreement=findings.agreement,
    )
    snapshot = take_snapshot(
        examples, recipe, system_prompt=settings.reply.system_prompt, trust=trust, golden=golden
    )
    return snapshot, findings.groups


def _prove(
    settings: Settings,
    adapters: Adapters,
    comparison: Comparison,
    update: Path,
    progress: ProgressReporter,
    notes: AdapterNotes,
) -> tuple[Adapter, GateReport]:
    """Store an update as a candidate, and have the gate report on it."""
    candidate = adapters.add(
        update, base_model=model_name(settings.engine.model), run_id=progress.run_id, notes=notes
    )
    try:
        report = comparison.gate_report(candidate)
        progress.start_stage(RunStage.GATE)  # raises if the run was cancelled meanwhile
        adapters.evaluate(candidate.name, report, run_id=progress.run_id)
    except BaseException:  # a candidate without a report must not be used
        adapters.reject(candidate.name)
        raise
    return candidate, report


def _decide(
    settings: Settings,
    adapters: Adapters,
    candidate: Adapter,
    active: Adapter | None,
    report: GateReport,
) -> tuple[RunStatus, str]:
    """Promote, keep or reject the candidate; return the run's status and its outcome."""
    name, whole = candidate.name, candidate.notes.instead_of
    if whole:
        name += f" ({SMALLER_SHARE:.0%} of {whole}, which went too far)"
    if not report.passed:
        adapters.reject(candidate.name)
        failed = ", ".join(check.name for check in report.checks if not check.passed)
        return RunStatus.REJECTED, f"{name} did not pass the gate: {failed}."
    if settings.versions.promote == "ask":
        return RunStatus.PASSED, f"{name} passed the gate and waits for /promote."
    try:
        adapters.promote(
            candidate.name,
            base_model=candidate.base_model,
            reason=f"run {candidate.run_id} passed the gate",
            instead_of=[active.name if active else None],
        )
    except AdapterNotFit as error:
        return RunStatus.PASSED, f"{name} passed the gate and waits for /promote: {error}."
    return RunStatus.PROMOTED, f"{name} passed the gate and is live."


def _cancel(*_: object) -> NoReturn:
    raise RunCancelled


def main() -> None:
    """Carry out the run whose id is the argument."""
    for number in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C reaches child processes, too
        signal.signal(number, _cancel)
    os.nice(NICENESS)
    settings = load_settings()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    for name in ("httpx", "httpcore", "alembic", "datasets", "filelock", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = Database(settings.storage.database)
    try:
        learn(settings, database, int(sys.argv[1]))
    finally:
        database.close()


if __name__ == "__main__":
    main()
