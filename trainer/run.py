"""One training run, top to bottom: examples → fine-tuning → evaluation → gate → promotion.

Runs as a process of its own (`python -m trainer.run ID`), started by the worker, so that a crash
or an out-of-memory never reaches a conversation and the memory comes back. What it finds out goes
into the run's row as it goes.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

from bot.engine.errors import EngineError
from bot.engine.local import LocalEngine
from bot.engine.source import model_name
from bot.engine.weights import load_weights
from store.adapters import Adapters
from store.database import Database
from store.domain import Adapter, GateReport, RunStatus
from store.errors import AdapterNotFit, StoreError
from store.examples import ExampleBook
from store.runs import Runs
from store.settings import Settings, load_settings
from trainer.dataset import Snapshot, take_snapshot
from trainer.errors import NothingToLearn, RunCancelled, TrainerError
from trainer.evaluate import Evaluator
from trainer.finetune import Point
from trainer.gate import HeldOut, decide
from trainer.predictor import RatingPredictor
from trainer.recipe import Recipe
from trainer.telling import Teller
from trainer.train import Job, predictor_for, train
from trainer.workplace import run_folder

logger = logging.getLogger(__name__)

READY, TRAINED, BASE_MEASURED = 0.28, 0.6, 0.8
"""Shares of a run's time, as a rule: until training begins, until it ends, and then the gate's."""

NICENESS = 10
"""Replies go first."""

SHOWN = 3
"""Prompts whose replies before and after are shown to admins."""


def learn(settings: Settings, database: Database, run_id: int) -> RunStatus:
    """Carry out a run that was taken from the queue, and record how it ended."""
    runs = Runs(database)
    try:
        status, outcome = _learn(settings, database, Teller(runs, run_id))
    except NothingToLearn as reason:
        status, outcome = RunStatus.SKIPPED, str(reason)
    except RunCancelled:
        active = Adapters(database, settings.data_dir / "adapters").active()
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


def _learn(settings: Settings, database: Database, tell: Teller) -> tuple[RunStatus, str]:
    recipe = Recipe.of(settings)
    snapshot = take_snapshot(
        ExampleBook(
            database, open_access=settings.access == "open", admins=settings.admins
        ).collect(),
        recipe,
        system_prompt=settings.system_prompt,
    )
    tell.snapshot(snapshot, recipe)
    adapters = Adapters(database, settings.data_dir / "adapters")
    tell.stage("getting ready", 0.01)

    def stepped(point: Point) -> None:
        tell.step(point.step, point.steps, point.loss, between=(READY, TRAINED))

    predictor = predictor_for(settings, snapshot)
    with run_folder(settings.data_dir, tell.run_id) as folder:
        job = Job(snapshot=snapshot, recipe=recipe, folder=folder)
        trained = train(settings, job, predictor, stepped)
        tell.metrics({"curve": tell.curve})
        candidate = adapters.add(
            trained,
            base_model=model_name(settings.model),
            run_id=tell.run_id,
            metrics={"recipe": recipe.as_dict(), "examples": snapshot.counts},
        )
    try:
        active = adapters.active()
        report = asyncio.run(_prove(settings, snapshot, predictor, candidate, active, tell))
    except BaseException:  # what was not measured must not be used
        adapters.reject(candidate.name)
        raise
    tell.stage("the gate", 0.99)  # nothing goes live of a run that was given up
    adapters.evaluate(candidate.name, report, run_id=tell.run_id)
    return _decide(settings, adapters, candidate, active, report)


async def _prove(
    settings: Settings,
    snapshot: Snapshot,
    predictor: RatingPredictor,
    candidate: Adapter,
    active: Adapter | None,
    tell: Teller,
) -> GateReport:
    """Measure base, active version and candidate alike, and let the gate decide."""
    weights = load_weights(
        settings.model, models_folder=settings.data_dir / "models", device=settings.device
    )
    engine = LocalEngine(weights, queue_size=10_000, batch_size=max(64, settings.batch_size))
    try:
        evaluator = Evaluator(
            weights=weights,
            engine=engine,
            predictor=predictor,
            held_out=snapshot.held_out,
            system_prompt=settings.system_prompt,
        )
        tell.stage("measuring the base model", TRAINED)
        base, _ = await evaluator.evaluate(None)
        tell.stage("measuring the candidate", BASE_MEASURED)
        measured, _ = await evaluator.evaluate(candidate)
        before, in_use = base, None
        if active is not None and active.base_model == candidate.base_model:
            tell.stage("measuring the active version", 0.9)
            before, _ = await evaluator.evaluate(active)
            before, in_use = (before, active) if before.sound else (base, None)
        if measured.sound:
            tell.stage("before and after", 0.97)
            tell.metrics({"samples": await _samples(evaluator, in_use, candidate)})
    finally:
        await engine.close()
    held_out = HeldOut(
        labels=tuple(each.label for each in snapshot.held_out.unpaired),
        pairs=len(snapshot.held_out.pairs),
    )
    return decide(settings, held_out, candidate=measured, active=before, base=base)


async def _samples(
    evaluator: Evaluator, active: Adapter | None, candidate: Adapter
) -> list[dict[str, str]]:
    """The same three prompts, answered by the version in use and by the candidate."""
    prompts = evaluator.prompts[:SHOWN]
    before = await evaluator.say(prompts, active)
    after = await evaluator.say(prompts, candidate)
    return [
        {"question": prompt[-1].content, "before": old, "after": new}
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]


def _decide(
    settings: Settings,
    adapters: Adapters,
    candidate: Adapter,
    active: Adapter | None,
    report: GateReport,
) -> tuple[RunStatus, str]:
    if not report.passed:
        adapters.reject(candidate.name)
        failed = ", ".join(check.name for check in report.checks if not check.passed)
        return RunStatus.REJECTED, f"{candidate.name} did not pass the gate: {failed}."
    if settings.promote == "ask":
        return RunStatus.PASSED, f"{candidate.name} passed the gate and waits for /promote."
    try:
        adapters.promote(
            candidate.name,
            base_model=candidate.base_model,
            reason=f"run {candidate.run_id} passed the gate",
            instead_of=[active.name if active else None],
        )
    except AdapterNotFit as error:
        waits = f"{candidate.name} passed the gate and waits for /promote: {error}."
        return RunStatus.PASSED, waits
    return RunStatus.PROMOTED, f"{candidate.name} passed the gate and is live."


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
    database = Database(settings.database)
    try:
        learn(settings, database, int(sys.argv[1]))
    finally:
        database.close()


if __name__ == "__main__":
    main()
