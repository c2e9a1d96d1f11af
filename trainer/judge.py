"""Judges an adapter while it is trained, so that training can walk back from a cliff.

Looks at fresh replies to prompts that are trained on: what is held out is left to the gate. The
limits are the gate's own, on a smaller sample, so a checkpoint that passes here may still fail
there.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from bot.engine.base import SamplingParams
from bot.engine.batch import Batch
from bot.engine.weights import Weights
from store.domain import Examples, Message
from store.settings import Settings
from trainer.drift import Reply
from trainer.evaluate import SAMPLING, asked, mean_nll, seeded
from trainer.finetune import Verdict
from trainer.predictor import RatingPredictor
from trainer.retention import load_retention_suite, pass_rate

if TYPE_CHECKING:
    from peft import PeftModel

JUDGED_PROMPTS = 48
JUDGED_CHECKS = 94
CAUTION = 0.7
"""Share of the gate's limits that may be used up here: the gate's own sample will differ."""

ROWS = 64
"""Replies written side by side."""

T = TypeVar("T")


class CheckpointJudge:
    """Scores by the predicted share of 👍 where something can predict it, else by progress."""

    def __init__(
        self, weights: Weights, predictor: RatingPredictor, train: Examples, settings: Settings
    ) -> None:
        self._weights = weights
        self._predictor = predictor
        self._settings = settings
        prompts = dict.fromkeys(each.prompt for each in train.every)
        room = weights.context_tokens - SAMPLING.max_new_tokens
        fitting = [each for each in prompts if len(weights.template.encode(each)) < room]
        self._prompts = spread(fitting, JUDGED_PROMPTS)
        self._checks = spread(load_retention_suite(), JUDGED_CHECKS)
        self._seen = 0
        self._base_kept = self._kept()
        self._base_nll = mean_nll(weights, self._replies())

    def __call__(self, model: "PeftModel") -> Verdict:
        """Judge the checkpoint that the weights are at."""
        self._seen += 1
        try:
            replies, kept = self._replies(), self._kept()
        except RuntimeError:  # probabilities that are no numbers: nothing can be drawn from them
            return Verdict(score=-math.inf, within_limits=False)
        with model.disable_adapter():
            nll = mean_nll(self._weights, replies)
        able = (self._predictor.auc or 0.0) >= self._settings.gate_predictor_auc
        guesses = self._predictor.predict([reply.text for reply in replies]) if able else ()
        lost = self._base_kept - kept
        one_check = 1 / len(self._checks)  # the sample is small: one of them may be chance
        return Verdict(
            score=sum(guesses) / len(guesses) if guesses else float(self._seen),
            within_limits=nll - self._base_nll <= CAUTION * self._settings.gate_nll_rise
            and lost <= CAUTION * self._settings.gate_retention_drop + one_check,
        )

    def _replies(self) -> list[Reply]:
        return write(self._weights, self._prompts, seeded(SAMPLING, len(self._prompts)))

    def _kept(self) -> float:
        prompts = [asked(self._settings.system_prompt, each.question) for each in self._checks]
        samplings = [SamplingParams(max_new_tokens=each.max_new_tokens) for each in self._checks]
        replies = write(self._weights, prompts, samplings)
        return pass_rate(self._checks, [reply.text for reply in replies])


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def write(
    weights: Weights,
    prompts: Sequence[Sequence[Message]],
    samplings: Sequence[SamplingParams],
) -> list[Reply]:
    """Replies by the model as it is now, `ROWS` at a time, with no engine around it."""
    replies = []
    for start in range(0, len(prompts), ROWS):
        part = slice(start, start + ROWS)
        replies += _write_together(weights, prompts[part], samplings[part])
    return replies


def _write_together(
    weights: Weights,
    prompts: Sequence[Sequence[Message]],
    samplings: Sequence[SamplingParams],
) -> list[Reply]:
    batch = Batch(weights.model)
    batch.join([weights.template.encode(prompt) for prompt in prompts], samplings)
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = list(range(len(prompts)))
    while rows:
        going = []
        for place, token in enumerate(batch.step()):
            row = rows[place]
            if token in weights.end_tokens:
                finished[row] = True
                continue
            written[row].append(token)
            if len(written[row]) < samplings[row].max_new_tokens:
                going.append(place)
        if len(going) < len(rows):
            batch.keep(going)
            rows = [rows[place] for place in going]
    return [
        Reply(
            prompt=tuple(prompt),
            text=str(weights.tokenizer.decode(ids, skip_special_tokens=True)),
            finished=end,
        )
        for prompt, ids, end in zip(prompts, written, finished, strict=True)
    ]
