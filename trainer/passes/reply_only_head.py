"""The log-probabilities of replies, as TRL's trainers ask a model for them.

Where there is no Triton, TRL's own head scores every place of a batch, the prompts' too, a part of
the vocabulary at a time, and measures what is only logged: a third of a CPU's time
(docs/experiments.md). Here the model's own head looks at the places of replies alone.
"""

from types import MethodType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from trainer.passes.log_probs import log_probs_of

IGNORED = -100
"""The label of a token that is not to be scored."""


def score_replies_only(model: Any) -> None:
    """Give a `PreTrainedModel` that TRL has prepared a head that leaves prompts alone.

    What TRL only logs (entropy, mean logits, hits) comes back as zeros.
    """
    forward = type(model).forward

    def spared(
        self: PreTrainedModel,
        *inputs: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **named: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            return forward(self, *inputs, **named)
        mask = labels[:, 1:] != IGNORED  # (rows, tokens - 1): whether a place has to predict
        places = mask.any(dim=0).nonzero()[:, 0]
        outputs = forward(self, *inputs, **{**named, "logits_to_keep": places, "use_cache": False})
        scored = mask[:, places]
        tokens = labels[:, places + 1].where(scored, 0)[..., None]
        at_places = log_probs_of(tokens, outputs.logits)[..., 0].where(scored, 0)
        log_probs = at_places.new_zeros(mask.shape).index_copy(1, places, at_places)
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        unasked = log_probs.new_zeros(log_probs.shape)
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / count,
            log_probs=log_probs,
            entropy=unasked,
            mean_logits=unasked,
            is_top1=unasked.bool(),
            label_mask=mask,
        )

    model.forward = MethodType(spared, model)
