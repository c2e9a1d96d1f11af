"""How an adapter is made: every number that the result depends on, beside the examples.

It is saved with the adapter. Which checkpoint wins, and how far it walks back, is up to the judge,
which goes by the gate's limits, the system prompt and the embedder of the same settings.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from store.settings_slices import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings `RATCHET_TRAIN_*`, and what nobody needs to set: those have defaults here."""

    objective: Literal["auto", "kto", "dpo", "sft"]
    """`kto` learns from thumbs, `dpo` from pairs, `sft` from demonstrations; `auto` from all."""
    method: Literal["lora", "qlora"]
    rank: int
    """Of the two matrices whose product is added to a weight (Hu et al. 2021, "LoRA")."""
    alpha: int = 32
    """The product counts `alpha / rank` times."""
    targets: str = "all-linear"
    """Names of the adapted modules, separated by commas, or `all-linear`."""
    layers: float = 0.5
    """Share of the layers that are adapted, from the last: what comes earlier cannot be forgotten,
    and needs no gradient (Lee et al. 2022, "Surgical fine-tuning")."""
    learning_rate: float
    """The peak: a linear rise over the first tenth of the steps, then a linear fall to 0."""
    beta: float = 0.2
    """Pull to the base model of KTO and DPO, per nat of log-ratio (Ethayarajh et al. 2024)."""
    epochs: float
    batch_size: int
    max_length: int
    """Tokens of prompt and reply together; longer examples are left out."""
    max_examples: int
    replay: float = 0.3
    """Share of `max_examples` that is drawn from older ones."""
    person_share: float
    """Of the examples, one person's at most."""
    newcomer_share: float
    """Of the examples, new people's at most, all of them together."""
    mask: bool
    """Whether what is private is masked in the examples."""
    rehearsal: int
    """Everyday questions whose answers by the base model are held on to."""
    rehearsal_weight: float = 4.0
    """Of the divergence from the base on these, in nats a token, beside the objective's loss."""
    drift_kl: float
    """How far an update may go from the base on everyday questions, nats a token."""
    checkpoints: int = 2
    """Moments at which the adapter is judged; the best one that drifted little is kept."""
    seed: int

    @classmethod
    def of(cls, settings: TrainSettings) -> "Recipe":
        """Return the recipe that the settings ask for."""
        chosen = settings.model_dump()
        return cls(**{each.name: chosen[each.name] for each in fields(cls) if each.name in chosen})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
