"""Judges an adapter while it is trained, so that training can walk back from a cliff.

Looks at how far it has gone from the base on questions of its own, and at fresh replies to prompts
that are trained on: what is held out, and the gate's suite, are left to the gate, or it would prove
nothing. What the gate will find forgotten follows from that divergence; how many of the judge's
questions are still answered well tells next to nothing of it (docs/experiments.md).
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
from trainer.passes.generation import SAMPLING, answer, seeded, write
from trainer.passes.scoring import batches, mean_nll, merged, tokens_of
from trainer.proving.drift import Reply
from trainer.proving.predictor import LEAST_AUC, RatingPredictor
from trainer.proving.retention import load_development_checks
from trainer.tuning.distillation import SHARPER, divergence, hold
from trainer.tuning.finetune import Verdict

logger = logging.getLogger(__name__)

JUDGED_PROMPTS = 128
"""The mean NLL of half as many wavers by 0.05 between two versions (docs/experiments.md)."""

DRIFT_CHECKS = 96
"""Questions over which the divergence is taken; of twice as many it is the same within a few %."""

POWERS = (1.0, SHARPER, SHARPER**2)
"""To which an update may have raised the base's odds, as it is told to; the last, if it counts for
more."""

T = TypeVar("T")


class CheckpointJudge:
    """Scores by the predicted share of 👍 where something can predict it, else by progress."""

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
        answers = answer(weights, checks, system_prompt)
        rows = [tokens_of(weights, each.prompt, each.text, each.finished) for each in answers]
        self._held = [
            hold(weights.model, batch, powers=POWERS)
            for batch in batches([row for row in rows if row[1]])
        ]
        self._seen = 0
        self._base_nll = mean_nll(weights, self._replies())

    def __call__(self, model: PeftModel) -> Verdict:
        """Judge the checkpoint that the weights are at."""
        self._seen += 1
        try:
            with merged(model):
                drift = self._drift(model)
                strain = _strain(drift, self._drift_kl)
                logger.info("%.4f nats a token from the base", drift)
                if strain > 1:  # whatever it says, it cannot be used
                    return Verdict(score=-math.inf, strain=strain)
                replies = self._replies()
        except NonFiniteLogits as error:
            logger.warning("a checkpoint is over the cliff: %s", error)
            return Verdict(score=-math.inf, strain=math.inf)
        with model.disable_adapter():
            nll_rise = mean_nll(self._weights, replies) - self._base_nll
        logger.info("NLL %+.2f against the base", nll_rise)
        able = (self._predictor.auc or 0.0) >= LEAST_AUC
        guesses = self._predictor.predict([reply.text for reply in replies]) if able else ()
        return Verdict(
            score=sum(guesses) / len(guesses) if guesses else float(self._seen),
            strain=max(strain, _strain(nll_rise, self._nll_rise)),
        )

    def _replies(self) -> list[Reply]:
        return write(self._weights, self._prompts, seeded(SAMPLING, len(self._prompts)))

    @torch.no_grad()
    def _drift(self, model: PeftModel) -> float:
        """KL(base ‖ model) in nats a token, over the base's answers; 0 if it has none.

        Odds that are only sharper are no drift: the power that explains most is taken out.
        """
        if not self._held:
            return 0.0
        found = [divergence(model, each) for each in self._held]
        totals = torch.stack([total for total, _ in found]).sum(dim=0)
        return float(totals.min()) / sum(int(tokens) for _, tokens in found)


def _strain(lost: float, limit: float) -> float:
    """The share of a limit that is used up; without a limit to speak of, any loss is too much."""
    if math.isnan(lost):  # it says nothing at all
        return math.inf
    return lost / limit if limit else math.inf if lost > 0 else 0.0


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]
