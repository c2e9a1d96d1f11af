"""Attention by matrix products equals the model's own attention, forward and backward."""

import pytest
import torch
from torch import Tensor

from bot.engine.local import Weights, new_cache
from trainer.passes import training_attention
from trainer.passes.training_attention import MATRIX_PRODUCTS, attend_by_matrix_products

IDS = torch.tensor([[5, 9, 2, 7, 3, 8], [0, 0, 4, 6, 1, 2]])
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])


def there_and_back(weights: Weights, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of unmasked tokens, and a gradient at the first layer's query weights."""
    weight = weights.model.model.layers[0].self_attn.q_proj.weight.requires_grad_()
    scores = weights.model(input_ids=IDS, attention_mask=mask).logits[mask.bool()]
    [slope] = torch.autograd.grad(scores.float().log_softmax(dim=-1)[:, 1].sum(), weight)
    return scores.detach(), slope


@pytest.fixture(autouse=True)
def _on_a_processor_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that bf16 is multiplied fast: results are the same on every processor."""
    monkeypatch.setattr(training_attention, "multiplies_bf16", lambda: True)


@pytest.fixture
def left_to_torch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry for every attention left to torch's own kernel."""
    left: list[int] = []
    kernel = training_attention.sdpa_attention_forward

    def counted(*inputs: object, **named: object) -> object:
        left.append(1)
        return kernel(*inputs, **named)

    monkeypatch.setattr(training_attention, "sdpa_attention_forward", counted)
    return left


@pytest.mark.parametrize("mask", [PADDED, torch.ones_like(IDS)], ids=["padded", "whole"])
def test_it_is_the_same_there_and_back(
    tiny_weights: Weights, mask: Tensor, left_to_torch: list[int]
) -> None:
    expected = there_and_back(tiny_weights, mask)

    attend_by_matrix_products(tiny_weights.model)
    found = there_and_back(tiny_weights, mask)

    assert tiny_weights.model.config._attn_implementation == MATRIX_PRODUCTS
    assert not left_to_torch
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_in_bf16_it_is_the_same_up_to_rounding(tiny_weights: Weights) -> None:
    expected, slope = there_and_back(tiny_weights, PADDED)

    attend_by_matrix_products(tiny_weights.model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded_slope = there_and_back(tiny_weights, PADDED)

    def off(one: Tensor, other: Tensor) -> float:
        return float((one - other).norm() / other.norm())

    assert 0 < off(found, expected) < 0.02
    assert 0 < off(rounded_slope, slope) < 0.1


def test_a_long_text_is_left_to_the_kernel_that_keeps_no_scores(
    tiny_weights: Weights, left_to_torch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = there_and_back(tiny_weights, PADDED)
    monkeypatch.setattr(training_attention, "MAX_SCORES", 10)

    attend_by_matrix_products(tiny_weights.model)
    found = there_and_back(tiny_weights, PADDED)

    assert len(left_to_torch) == tiny_weights.model.config.num_hidden_layers
    torch.testing.assert_close(found, expected)


def test_tokens_that_go_on_from_a_cache_are_left_to_it_too(
    tiny_weights: Weights, left_to_torch: list[int]
) -> None:
    model = tiny_weights.model
    whole = model(input_ids=IDS, attention_mask=PADDED).logits

    attend_by_matrix_products(model)
    cache = new_cache()
    model(input_ids=IDS[:, :4], attention_mask=PADDED[:, :4], past_key_values=cache)
    assert not left_to_torch
    rest = model(input_ids=IDS[:, 4:], attention_mask=PADDED, past_key_values=cache).logits

    assert left_to_torch
    torch.testing.assert_close(rest[0], whole[0, 4:], rtol=1e-4, atol=1e-5)


def test_a_model_that_is_told_to_attend_otherwise_does(tiny_weights: Weights) -> None:
    tiny_weights.model.set_attn_implementation("eager")

    attend_by_matrix_products(tiny_weights.model)

    assert tiny_weights.model.config._attn_implementation == "eager"
