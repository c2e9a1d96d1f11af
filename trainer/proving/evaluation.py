"""The measurements of one version, or of the base model: plain numbers for the gate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.proving.drift import Drift


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurements of one version on the engine that serves it."""

    adapter: str | None
    """Name of the adapter; None for the base model."""
    log_ratios: tuple[float, ...]
    """log p(reply) − log p_base(reply) of every held-out rated reply, in their order."""
    margins: tuple[float, ...]
    """Log-ratio of the better reply minus that of the worse one, for every held-out pair."""
    golden: tuple[float, ...] = ()
    """Log-ratio of every golden answer to the base in nats a token, less that of a worse one."""
    predicted: tuple[float, ...]
    """Predicted probability of 👍 of fresh replies to held-out prompts; empty without predictor."""
    predictor_auc: float | None
    """AUC of the predictor on held-out ratings; None if it could not be fitted or measured."""
    retention: Mapping[str, bool]
    """Id of a retention check → True if it was passed."""
    kl: float
    """KL(version ‖ base) over its own replies to retention questions, in nats a token."""
    drift: Drift
    sound: bool
    """True if the hash matches, finite weights load, and the smoke prompt is answered."""
    detail: str = ""
    """The reason, if the version is not sound."""

    @property
    def retention_rate(self) -> float:
        """Share of the retention suite that is passed; NaN for an empty suite."""
        return sum(self.retention.values()) / len(self.retention) if self.retention else math.nan
