"""Judges checkpoints during training, so that training can stop or scale its update in time.

It measures the divergence from the base on development questions, and fresh replies to prompts of
the training examples. It sees neither the held-out examples nor the gate's retention suite, or the
gate would prove nothing. The divergence predicts what the gate will find forgotten; the number of
development questions that are still answered well predicts next to nothing (docs/experiments.md).
"""

import logging
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from peft import PeftModel

from bot.engine.errors import NonFiniteLogits
from bot.engine.local import Weights
from store.domain import ExampleSet
from trainer.passes.generation import SAMPLING, generate_replies, with_seeds
from trainer.passes.reply import Reply
from trainer.passes.scoring import batches, mean_nll, merged, tokens_of
from trainer.proving.predictor import MIN_AUC, RatingPredictor
from trainer.proving.retention import answer_checks, load_development_checks
from trainer.tuning.checkpoints import Verdict
from trainer.tuning.distillation import SHARPENING, divergence, make_target

logger = logging.getLogger(__name__)

JUDGED_PROMPTS = 128
"""Prompts that get fresh replies. With half as many, the mean NLL of one version varies by 0.05
(docs/experiments.md)."""

DRIFT_CHECKS = 96
"""Development questions for the divergence; with twice as many it differs by a few percent."""

EXPONENTS = (1.0, SHARPENING, SHARPENING**2)
"""Sharpening exponents of the base; the smallest divergence of the three counts, so that a model
that is only sharper does not count as drift."""

T = TypeVar("T")


class CheckpointJudge:
    """Judges a checkpoint by its replies and its divergence from the base.

    The score is the predicted share of 👍. Without a usable predictor it is the number of the
    checkpoint, so that the last one within the budget wins.
    """

    def __init__(
        self,
        weights: Weights,
        predictor: RatingPredictor,
        train: ExampleSet,
        *,
        system_prompt: str,
        drift_kl: float,
        nll_rise: float,
    ) -> None:
        """`drift_kl` and `nll_rise` are limits, in nats a token."""
        self._weights = weights
        self._predictor = predictor
        self._drift_kl = drift_kl
        self._nll_rise = nll_rise
        prompts = dict.fromkeys(each.prompt for each in train.every)
        room = weights.context_tokens - SAMPLING.max_new_tokens
        fitting = [each for each in prompts if len(weights.template.encode(each)) < room]
        self._prompts = spread(fitting, JUDGED_PROMPTS)
        checks = spread(load_development_checks(), DRIFT_CHECKS)
        answers = answer_checks(weights, checks, system_prompt)
        rows = [tokens_of(weights, each.prompt, each.text, each.finished) for each in answers]
        self._targets = [
            make_target(weights.model, batch, exponents=EXPONENTS)
            for batch in batches([row for row in rows if row[1]])
        ]
        self._judged = 0
        self._base_nll = mean_nll(weights, self._generate_replies())

    def __call__(self, model: PeftModel) -> Verdict:
        """Judge the model's current weights."""
        self._judged += 1
        try:
            with merged(model):
                drift = self._drift(model)
                drift_used = budget_used(drift, self._drift_kl)
                logger.info("KL to the base: %.4f nats a token", drift)
                if drift_used > 1:  # unusable, whatever it replies
                    return Verdict(score=-math.inf, budget_used=drift_used)
                replies = self._generate_replies()
        except NonFiniteLogits as error:
            logger.warning("a checkpoint cannot be used: %s", error)
            return Verdict(score=-math.inf, budget_used=math.inf)
        with model.disable_adapter():
            nll_rise = mean_nll(self._weights, replies) - self._base_nll
        logger.info("NLL under the base: %+.2f against the base's own replies", nll_rise)
        nll_used = budget_used(nll_rise, self._nll_rise)
        return Verdict(score=self._score(replies), budget_used=max(drift_used, nll_used))

    def _score(self, replies: Sequence[Reply]) -> float:
        predicted: tuple[float, ...] = ()
        if (self._predictor.auc or 0.0) >= MIN_AUC:
            predicted = self._predictor.predict([reply.text for reply in replies])
        return sum(predicted) / len(predicted) if predicted else float(self._judged)

    def _generate_replies(self) -> list[Reply]:
        return generate_replies(
            self._weights, self._prompts, with_seeds(SAMPLING, len(self._prompts))
        )

    @torch.no_grad()
    def _drift(self, model: PeftModel) -> float:
        """Return KL(base ‖ model) in nats a token over the base's answers; 0 if it has none.

        The base is taken with the sharpening exponent that makes the divergence smallest.
        """
        if not self._targets:
            return 0.0
        found = [divergence(model, target) for target in self._targets]
        totals = torch.stack([total for total, _ in found]).sum(dim=0)
        return float(totals.min()) / sum(int(tokens) for _, tokens in found)


def budget_used(loss: float, limit: float) -> float:
    """Return the share of a limit that is used up.

    It is infinite for a loss that could not be measured, and for any loss under a limit of 0.
    """
    if math.isnan(loss):
        return math.inf
    if limit:
        return loss / limit
    return math.inf if loss > 0 else 0.0


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of the items, evenly spaced from first to last; all, if there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]
