"""A language-model head for TRL's trainers that scores only the tokens of replies.

On machines without Triton, TRL's own head scores every position of a batch, prompts included, one
part of the vocabulary at a time, and computes statistics that are only logged. That takes a third
of the training time on a CPU (docs/experiments.md).
"""

from types import MethodType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from trainer.passes.log_probs import log_probs_of

IGNORED = -100
"""Label of a token that is not scored."""


def score_replies_only(model: Any) -> None:
    """Replace the head of a `PreTrainedModel` that TRL has prepared.

    The statistics that TRL only logs (entropy, mean logits, top-1 hits) are returned as zeros.
    """
    forward = type(model).forward

    def forward_replies_only(
        self: PreTrainedModel,
        *inputs: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            return forward(self, *inputs, **options)
        mask = labels[:, 1:] != IGNORED  # (rows, tokens - 1): True where the next token is scored
        positions = mask.any(dim=0).nonzero()[:, 0]
        options |= {"logits_to_keep": positions, "use_cache": False}
        outputs = forward(self, *inputs, **options)
        scored = mask[:, positions]
        tokens = labels[:, positions + 1].where(scored, 0)[..., None]
        kept = log_probs_of(tokens, outputs.logits)[..., 0].where(scored, 0)
        log_probs = kept.new_zeros(mask.shape).index_copy(1, positions, kept)
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        zeros = log_probs.new_zeros(log_probs.shape)
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / count,
            log_probs=log_probs,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
            label_mask=mask,
        )

    model.forward = MethodType(forward_replies_only, model)
