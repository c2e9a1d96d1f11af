"""Judges an adapter while it is trained, so that training can walk back from a cliff.

Looks at fresh replies to prompts that are trained on, and at retention checks of its own: what is
held out, and the gate's suite, are left to the gate, or it would prove nothing. The limits are a
little less than the gate's, so that a checkpoint that passes here seldom fails there.
"""

import logging
import math
from collections.abc import Sequence
from typing import TypeVar

from peft import PeftModel

from bot.engine.errors import NotNumbers
from bot.engine.weights import Weights
from store.domain import Examples
from store.settings import Settings
from trainer.drift import Reply
from trainer.finetune import Verdict
from trainer.predictor import RatingPredictor
from trainer.retention import load_development_checks, pass_rate
from trainer.sampling import SAMPLING, answer, seeded, write
from trainer.scoring import mean_nll, merged

logger = logging.getLogger(__name__)

JUDGED_PROMPTS = 64
CAUTION = 0.7
"""Share of the gate's limits that may be used up here: the gate's replies will differ a little."""

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
        self._checks = load_development_checks()
        self._seen = 0
        self._base_kept = self._kept()
        self._base_nll = mean_nll(weights, self._replies())

    def __call__(self, model: PeftModel) -> Verdict:
        """Judge the checkpoint that the weights are at."""
        self._seen += 1
        try:
            with merged(model):
                kept_rise = self._kept() - self._base_kept
                strain = _strain(-kept_rise, self._settings.gate_retention_drop)
                logger.info("retention %+.3f against the base", kept_rise)
                if strain > 1:  # whatever it says, it cannot be used
                    return Verdict(score=-math.inf, strain=strain)
                replies = self._replies()
        except NotNumbers as error:
            logger.warning("a checkpoint is over the cliff: %s", error)
            return Verdict(score=-math.inf, strain=math.inf)
        with model.disable_adapter():
            nll_rise = mean_nll(self._weights, replies) - self._base_nll
        logger.info("NLL %+.2f against the base", nll_rise)
        able = (self._predictor.auc or 0.0) >= self._settings.gate_predictor_auc
        guesses = self._predictor.predict([reply.text for reply in replies]) if able else ()
        return Verdict(
            score=sum(guesses) / len(guesses) if guesses else float(self._seen),
            strain=max(strain, _strain(nll_rise, self._settings.gate_nll_rise)),
        )

    def _replies(self) -> list[Reply]:
        return write(self._weights, self._prompts, seeded(SAMPLING, len(self._prompts)))

    def _kept(self) -> float:
        replies = answer(self._weights, self._checks, self._settings.system_prompt)
        return pass_rate(self._checks, [reply.text for reply in replies])


def _strain(lost: float, limit: float) -> float:
    """The share of a limit that is used up; without a limit to speak of, any loss is too much."""
    if math.isnan(lost):  # it says nothing at all
        return math.inf
    allowed = CAUTION * limit
    return lost / allowed if allowed else math.inf if lost > 0 else 0.0


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]
