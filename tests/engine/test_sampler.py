"""Tokens are drawn as often as they are likely, each reply by its own random generator."""

from collections import Counter

import pytest
import torch

from bot.engine.base import SamplingParams
from bot.engine.errors import NonFiniteLogits
from bot.engine.local.sampler import Sampler, draw

CPU = torch.device("cpu")
SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def drawn(sampling: SamplingParams, logits: torch.Tensor, count: int) -> list[int]:
    """Draw so many tokens of one reply."""
    sampler = Sampler(sampling, CPU)
    return [draw([sampler], logits[None])[0] for _ in range(count)]


def shares(sampling: SamplingParams) -> list[float]:
    """Return how often each of four tokens is drawn."""
    counts = Counter(drawn(sampling, SHARES.log(), 4000))
    return [counts[token] / 4000 for token in range(4)]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    assert shares(SamplingParams(temperature=1.0, seed=0)) == pytest.approx(
        SHARES.tolist(), abs=0.03
    )


def test_a_low_temperature_prefers_the_likely() -> None:
    squared = SHARES**2 / (SHARES**2).sum()

    found = shares(SamplingParams(temperature=0.5, seed=0))

    assert found == pytest.approx(squared.tolist(), abs=0.03)


def test_a_nucleus_is_the_fewest_tokens_that_add_up_to_it() -> None:
    found = shares(SamplingParams(temperature=1.0, top_p=0.7, seed=0))

    assert found == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.03)


def test_a_nucleus_wider_than_the_likeliest_is_found_all_the_same() -> None:
    flat = torch.zeros(2000)

    found = drawn(SamplingParams(temperature=1.0, top_p=0.99, seed=0), flat, 500)

    assert len(set(found)) > 400


def test_rows_with_different_wishes_are_drawn_side_by_side() -> None:
    greedy, hot = SamplingParams(), SamplingParams(temperature=1.0, seed=3)
    samplers = [Sampler(greedy, CPU), Sampler(hot, CPU), Sampler(greedy, CPU)]
    logits = torch.stack([SHARES.log()] * 3)

    together = [draw(samplers, logits) for _ in range(50)]

    assert [row[0] for row in together] == [0] * 50
    assert [row[1] for row in together] == drawn(hot, SHARES.log(), 50)


def test_what_was_written_is_less_likely_by_the_penalty() -> None:
    logits = torch.tensor([2.0, 1.5, -1.0])

    assert drawn(SamplingParams(repetition_penalty=2.0), logits, 3) == [0, 1, 0]
    assert torch.equal(logits, torch.tensor([2.0, 1.5, -1.0]))


def test_almost_the_same_scores_draw_almost_the_same_tokens() -> None:
    torch.manual_seed(0)
    logits = torch.randn(100)
    near = logits + 0.01 * torch.randn(100)
    sampling = SamplingParams(temperature=1.0, top_p=0.9, seed=1)

    pairs = zip(drawn(sampling, logits, 200), drawn(sampling, near, 200), strict=True)

    assert sum(one == other for one, other in pairs) > 140


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("top_p", [0.95, 1.0])
def test_nothing_is_drawn_by_scores_that_are_no_numbers(temperature: float, top_p: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, top_p=top_p, seed=0), CPU)
    scores = torch.tensor([[0.1, float("nan"), 0.3]])

    with pytest.raises(NonFiniteLogits):
        draw([sampler], scores)
