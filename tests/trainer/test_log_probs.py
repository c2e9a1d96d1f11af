"""Log-probabilities and their gradients equal those of a softmax over the whole vocabulary."""

import pytest
import torch

from trainer.passes import log_probs
from trainer.passes.log_probs import log_probs_of

VOCABULARY = 31


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "LOGITS_AT_ONCE", 2 * VOCABULARY)  # two places at a time


def test_they_are_the_softmax_s_own_and_so_is_the_way_back() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(3, 5, VOCABULARY)).requires_grad_()
    tokens = torch.randint(VOCABULARY, (3, 5, 4))
    tokens[0, 0, 1] = tokens[0, 0, 0]  # asked for twice
    slope = torch.randn(3, 5, 4)

    found = log_probs_of(tokens, logits)
    expected = logits.log_softmax(dim=-1).gather(-1, tokens)

    torch.testing.assert_close(found, expected)
    [back] = torch.autograd.grad(found, logits, slope)
    [expected_back] = torch.autograd.grad(expected, logits, slope)
    torch.testing.assert_close(back, expected_back)


def test_the_scores_are_left_as_they_were() -> None:
    logits = torch.randn(5, VOCABULARY, requires_grad=True)
    before = logits.detach().clone()

    log_probs_of(torch.zeros(5, 1, dtype=torch.long), logits).sum().backward()  # type: ignore[no-untyped-call]

    assert torch.equal(logits.detach(), before)


def test_of_no_place_at_all_there_is_none() -> None:
    assert log_probs_of(torch.zeros(0, 1, dtype=torch.long), torch.randn(0, 7)).shape == (0, 1)


def test_scores_in_bf16_are_summed_up_in_fp32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, VOCABULARY).bfloat16().requires_grad_()
    tokens = torch.randint(VOCABULARY, (5, 1))

    found = log_probs_of(tokens, logits)
    found.sum().backward()  # type: ignore[no-untyped-call]

    expected = logits.float().log_softmax(dim=-1).gather(-1, tokens)
    torch.testing.assert_close(found, expected)
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
