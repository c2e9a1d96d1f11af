"""What was measured of one version, the base model included; plain numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far replies have gone from the base model's, each a mean over sampled replies."""

    nll: float
    """Negative log-likelihood under the base model, nats a token: babble is expensive."""
    repetition: float
    """Share of 4-grams of words that repeat an earlier one of the same reply."""
    degenerate: float
    """Share of replies that are empty or garbled."""
    runaway: float
    """Share of replies that did not end by themselves."""
    flips: float
    """Share of replies in another language than the question."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One version, measured by the engine that serves it."""

    adapter: str | None
    """None is the base model."""
    log_ratios: tuple[float, ...]
    """log p(reply) − log p_base(reply) of every held-out rated reply, in their order."""
    margins: tuple[float, ...]
    """Log-ratio of the better reply minus that of the worse, of every held-out pair."""
    predicted: tuple[float, ...]
    """Probability of 👍 of fresh replies to held-out prompts; empty if nothing can predict it."""
    predictor_auc: float | None
    """How well the predictor tells held-out 👍 from 👎; None if it could not be fitted."""
    retention: Mapping[str, bool]
    """Check id → passed."""
    kl: float
    """KL divergence to the base over its replies to retention prompts, nats a token."""
    drift: Drift
    sound: bool
    """Files as hashed, weights finite, loads, and the smoke prompt gets a reply."""
    detail: str = ""
    """What is wrong, if it is not sound."""

    @property
    def retention_rate(self) -> float:
        """Share of the retention suite that is passed; NaN if nothing was asked."""
        return sum(self.retention.values()) / len(self.retention) if self.retention else math.nan
