"""Tells the run's row how far the run is; whoever shows progress reads it there.

A run whose row has ended was given up as dead, and another may be under way: it is told to stop.
"""

import logging
import math
import time
from collections.abc import Sequence

from store.domain import Origin, Progress, Sample
from store.errors import StoreError
from store.runs import Runs
from trainer.errors import RunCancelled
from trainer.examples.dataset import Snapshot
from trainer.recipe import Recipe

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
"""A step may take a tenth of that, and a row is written to disk each time."""

CURVE_POINTS = 400


class ProgressReporter:
    """Writes the progress of one run. Stages are shares of the whole, in the order they come."""

    def __init__(self, runs: Runs, run_id: int) -> None:
        self.run_id = run_id
        self._runs = runs
        self._started = self._told = time.monotonic()
        self._progress = Progress()
        self._curve: list[tuple[int, float]] = []

    def snapshot(self, snapshot: Snapshot, recipe: Recipe) -> None:
        """What is going to be trained on, and how."""
        self._progress = Progress(examples=snapshot.counts.train)
        self._check(self._runs.choose(self.run_id, snapshot.counts, snapshot.origins))
        self._check(self._runs.report_metrics(self.run_id, recipe=recipe.as_dict()))

    def stage(self, name: str, share: float) -> None:
        """A stage begins; `share` of the run is behind."""
        self._tell(name, share, now=True)

    def step(self, step: int, steps: int, loss: float, *, between: tuple[float, float]) -> None:
        """A training step was made; all of them take the run from one share to the other."""
        known = math.isfinite(loss)  # JSON knows no other numbers
        if known:
            self._curve.append((step, round(loss, 4)))
        start, end = between
        self._tell(
            "training",
            start + (end - start) * step / steps,
            step=step,
            steps=steps,
            loss=loss if known else None,
        )

    def held_back(self, people: int) -> None:
        """Record how many people's ratings were held back before the run."""
        self._check(self._runs.report_metrics(self.run_id, held_back=people))

    def curve(self) -> None:
        """Record step and loss, thinned to what a picture can show."""
        every = max(1, len(self._curve) // CURVE_POINTS)
        self._check(self._runs.report_metrics(self.run_id, curve=self._curve[::every]))

    def samples(self, samples: Sequence[tuple[Origin | None, Sample]]) -> None:
        """Record replies before and after."""
        self._check(self._runs.keep_samples(self.run_id, samples))

    def _tell(
        self,
        stage: str,
        share: float,
        *,
        step: int = 0,
        steps: int = 0,
        loss: float | None = None,
        now: bool = False,
    ) -> None:
        time_now = time.monotonic()
        if not now and time_now - self._told < EVERY_SECONDS:
            return
        self._told = time_now
        spent = time_now - self._started
        self._progress = Progress(
            stage=stage,
            step=step,
            steps=steps,
            loss=loss,
            share=round(share, 4),
            seconds_left=round(spent / share - spent, 1) if share > 0.02 else None,
            examples=self._progress.examples,
        )
        try:
            self._check(self._runs.report_progress(self.run_id, self._progress))
        except StoreError as error:  # the database is away for a moment: the run goes on
            logger.warning("the run's progress is not told: %s", error)

    @staticmethod
    def _check(goes_on: bool) -> None:
        if not goes_on:
            raise RunCancelled
