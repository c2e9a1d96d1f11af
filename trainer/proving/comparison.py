"""Compares a run's candidate with the base model and the active version, on the serving engine."""

import asyncio
from dataclasses import dataclass

from bot.engine.local import LocalEngine, load_weights
from store.domain import Adapter, ExampleSet, GateReport, Origin, Sample
from store.golden_answers import GoldenAnswer
from store.settings import Settings
from trainer.progress import ProgressReporter, RunStage
from trainer.proving.evaluation import Evaluation
from trainer.proving.evaluator import Evaluator
from trainer.proving.gate import HeldOut, decide
from trainer.proving.predictor import RatingPredictor

SAMPLES = 3
"""Prompts whose replies before and after training are shown to admins."""

QUEUE_SIZE = 10_000
MIN_BATCH_SIZE = 64
"""The engine has no other users, so it takes all prompts at once and in large batches."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """An exam for versions: nothing of it is trained on."""

    held_out: ExampleSet
    golden: tuple[GoldenAnswer, ...] = ()
    groups: tuple[frozenset[int], ...] = ()
    """People who rate together."""


class Comparison:
    """Measures a run's candidates under the same conditions and asks the gate about each.

    The base and the active version are measured once, however many candidates there are.
    """

    def __init__(
        self,
        settings: Settings,
        exam: Exam,
        predictor: RatingPredictor,
        active: Adapter | None,
        progress: ProgressReporter,
    ) -> None:
        self._settings = settings
        self._exam = exam
        self._predictor = predictor
        self._active = active
        self._progress = progress
        self._evaluations: dict[str | None, Evaluation] = {}

    def gate_report(self, candidate: Adapter) -> GateReport:
        """Measure a candidate and return the gate's report on it. Raises `EngineError`."""
        return asyncio.run(self._gate_report(candidate))

    async def _gate_report(self, candidate: Adapter) -> GateReport:
        settings = self._settings
        weights = load_weights(
            settings.engine.model,
            models_folder=settings.storage.models_path,
            device=settings.engine.device,
        )
        engine = LocalEngine(
            weights,
            queue_size=QUEUE_SIZE,
            batch_size=max(MIN_BATCH_SIZE, settings.engine.batch_size),
        )
        try:
            evaluator = Evaluator(
                weights=weights,
                engine=engine,
                predictor=self._predictor,
                held_out=self._exam.held_out,
                golden=self._exam.golden,
                system_prompt=settings.reply.system_prompt,
            )
            base, active, measured = await self._measure(evaluator, candidate)
        finally:
            await engine.close()
        held_out = HeldOut(
            labels=tuple(each.label for each in self._exam.held_out.unpaired),
            raters=tuple(each.raters for each in self._exam.held_out.unpaired),
            pair_raters=tuple(each.raters for each in self._exam.held_out.pairs),
            trusted=settings.admission.admins,
            groups=self._exam.groups,
        )
        return decide(settings.gate, held_out, candidate=measured, active=active, base=base)

    async def _measure(
        self, evaluator: Evaluator, candidate: Adapter
    ) -> tuple[Evaluation, Evaluation, Evaluation]:
        """Return the evaluations of base, active version and candidate.

        The base stands in for an active version that there is not, or that cannot be measured.
        """
        first = not self._evaluations
        if first:
            self._progress.start_stage(RunStage.MEASURE_BASE)
        base = await self._evaluate_once(evaluator, None)
        self._progress.start_stage(
            RunStage.MEASURE_CANDIDATE if first else RunStage.MEASURE_SMALLER_CANDIDATE
        )
        measured = await self._evaluate_once(evaluator, candidate)
        active, active_adapter = base, None
        if self._active is not None and self._active.base_model == candidate.base_model:
            if first:
                self._progress.start_stage(RunStage.MEASURE_ACTIVE)
            evaluation = await self._evaluate_once(evaluator, self._active)
            if evaluation.sound:
                active, active_adapter = evaluation, self._active
        if measured.sound:
            self._progress.start_stage(RunStage.COMPARE_REPLIES)
            samples = await self._samples(evaluator, active_adapter, candidate)
            self._progress.record_samples(samples)
        return base, active, measured

    async def _evaluate_once(self, evaluator: Evaluator, adapter: Adapter | None) -> Evaluation:
        name = adapter.name if adapter else None
        if name not in self._evaluations:
            self._evaluations[name], _ = await evaluator.evaluate(adapter)
        return self._evaluations[name]

    async def _samples(
        self, evaluator: Evaluator, active: Adapter | None, candidate: Adapter
    ) -> list[tuple[Origin | None, Sample]]:
        """Return the replies of the active version and of the candidate to the same few prompts."""
        origins = {each.prompt: each.origin for each in self._exam.held_out.every}
        prompts = evaluator.prompts[:SAMPLES]
        before = await evaluator.greedy_replies(prompts, active)
        after = await evaluator.greedy_replies(prompts, candidate)
        return [
            (origins.get(prompt), Sample(question=prompt[-1].content, before=old, after=new))
            for prompt, old, new in zip(prompts, before, after, strict=True)
        ]
