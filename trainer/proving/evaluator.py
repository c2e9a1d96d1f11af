"""Measures versions: how they reply, how they rate held-out replies, what they forgot.

Fresh replies come from the serving engine, with the adapter loaded as it will be served. The
retention suite and the log-probabilities are forward passes over the same weights, made while the
engine is idle.
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
from store.golden_answers import GoldenAnswer
from trainer.examples.dataset import with_system_prompt
from trainer.passes.generation import SAMPLING, prompt_for, with_seeds
from trainer.passes.reply import Reply
from trainer.passes.scoring import batches, log_probabilities, mean_nll, reply_logits, tokens_of
from trainer.proving.drift import Drift, measure_drift
from trainer.proving.evaluation import Evaluation
from trainer.proving.predictor import RatingPredictor
from trainer.proving.retention import answer_checks, load_retention_suite

SAMPLED_PROMPTS = 96
"""Held-out prompts that get fresh replies."""

SAMPLED_REPLIES = 96
"""Fresh replies; with few prompts, each gets several. With half as many replies the mean NLL
varies by a tenth between runs."""

SMOKE_SAMPLING = replace(SAMPLING, max_new_tokens=8, seed=0)

COMPARED_SAMPLING = SamplingParams(max_new_tokens=80)
"""Greedy replies that people are shown to compare versions."""

KL_EVERY = 8
"""The divergence is measured over every eighth reply to the suite, since each is read twice."""


class Evaluator:
    """Measures one version after another on the same held-out examples.

    `engine` serves `weights` and gets requests only from this evaluator. `system_prompt` is put
    before the questions of the retention suite.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        engine: LocalEngine,
        predictor: RatingPredictor,
        held_out: ExampleSet,
        golden: Sequence[GoldenAnswer] = (),
        system_prompt: str,
    ) -> None:
        self._weights = weights
        self._engine = engine
        self._predictor = predictor
        self._held_out = held_out
        self._golden = [(with_system_prompt(each.prompt, system_prompt), each) for each in golden]
        self._checks = load_retention_suite()
        self._system_prompt = system_prompt
        questions = [prompt_for(system_prompt, check.question) for check in self._checks]
        self.prompts = self._fitting(sampled_prompts(held_out)) or self._fitting(
            questions[:SAMPLED_PROMPTS]
        )
        """Prompts that get fresh replies."""
        self._base_log_probs: dict[str, list[float]] = {}
        self._weights_lock = asyncio.Lock()
        """Held while a version is measured, because the engine's thread and the forward passes
        switch adapters on the same weights."""

    async def evaluate(self, adapter: Adapter | None) -> tuple[Evaluation, tuple[Reply, ...]]:
        """Measure a version, or the base model for None; also return its fresh replies."""
        async with self._weights_lock:
            if adapter is not None:
                try:
                    await self._engine.load_adapter(adapter)
                    smoke = await self._generate(SMOKE_PROMPT, SMOKE_SAMPLING, adapter)
                    if not smoke.text.strip():
                        raise EngineError("the smoke prompt got no reply")
                except EngineError as error:
                    return _unsound(adapter.name, str(error)), ()
            suite = await asyncio.to_thread(self._answer_suite, adapter)
            prompts = list(islice(cycle(self.prompts), SAMPLED_REPLIES))
            samplings = with_seeds(SAMPLING, len(prompts))
            fresh = await self._generate_all(prompts, samplings, adapter)
            return await asyncio.to_thread(self._measure, adapter, suite, fresh), fresh

    async def greedy_replies(
        self, prompts: Sequence[Sequence[Message]], adapter: Adapter | None
    ) -> list[str]:
        """Return a version's greedy replies to a few prompts, for people to compare."""
        async with self._weights_lock:
            if adapter is not None:
                await self._engine.load_adapter(adapter)
            samplings = [COMPARED_SAMPLING] * len(prompts)
            replies = await self._generate_all(prompts, samplings, adapter)
            return [reply.text for reply in replies]

    def _fitting(self, prompts: Sequence[tuple[Message, ...]]) -> list[tuple[Message, ...]]:
        """Return the prompts that leave room for a reply in the context."""
        room = self._engine.context_tokens - SAMPLING.max_new_tokens
        return [prompt for prompt in prompts if self._engine.count_tokens(prompt) < room]

    def _answer_suite(self, adapter: Adapter | None) -> list[Reply]:
        """Generate without the engine, as the checkpoint judge does, so that batches are alike."""
        self._weights.merged.switch_to(adapter.name if adapter else None)
        return answer_checks(self._weights, self._checks, self._system_prompt)

    def _measure(
        self, adapter: Adapter | None, suite: Sequence[Reply], fresh: Sequence[Reply]
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
            golden=self._golden_log_ratios(name),
            predicted=self._predictor.predict([reply.text for reply in fresh]),
            predictor_auc=self._predictor.auc,
            retention={
                check.id: check.passed_by(reply.text)
                for check, reply in zip(self._checks, suite, strict=True)
            },
            kl=self._kl(name, suite[::KL_EVERY]),
            drift=measure_drift(fresh, self._base_nll(fresh)),
            sound=True,
        )

    def _log_ratios(
        self,
        adapter: str | None,
        kind: str,
        replies: Sequence[tuple[Sequence[Message], str, bool]],
    ) -> list[float]:
        """Return log p − log p_base of each reply; the base's part is computed once a kind."""
        rows = [tokens_of(self._weights, *each) for each in replies]
        if kind not in self._base_log_probs:
            self._weights.merged.switch_to(None)
            self._base_log_probs[kind] = log_probabilities(self._weights, rows)
        if adapter is None:
            return [0.0] * len(rows)
        self._weights.merged.switch_to(adapter)
        log_probs = log_probabilities(self._weights, rows)
        return [a - b for a, b in zip(log_probs, self._base_log_probs[kind], strict=True)]

    def _golden_log_ratios(self, adapter: str | None) -> tuple[float, ...]:
        """Return (log p − log p_base) / tokens of each golden answer, less that of a worse one."""
        answers = [(prompt, each.answer, True) for prompt, each in self._golden]
        worse = [(prompt, each.worse, True) for prompt, each in self._golden if each.worse]
        found = self._log_ratios_a_token(adapter, "golden", answers)
        others = iter(self._log_ratios_a_token(adapter, "worse than golden", worse))
        return tuple(
            ratio - (next(others) if each.worse else 0.0)
            for ratio, (_, each) in zip(found, self._golden, strict=True)
        )

    def _log_ratios_a_token(
        self,
        adapter: str | None,
        kind: str,
        replies: Sequence[tuple[Sequence[Message], str, bool]],
    ) -> list[float]:
        counts = [max(1, len(tokens_of(self._weights, *each)[1])) for each in replies]
        sums = self._log_ratios(adapter, kind, replies)
        return [total / count for total, count in zip(sums, counts, strict=True)]

    def _base_nll(self, replies: Sequence[Reply]) -> float:
        self._weights.merged.switch_to(None)
        return mean_nll(self._weights, replies)

    @torch.inference_mode()
    def _kl(self, adapter: str | None, replies: Sequence[Reply]) -> float:
        """Return KL(adapter ‖ base) in nats a token, over the adapter's own replies."""
        if adapter is None:
            return 0.0
        rows = [tokens_of(self._weights, r.prompt, r.text, r.finished) for r in replies]
        total, count = 0.0, 0
        for batch in batches([row for row in rows if row[1]]):
            self._weights.merged.switch_to(adapter)
            logits, mask = reply_logits(self._weights.model, batch)
            self._weights.merged.switch_to(None)
            base_logits, _ = reply_logits(self._weights.model, batch)
            log_p, log_q = (each.float().log_softmax(dim=-1) for each in (logits, base_logits))
            divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)  # (rows, tokens)
            total += float((divergence * mask).sum())
            count += int(mask.sum())
        return total / count if count else math.nan

    async def _generate_all(
        self,
        prompts: Sequence[Sequence[Message]],
        samplings: Sequence[SamplingParams],
        adapter: Adapter | None,
    ) -> tuple[Reply, ...]:
        replies = [
            self._generate(prompt, sampling, adapter)
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
        return tuple(await asyncio.gather(*replies))

    async def _generate(
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
    """Return the newest held-out prompts, each once."""
    prompts = [each.prompt for each in held_out.every]
    return list(dict.fromkeys(reversed(prompts)))[:SAMPLED_PROMPTS]


def _unsound(adapter: str, reason: str) -> Evaluation:
    """Return the evaluation of a version that could not be measured: it passes no check."""
    return Evaluation(
        adapter=adapter,
        log_ratios=(),
        margins=(),
        golden=(),
        predicted=(),
        predictor_auc=None,
        retention={},
        kl=math.nan,
        drift=Drift(nll=math.nan, repetition=1.0, degenerate=1.0, runaway=1.0, flips=1.0),
        sound=False,
        detail=reason,
    )
