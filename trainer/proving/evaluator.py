"""Measures versions: what they say, what they think of what was rated, what they forgot.

Fresh replies come from the engine that serves, with the adapter loaded as it will be. The retention
suite and probabilities are passes over the same weights, while the engine has nothing to write.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import cycle, islice

import torch

from bot.engine.base import SMOKE_PROMPT, Completion, SamplingParams
from bot.engine.errors import EngineError
from bot.engine.local import LocalEngine, Weights
from store.domain import Adapter, ExampleSet, FinishReason, Message
from trainer.passes.generation import SAMPLING, answer, asked, seeded
from trainer.passes.scoring import batches, log_probabilities, mean_nll, reply_logits, tokens_of
from trainer.proving.drift import Reply, measure_drift
from trainer.proving.evaluation import Drift, Evaluation
from trainer.proving.predictor import RatingPredictor
from trainer.proving.retention import RetentionCheck, load_retention_suite

SAMPLED_PROMPTS = 96
"""Held-out prompts that get fresh replies."""

SAMPLED_REPLIES = 96
"""Fresh replies; few prompts get several. Of half as many, the mean NLL wavers by a tenth."""

SMOKE_SAMPLING = replace(SAMPLING, max_new_tokens=8, seed=0)


class Evaluator:
    """Measures one version after another on the same held-out examples.

    `engine` serves `weights` and has nothing else to do meanwhile. With `system_prompt`, the
    retention suite is asked as people's questions are.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        engine: LocalEngine,
        predictor: RatingPredictor,
        held_out: ExampleSet,
        system_prompt: str,
        checks: Sequence[RetentionCheck] | None = None,
    ) -> None:
        self._weights = weights
        self._engine = engine
        self._predictor = predictor
        self._held_out = held_out
        self._checks = load_retention_suite() if checks is None else tuple(checks)
        self._system_prompt = system_prompt
        questions = [asked(system_prompt, check.question) for check in self._checks]
        room = engine.context_tokens - SAMPLING.max_new_tokens
        held_out_prompts, others = (
            [prompt for prompt in prompts if engine.count_tokens(prompt) < room]
            for prompts in (sampled_prompts(held_out), questions[:SAMPLED_PROMPTS])
        )
        self.prompts = held_out_prompts or others
        """What fresh replies are given to."""
        self._base: dict[str, list[float]] = {}

    async def evaluate(self, adapter: Adapter | None) -> tuple[Evaluation, tuple[Reply, ...]]:
        """Everything about a version, None being the base; and the fresh replies it gave."""
        if adapter is not None:
            try:
                await self._engine.load_adapter(adapter)
                smoke = await self._ask(SMOKE_PROMPT, SMOKE_SAMPLING, adapter)
                if not smoke.text.strip():
                    raise EngineError("the smoke prompt got no reply")
            except EngineError as error:
                return _unsound(adapter.name, str(error)), ()
        kept = await asyncio.to_thread(self._kept, adapter)
        drawn = list(islice(cycle(self.prompts), SAMPLED_REPLIES))
        fresh = await self._ask_all(drawn, seeded(SAMPLING, len(drawn)), adapter)
        return await asyncio.to_thread(self._measured, adapter, kept, fresh), fresh

    async def say(self, prompts: Sequence[Sequence[Message]], adapter: Adapter | None) -> list[str]:
        """Greedy replies to a few prompts, for people to compare."""
        samplings = [SamplingParams(max_new_tokens=80)] * len(prompts)
        return [reply.text for reply in await self._ask_all(prompts, samplings, adapter)]

    def _kept(self, adapter: Adapter | None) -> list[Reply]:
        """Replies to the suite, in the company that the checkpoint judge's had."""
        self._weights.merged.switch_to(adapter.name if adapter else None)
        return answer(self._weights, self._checks, self._system_prompt)

    def _measured(
        self, adapter: Adapter | None, kept: Sequence[Reply], fresh: Sequence[Reply]
    ) -> Evaluation:
        name = adapter.name if adapter else None
        rated = self._log_ratios(
            name, "rated", [(e.prompt, e.completion, e.finished) for e in self._held_out.unpaired]
        )
        chosen = self._log_ratios(
            name, "chosen", [(e.prompt, e.chosen, e.chosen_finished) for e in self._held_out.pairs]
        )
        rejected = self._log_ratios(
            name,
            "rejected",
            [(e.prompt, e.rejected, e.rejected_finished) for e in self._held_out.pairs],
        )
        return Evaluation(
            adapter=name,
            log_ratios=tuple(rated),
            margins=tuple(a - b for a, b in zip(chosen, rejected, strict=True)),
            predicted=self._predictor.predict([reply.text for reply in fresh]),
            predictor_auc=self._predictor.auc,
            retention={
                check.id: check.passed_by(reply.text)
                for check, reply in zip(self._checks, kept, strict=True)
            },
            kl=self._kl(name, kept[::8]),  # an eighth of them: each is read twice
            drift=measure_drift(fresh, self._nll(fresh)),
            sound=True,
        )

    def _log_ratios(
        self,
        adapter: str | None,
        kind: str,
        replies: Sequence[tuple[Sequence[Message], str, bool]],
    ) -> list[float]:
        rows = [tokens_of(self._weights, *each) for each in replies]
        if kind not in self._base:
            self._weights.merged.switch_to(None)
            self._base[kind] = log_probabilities(self._weights, rows)
        if adapter is None:
            return [0.0] * len(rows)
        self._weights.merged.switch_to(adapter)
        ours = log_probabilities(self._weights, rows)
        return [a - b for a, b in zip(ours, self._base[kind], strict=True)]

    def _nll(self, replies: Sequence[Reply]) -> float:
        self._weights.merged.switch_to(None)
        return mean_nll(self._weights, replies)

    @torch.inference_mode()
    def _kl(self, adapter: str | None, replies: Sequence[Reply]) -> float:
        """KL(adapter ‖ base) a token, over the adapter's own replies."""
        if adapter is None:
            return 0.0
        rows = [tokens_of(self._weights, r.prompt, r.text, r.finished) for r in replies]
        total, count = 0.0, 0
        for batch in batches([row for row in rows if row[1]]):
            self._weights.merged.switch_to(adapter)
            scores, mask = reply_logits(self._weights.model, batch)
            self._weights.merged.switch_to(None)
            base_scores, _ = reply_logits(self._weights.model, batch)
            ours, theirs = (each.float().log_softmax(dim=-1) for each in (scores, base_scores))
            divergence = (ours.exp() * (ours - theirs)).sum(dim=-1)  # (rows, tokens)
            total += float((divergence * mask).sum())
            count += int(mask.sum())
        return total / count if count else math.nan

    async def _ask_all(
        self,
        prompts: Sequence[Sequence[Message]],
        samplings: Sequence[SamplingParams],
        adapter: Adapter | None,
    ) -> tuple[Reply, ...]:
        asked = [self._ask(*each, adapter) for each in zip(prompts, samplings, strict=True)]
        return tuple(await asyncio.gather(*asked))

    async def _ask(
        self, prompt: Sequence[Message], sampling: SamplingParams, adapter: Adapter | None
    ) -> Reply:
        name = adapter.name if adapter else None
        async with aclosing(self._engine.stream(prompt, sampling, adapter=name)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    finished = piece.finish_reason is FinishReason.STOP
                    return Reply(prompt=tuple(prompt), text=piece.text, finished=finished)
        raise AssertionError("an engine's stream ends with its completion")


def sampled_prompts(held_out: ExampleSet) -> list[tuple[Message, ...]]:
    """The newest held-out prompts, each once."""
    prompts = [each.prompt for each in held_out.every]
    return list(dict.fromkeys(reversed(prompts)))[:SAMPLED_PROMPTS]


def _unsound(adapter: str, reason: str) -> Evaluation:
    nowhere = math.nan
    drift = Drift(nll=nowhere, repetition=1.0, degenerate=1.0, runaway=1.0, flips=1.0)
    return Evaluation(
        adapter=adapter,
        log_ratios=(),
        margins=(),
        predicted=(),
        predictor_auc=None,
        retention={},
        kl=nowhere,
        drift=drift,
        sound=False,
        detail=reason,
    )
