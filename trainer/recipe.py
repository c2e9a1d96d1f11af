"""The recipe of an adapter: every number, beside the examples, that the training depends on.

It is saved with the adapter. Which checkpoint is chosen, and how far its update is scaled, depends
besides on the checkpoint judge, which uses the gate's limits, the system prompt and the embedder
of the same settings.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from store.settings_slices import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings `RATCHET_TRAIN_*` that say how to train, and constants, which have defaults."""

    objective: Literal["auto", "kto", "dpo", "sft"]
    """`kto` trains on thumbs, `dpo` on pairs, `sft` on demonstrations; `auto` on all of them."""
    method: Literal["lora", "qlora"]
    rank: int
    """Rank of the two matrices whose product is added to a weight (Hu et al. 2021, "LoRA")."""
    alpha: int = 32
    """The product is scaled by `alpha / rank`."""
    targets: str = "all-linear"
    """Names of the adapted modules, separated by commas, or `all-linear`."""
    layers: float = 0.5
    """Share of the layers that are adapted, counted from the last. The earlier layers forget
    nothing and need no gradient (Lee et al. 2022, "Surgical fine-tuning")."""
    learning_rate: float
    """Peak: it rises linearly over the first tenth of the steps, then falls linearly to 0."""
    beta: float = 0.2
    """Strength of KTO's and DPO's pull to the base model, per nat of log-ratio (Ethayarajh et al.
    2024)."""
    epochs: float
    batch_size: int
    max_length: int
    """Tokens of prompt and reply together; longer examples are left out."""
    max_examples: int
    replay: float = 0.3
    """Share of `max_examples` that is sampled from older examples."""
    person_share: float
    """Largest share of the examples that one person may give."""
    newcomer_share: float
    """Largest share of the examples that all new and unproven people together may give."""
    unvouched_share: float
    """Largest share of the examples that all people together may give whom no admin vouched for,
    once others gave enough for a run."""
    mask: bool
    """True if private data is masked in the examples."""
    rehearsal: int
    """Number of everyday questions whose answers by the base model are rehearsed."""
    rehearsal_weight: float = 4.0
    """Weight of the divergence from these answers, in nats a token, beside the objective's loss."""
    drift_kl: float
    """Limit, in nats a token, of KL(base ‖ update) over the base's answers to development
    questions. The gate's limit `RATCHET_GATE_DRIFT_KL` is on the opposite direction, KL(candidate
    ‖ base), over the candidate's own answers to the retention suite: the two do not compare."""
    checkpoints: int = 2
    """Number of checkpoints that are judged in training; the best one within the limits wins."""
    seed: int

    @classmethod
    def of(cls, settings: TrainSettings) -> "Recipe":
        """Return the recipe that the settings ask for."""
        chosen = settings.model_dump()
        return cls(**{each.name: chosen[each.name] for each in fields(cls) if each.name in chosen})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)
