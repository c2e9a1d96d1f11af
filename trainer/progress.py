"""Reports the progress of a run to its row in the database, from where it is shown.

A run whose row has ended was given up for dead, and another one may be running; its reporter then
raises `RunCancelled` to stop it.
"""

import logging
import math
import time
from collections.abc import Sequence
from enum import Enum

from store.domain import Origin, Progress, Sample
from store.errors import StoreError
from store.runs import Runs
from trainer.errors import RunCancelled
from trainer.examples.dataset import Snapshot
from trainer.recipe import Recipe

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Shortest time between two training steps that are reported: each report is a write to disk."""

CURVE_POINTS = 400
"""Points of the training curve that are kept: about as many as a chart can show."""

MIN_SHARE_FOR_ESTIMATE = 0.02
"""Share of a run below which the time left is not estimated."""


class RunStage(Enum):
    """The stages of a run, in their order."""

    CHOOSE_EXAMPLES = ("choosing examples", 0.005)
    PREPARE = ("getting ready", 0.01)
    TRAIN = ("training", 0.28)
    MEASURE_BASE = ("measuring the base model", 0.6)
    MEASURE_CANDIDATE = ("measuring the candidate", 0.8)
    MEASURE_SMALLER_CANDIDATE = ("measuring the candidate", 0.9)
    MEASURE_ACTIVE = ("measuring the active version", 0.9)
    COMPARE_REPLIES = ("before and after", 0.97)
    GATE = ("the gate", 0.99)

    def __init__(self, label: str, begins_at: float) -> None:
        self.label = label
        """The name that people are shown."""
        self.begins_at = begins_at
        """Share of a typical run's time that lies before the stage."""


class ProgressReporter:
    """Writes the progress of one run into its row. Every method may raise `RunCancelled`."""

    def __init__(self, runs: Runs, run_id: int) -> None:
        self.run_id = run_id
        self._runs = runs
        self._started = self._reported = time.monotonic()
        self._progress = Progress()
        self._curve: list[tuple[int, float]] = []

    def record_snapshot(self, snapshot: Snapshot, recipe: Recipe) -> None:
        """Record which examples are trained on, and by which recipe."""
        self._progress = Progress(examples=snapshot.counts.train)
        self._check(self._runs.choose(self.run_id, snapshot.counts, snapshot.origins))
        self._check(self._runs.report_metrics(self.run_id, recipe=recipe.as_dict()))

    def record_held_back(self, people: int) -> None:
        """Record how many people's ratings were held back before the run."""
        self._check(self._runs.report_metrics(self.run_id, held_back=people))

    def record_curve(self) -> None:
        """Record the training curve as (step, loss), thinned to about `CURVE_POINTS`."""
        every = max(1, len(self._curve) // CURVE_POINTS)
        self._check(self._runs.report_metrics(self.run_id, curve=self._curve[::every]))

    def record_samples(self, samples: Sequence[tuple[Origin | None, Sample]]) -> None:
        """Record replies before and after training, with the origins of their prompts."""
        self._check(self._runs.keep_samples(self.run_id, samples))

    def start_stage(self, stage: RunStage) -> None:
        """Report that a stage begins."""
        self._report(stage.label, stage.begins_at)

    def report_step(self, step: int, steps: int, loss: float) -> None:
        """Report a training step, unless the last report is less than `REPORT_SECONDS` old."""
        finite = math.isfinite(loss)  # JSON has no NaN
        if finite:
            self._curve.append((step, round(loss, 4)))
        if time.monotonic() - self._reported < REPORT_SECONDS:
            return
        start, end = RunStage.TRAIN.begins_at, RunStage.MEASURE_BASE.begins_at
        self._report(
            RunStage.TRAIN.label,
            start + (end - start) * step / steps,
            step=step,
            steps=steps,
            loss=loss if finite else None,
        )

    def _report(
        self, stage: str, share: float, *, step: int = 0, steps: int = 0, loss: float | None = None
    ) -> None:
        self._reported = time.monotonic()
        spent = self._reported - self._started
        seconds_left = spent / share - spent
        self._progress = Progress(
            stage=stage,
            step=step,
            steps=steps,
            loss=loss,
            share=round(share, 4),
            seconds_left=round(seconds_left, 1) if share > MIN_SHARE_FOR_ESTIMATE else None,
            examples=self._progress.examples,
        )
        try:
            self._check(self._runs.report_progress(self.run_id, self._progress))
        except StoreError as error:  # the run goes on while the database is away
            logger.warning("progress could not be saved: %s", error)

    @staticmethod
    def _check(goes_on: bool) -> None:
        if not goes_on:
            raise RunCancelled
