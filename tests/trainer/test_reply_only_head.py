"""The reply-only head gives the results and gradients of TRL's own head."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from bot.engine.local import Weights
from trainer.passes.reply_only_head import IGNORED, score_replies_only

IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [5, 6, 7, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
LABELS = IDS.masked_fill(MASK == 0, IGNORED)
LABELS[:, :2] = IGNORED


@pytest.fixture
def theirs(tiny_weights: Weights) -> PreTrainedModel:
    model = copy.deepcopy(tiny_weights.model).float().requires_grad_(True)
    add_fused_lm_head(model, outputs=("log_probs",))
    return model


@pytest.fixture
def ours(tiny_weights: Weights) -> PreTrainedModel:
    model = copy.deepcopy(tiny_weights.model).float().requires_grad_(True)
    add_fused_lm_head(model, outputs=("log_probs",))
    score_replies_only(model)
    return model


def scored(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, loss, and the gradient of the loss at the embeddings."""
    found = model(input_ids=IDS, attention_mask=MASK, labels=LABELS, fused_lm_head=True)
    found.loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert isinstance(gradient, Tensor)
    return found.log_probs, found.loss, gradient


def test_replies_are_as_likely_as_by_the_head_of_trl(
    ours: PreTrainedModel, theirs: PreTrainedModel
) -> None:
    for mine, its in zip(scored(ours), scored(theirs), strict=True):
        torch.testing.assert_close(mine, its)


def test_what_is_no_reply_counts_nothing(ours: PreTrainedModel) -> None:
    log_probs, _, _ = scored(ours)

    assert torch.equal(log_probs != 0, LABELS[:, 1:] != IGNORED)


def test_whoever_asks_for_scores_gets_them_all(ours: PreTrainedModel) -> None:
    assert ours(input_ids=IDS).logits.shape[:2] == IDS.shape
