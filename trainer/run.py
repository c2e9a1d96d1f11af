"""One training run, top to bottom: examples → fine-tuning → evaluation → gate → promotion.

Runs as a process of its own (`python -m trainer.run ID`), started by the worker, so that a crash
or an out-of-memory never reaches a conversation and the memory comes back. What it finds out goes
into the run's row as it goes.
"""

import logging
import os
import signal
import sys
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
from store.people import People
from store.runs import Runs
from store.settings import Settings, load_settings
from store.suspects import Suspects
from store.teaching import TeachingRule
from trainer.errors import NothingToLearn, RunCancelled, TrainerError
from trainer.examples.dataset import Snapshot, take_snapshot
from trainer.examples.rater_audit import examine
from trainer.examples.rater_shares import RaterShares
from trainer.progress import ProgressReporter
from trainer.proving.comparison import TRAINED, Comparison
from trainer.proving.gate import went_too_far
from trainer.recipe import Recipe
from trainer.run_folder import run_folder
from trainer.tuning.finetune import Point, shrunk
from trainer.tuning.launch import Job, predictor_for, train

logger = logging.getLogger(__name__)

READY = 0.28
"""The share of a run's time, as a rule, until training begins."""

MILDER = 0.6
"""The share of an update that is tried, once, when all of it pleases but went too far."""

CANDIDATES = 10
"""Rated turns that are read for a run, as a multiple of the examples that it trains on."""

NICENESS = 10
"""Replies go first."""


def learn(settings: Settings, database: Database, run_id: int) -> RunStatus:
    """Carry out a run that was taken from the queue, and record how it ended."""
    runs = Runs(database)
    try:
        status, outcome = _learn(settings, database, ProgressReporter(runs, run_id))
    except NothingToLearn as reason:
        status, outcome = RunStatus.SKIPPED, str(reason)
    except RunCancelled:
        active = Adapters(database, settings.storage.adapters_path).active()
        if active is not None and active.run_id == run_id:  # it came too late
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


def _learn(settings: Settings, database: Database, tell: ProgressReporter) -> tuple[RunStatus, str]:
    recipe = Recipe.of(settings.train)
    tell.stage("choosing examples", 0.005)
    snapshot = _snapshot(settings, database, recipe, tell)
    tell.snapshot(snapshot, recipe)
    adapters = Adapters(database, settings.storage.adapters_path)
    tell.stage("getting ready", 0.01)

    def stepped(point: Point) -> None:
        tell.step(point.step, point.steps, point.loss, between=(READY, TRAINED))

    predictor = predictor_for(settings.retrieval.embedder, snapshot)
    with run_folder(settings.storage.data_dir, tell.run_id) as folder:
        job = Job(snapshot=snapshot, recipe=recipe, folder=folder)
        update = train(settings, job, predictor, stepped)
        tell.curve()
        active = adapters.active()
        proof = Comparison(settings, snapshot, predictor, active, tell)
        notes = AdapterNotes(recipe=recipe.as_dict(), examples=snapshot.counts)
        candidate, report = _tried(settings, adapters, proof, update, tell, notes)
        if went_too_far(report):
            adapters.reject(candidate.name)
            update = shrunk(update, MILDER, folder / "milder")
            notes = replace(notes, share=MILDER, instead_of=candidate.name)
            candidate, report = _tried(settings, adapters, proof, update, tell, notes)
    return _decide(settings, adapters, candidate, active, report)


def _snapshot(
    settings: Settings, database: Database, recipe: Recipe, tell: ProgressReporter
) -> Snapshot:
    """The examples of the run, without those of people who have to be looked at first."""
    rule, quarantine = TeachingRule.of(settings.admission, settings.privacy), Suspects(database)
    book, most = Examples(database, rule), CANDIDATES * recipe.max_examples
    examples = book.collect(most, seed=recipe.seed)
    trusted = settings.admission.admins | quarantine.released()
    people, age = People(database), timedelta(days=settings.train.newcomer_days)
    new, embedder = people.newcomers(age), SentenceEmbedder(settings.retrieval.embedder)
    found = examine(examples, embedder, trusted=trusted, newcomers=new)
    held = [person for person, reason in found.suspects.items() if quarantine.hold(person, reason)]
    tell.held_back(len(held))
    still_new = (new - found.agreeing) | people.newcomers(age / 2)
    voices = RaterShares(trusted=settings.admission.admins, newcomers=still_new)
    return take_snapshot(
        book.collect(most, seed=recipe.seed) if held else examples,
        recipe,
        system_prompt=settings.reply.system_prompt,
        voices=voices,
    )


def _tried(
    settings: Settings,
    adapters: Adapters,
    proof: Comparison,
    update: Path,
    tell: ProgressReporter,
    notes: AdapterNotes,
) -> tuple[Adapter, GateReport]:
    """An update as a candidate, and what the gate says of it."""
    candidate = adapters.add(
        update, base_model=model_name(settings.engine.model), run_id=tell.run_id, notes=notes
    )
    try:
        report = proof.of(candidate)
        tell.stage("the gate", 0.99)  # nothing goes live of a run that was given up
        adapters.evaluate(candidate.name, report, run_id=tell.run_id)
    except BaseException:  # what was not measured must not be used
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
    what, whole = candidate.name, candidate.notes.instead_of
    if whole:
        what += f" ({MILDER:.0%} of {whole}, which went too far)"
    if not report.passed:
        adapters.reject(candidate.name)
        failed = ", ".join(check.name for check in report.checks if not check.passed)
        return RunStatus.REJECTED, f"{what} did not pass the gate: {failed}."
    if settings.versions.promote == "ask":
        return RunStatus.PASSED, f"{what} passed the gate and waits for /promote."
    try:
        adapters.promote(
            candidate.name,
            base_model=candidate.base_model,
            reason=f"run {candidate.run_id} passed the gate",
            instead_of=[active.name if active else None],
        )
    except AdapterNotFit as error:
        return RunStatus.PASSED, f"{what} passed the gate and waits for /promote: {error}."
    return RunStatus.PROMOTED, f"{what} passed the gate and is live."


def _cancel(*_: object) -> NoReturn:
    raise RunCancelled


def main() -> None:
    """Carry out the run whose id is the argument."""
    for number in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C reaches the whole terminal
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
