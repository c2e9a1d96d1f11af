"""Attention by matrix products is the model's own attention, there and back."""

import pytest
import torch
from torch import Tensor

from bot.engine.weights import Weights
from trainer import attention
from trainer.attention import MATRIX_PRODUCTS, by_matrix_products

IDS = torch.tensor([[5, 9, 2, 7, 3, 8], [0, 0, 4, 6, 1, 2]])
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])


def there_and_back(weights: Weights, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What the model makes of the tokens that count, and the slope at the first layer's queries."""
    weight = weights.model.model.layers[0].self_attn.q_proj.weight.requires_grad_()
    scores = weights.model(input_ids=IDS, attention_mask=mask).logits[mask.bool()]
    [slope] = torch.autograd.grad(scores.log_softmax(dim=-1)[:, 1].sum(), weight)
    return scores.detach(), slope


@pytest.fixture
def left_to_torch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many attentions were left to torch's own kernel meanwhile."""
    own: list[int] = []
    kernel = attention.sdpa_attention_forward

    def counted(*inputs: object, **named: object) -> object:
        own.append(1)
        return kernel(*inputs, **named)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counted)
    return own


@pytest.mark.parametrize("mask", [PADDED, torch.ones_like(IDS)], ids=["padded", "whole"])
def test_it_is_the_same_there_and_back(
    tiny_weights: Weights, mask: Tensor, left_to_torch: list[int]
) -> None:
    expected = there_and_back(tiny_weights, mask)

    with by_matrix_products(tiny_weights.model):
        found = there_and_back(tiny_weights, mask)

    assert not left_to_torch
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_long_text_is_left_to_the_kernel_that_keeps_no_scores(
    tiny_weights: Weights, left_to_torch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = there_and_back(tiny_weights, PADDED)
    monkeypatch.setattr(attention, "MOST_SCORES", 10)

    with by_matrix_products(tiny_weights.model):
        found = there_and_back(tiny_weights, PADDED)

    assert len(left_to_torch) == tiny_weights.model.config.num_hidden_layers
    torch.testing.assert_close(found, expected)


def test_a_reply_that_is_written_meanwhile_is_the_same(tiny_weights: Weights) -> None:
    def written() -> list[int]:
        tokens: list[int] = tiny_weights.model.generate(IDS[:1], max_new_tokens=8, do_sample=False)[
            0
        ].tolist()
        return tokens

    before = written()
    with by_matrix_products(tiny_weights.model):
        assert written() == before


def test_afterwards_the_model_attends_as_before(tiny_weights: Weights) -> None:
    before = tiny_weights.model.config._attn_implementation

    with by_matrix_products(tiny_weights.model):
        assert tiny_weights.model.config._attn_implementation == MATRIX_PRODUCTS

    assert tiny_weights.model.config._attn_implementation == before
