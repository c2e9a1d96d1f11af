"""Proves what a run has made, against base and active version, on the engine that serves."""

import asyncio

from bot.engine.local import LocalEngine, load_weights
from store.domain import Adapter, GateReport, Origin, Sample
from store.settings import Settings
from trainer.examples.dataset import Snapshot
from trainer.progress import ProgressReporter
from trainer.proving.evaluation import Evaluation
from trainer.proving.evaluator import Evaluator
from trainer.proving.gate import HeldOut, decide
from trainer.proving.predictor import RatingPredictor

TRAINED, BASE_MEASURED, MEASURED, COMPARED = 0.6, 0.8, 0.9, 0.97
"""Shares of a run's time, as a rule: until training ends, and then the gate's."""

SHOWN = 3
"""Prompts whose replies before and after are shown to admins."""


class Comparison:
    """Measures a run's candidates alike and lets the gate decide.

    The base and the active version are measured once, however many candidates there are.
    """

    def __init__(
        self,
        settings: Settings,
        snapshot: Snapshot,
        predictor: RatingPredictor,
        active: Adapter | None,
        tell: ProgressReporter,
    ) -> None:
        self._settings = settings
        self._held_out = snapshot.held_out
        self._predictor = predictor
        self._active = active
        self._tell = tell
        self._known: dict[str | None, Evaluation] = {}

    def of(self, candidate: Adapter) -> GateReport:
        """What the gate says of a candidate. Raises `EngineError`."""
        return asyncio.run(self._of(candidate))

    async def _of(self, candidate: Adapter) -> GateReport:
        settings, tell = self._settings, self._tell
        again = bool(self._known)
        weights = load_weights(
            settings.engine.model,
            models_folder=settings.storage.models_path,
            device=settings.engine.device,
        )
        batch_size = max(64, settings.engine.batch_size)
        engine = LocalEngine(weights, queue_size=10_000, batch_size=batch_size)
        try:
            evaluator = Evaluator(
                weights=weights,
                engine=engine,
                predictor=self._predictor,
                held_out=self._held_out,
                system_prompt=settings.reply.system_prompt,
            )
            if not again:
                tell.stage("measuring the base model", TRAINED)
            base = await self._once(evaluator, None)
            tell.stage("measuring the candidate", MEASURED if again else BASE_MEASURED)
            measured = await self._once(evaluator, candidate)
            before, in_use = base, None
            if self._active is not None and self._active.base_model == candidate.base_model:
                if not again:
                    tell.stage("measuring the active version", MEASURED)
                theirs = await self._once(evaluator, self._active)
                before, in_use = (theirs, self._active) if theirs.sound else (base, None)
            if measured.sound:
                tell.stage("before and after", COMPARED)
                tell.samples(await self._samples(evaluator, in_use, candidate))
        finally:
            await engine.close()
        held_out = HeldOut(
            labels=tuple(each.label for each in self._held_out.unpaired),
            raters=tuple(each.raters for each in self._held_out.unpaired),
            pair_raters=tuple(each.raters for each in self._held_out.pairs),
            trusted=settings.admission.admins,
        )
        return decide(settings.gate, held_out, candidate=measured, active=before, base=base)

    async def _once(self, evaluator: Evaluator, adapter: Adapter | None) -> Evaluation:
        name = adapter.name if adapter else None
        if name not in self._known:
            self._known[name], _ = await evaluator.evaluate(adapter)
        return self._known[name]

    async def _samples(
        self, evaluator: Evaluator, active: Adapter | None, candidate: Adapter
    ) -> list[tuple[Origin | None, Sample]]:
        """The same few prompts, answered by the version in use and by the candidate."""
        origins = {each.prompt: each.origin for each in self._held_out.every}
        prompts = evaluator.prompts[:SHOWN]
        before = await evaluator.say(prompts, active)
        after = await evaluator.say(prompts, candidate)
        return [
            (
                origins.get(tuple(prompt)),
                Sample(question=prompt[-1].content, before=old, after=new),
            )
            for prompt, old, new in zip(prompts, before, after, strict=True)
        ]
