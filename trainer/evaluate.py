"""Measures versions: what they say, what they think of what was rated, what they forgot.

Replies come from the engine that serves, with the adapter loaded as it will be. Probabilities are
forward passes over the same weights, while the engine has nothing to write.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bot.engine.base import Completion, SamplingParams
from bot.engine.errors import EngineError
from bot.engine.local import LocalEngine
from bot.engine.weights import Weights
from store.domain import Adapter, Examples, FinishReason, Message
from trainer.drift import Reply, measure_drift
from trainer.evaluation import Drift, Evaluation
from trainer.predictor import RatingPredictor
from trainer.retention import RetentionCheck, load_retention_suite

SAMPLED_PROMPTS = 96
"""Held-out prompts that get fresh replies."""

SAMPLED_REPLIES = 96
"""Fresh replies; few prompts get several. Of half as many, the mean NLL wavers by a tenth."""

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=64)
SMOKE_PROMPT = (Message(role="user", content="Say hello."),)
SMOKE_SAMPLING = replace(SAMPLING, max_new_tokens=8, seed=0)

SCORED_TOKENS = 4096
"""Tokens, padding included, of one forward pass."""

Scored = tuple[list[int], list[int]]
"""Ids of a prompt and of the reply to it."""


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
        held_out: Examples,
        system_prompt: str,
        checks: Sequence[RetentionCheck] | None = None,
    ) -> None:
        self._weights = weights
        self._engine = engine
        self._predictor = predictor
        self._held_out = held_out
        self._checks = load_retention_suite() if checks is None else tuple(checks)
        self._questions = [asked(system_prompt, check.question) for check in self._checks]
        self.prompts = [
            prompt
            for prompt in sampled_prompts(held_out) or self._questions[:SAMPLED_PROMPTS]
            if engine.count_tokens(prompt) + SAMPLING.max_new_tokens < engine.context_tokens
        ]
        """What fresh replies are given to."""
        self._base: dict[str, list[float]] = {}

    async def evaluate(self, adapter: Adapter | None) -> tuple[Evaluation, tuple[Reply, ...]]:
        """Everything about a version, None being the base; and the fresh replies it gave."""
        if adapter is not None:
            try:
                await asyncio.to_thread(check_finite, Path(adapter.path))
                await self._engine.load_adapter(adapter)
                smoke = await self._ask(SMOKE_PROMPT, SMOKE_SAMPLING, adapter)
                if not smoke.text.strip():
                    raise EngineError("the smoke prompt got no reply")
            except EngineError as error:
                return _unsound(adapter.name, str(error)), ()
        kept = await self._ask_all(
            self._questions,
            [SamplingParams(max_new_tokens=check.max_new_tokens) for check in self._checks],
            adapter,
        )
        drawn = list(islice(cycle(self.prompts), SAMPLED_REPLIES))
        fresh = await self._ask_all(drawn, seeded(SAMPLING, len(drawn)), adapter)
        return await asyncio.to_thread(self._measured, adapter, kept, fresh), fresh

    async def say(self, prompts: Sequence[Sequence[Message]], adapter: Adapter | None) -> list[str]:
        """Greedy replies to a few prompts, for people to compare."""
        samplings = [SamplingParams(max_new_tokens=80)] * len(prompts)
        return [reply.text for reply in await self._ask_all(prompts, samplings, adapter)]

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
            kl=self._kl(name, kept),
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
            with using(self._weights, None):
                self._base[kind] = log_probabilities(self._weights, rows)
        if adapter is None:
            return [0.0] * len(rows)
        with using(self._weights, adapter):
            ours = log_probabilities(self._weights, rows)
        return [a - b for a, b in zip(ours, self._base[kind], strict=True)]

    def _nll(self, replies: Sequence[Reply]) -> float:
        with using(self._weights, None):
            return mean_nll(self._weights, replies)

    def _kl(self, adapter: str | None, replies: Sequence[Reply]) -> float:
        """KL(adapter ‖ base) a token, over the adapter's own replies."""
        if adapter is None:
            return 0.0
        rows = [tokens_of(self._weights, r.prompt, r.text, r.finished) for r in replies]
        total, count = 0.0, 0
        for batch in batches([row for row in rows if row[1]]):
            with using(self._weights, adapter):
                ours, mask = reply_log_probs(self._weights, batch)
            with using(self._weights, None):
                theirs, _ = reply_log_probs(self._weights, batch)
            divergence = (ours.exp() * (ours - theirs)).sum(dim=-1)  # (rows, tokens)
            total += float((divergence * mask).sum())
            count += int(mask.sum())
        return total / max(1, count)

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


def asked(system_prompt: str, question: str) -> tuple[Message, ...]:
    """A question as a conversation begins with it."""
    system = [Message(role="system", content=system_prompt)] if system_prompt else []
    return (*system, Message(role="user", content=question))


def seeded(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """The same sampling with seeds 0, 1, 2 …, so that versions are compared on the same dice."""
    return [replace(sampling, seed=seed) for seed in range(count)]


def sampled_prompts(held_out: Examples) -> list[tuple[Message, ...]]:
    """The newest held-out prompts, each once."""
    prompts = [each.prompt for each in held_out.every]
    return list(dict.fromkeys(reversed(prompts)))[:SAMPLED_PROMPTS]


@contextmanager
def using(weights: Weights, adapter: str | None) -> Iterator[None]:
    """The model with an adapter that the engine has loaded, or as the base."""
    if hasattr(weights.model, "peft_config"):
        if adapter is None:
            weights.model.disable_adapters()
        else:
            weights.model.enable_adapters()
            weights.model.set_adapter(adapter)
    yield


def tokens_of(weights: Weights, prompt: Sequence[Message], reply: str, finished: bool) -> Scored:
    """A prompt and a reply as the engine reads and writes them, cut to the context."""
    ids = weights.template.encode(prompt)[-(weights.context_tokens - 1) :]
    room = weights.context_tokens - len(ids)
    return ids, weights.template.encode_reply(reply, finished=finished)[:room]


def batches(rows: Sequence[Scored]) -> Iterator[list[Scored]]:
    """Rows of similar length, `SCORED_TOKENS` at a time; not in their order."""
    batch: list[Scored] = []
    for row in sorted(rows, key=lambda each: len(each[0]) + len(each[1])):
        width = len(row[0]) + len(row[1])
        if batch and width * (len(batch) + 1) > SCORED_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def reply_log_probs(weights: Weights, rows: Sequence[Scored]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every token at every place of the replies, and which places count.

    Shapes (rows, tokens, vocabulary) and (rows, tokens), where tokens is the longest reply's; the
    replies are flush to the right.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    longest = max(len(reply) for _, reply in rows)
    ids = [[0] * (width - len(p) - len(r)) + p + r for p, r in rows]
    mask = [[0] * (width - len(p) - len(r)) + [1] * (len(p) + len(r)) for p, r in rows]
    counts = [[0] * (longest - len(r)) + [1] * len(r) for _, r in rows]
    device = weights.model.device
    attention = torch.tensor(mask, device=device)
    logits = weights.model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits[:, :-1]
    return logits.float().log_softmax(dim=-1), torch.tensor(counts, device=device)


@torch.inference_mode()
def log_probabilities(weights: Weights, rows: Sequence[Scored]) -> list[float]:
    """log p(reply | prompt) of each row, in their order; 0 for an empty reply."""
    found: dict[int, float] = {}
    for batch in batches([row for row in rows if row[1]]):
        scores, mask = reply_log_probs(weights, batch)
        longest = mask.shape[1]
        targets = torch.tensor(
            [[0] * (longest - len(reply)) + reply for _, reply in batch], device=scores.device
        )
        chosen = scores.gather(2, targets[..., None])[..., 0]  # (rows, tokens)
        for row, total in zip(batch, (chosen * mask).sum(dim=1).tolist(), strict=True):
            found[id(row)] = total
    return [found.get(id(row), 0.0) for row in rows]


def mean_nll(weights: Weights, replies: Sequence[Reply]) -> float:
    """Nats a token of the replies' text, under the model as it is now; 0 if there is none."""
    rows = [tokens_of(weights, reply.prompt, reply.text, False) for reply in replies]
    count = sum(len(reply) for _, reply in rows)
    return -sum(log_probabilities(weights, rows)) / count if count else 0.0


def check_finite(folder: Path) -> None:
    """Raise `EngineError` for weights that are not all finite."""
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        if not bool(torch.isfinite(tensor).all()):
            raise EngineError(f"the weights of {name} are not finite")


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
