"""The penalty is 0 for a model that has not moved, and pulls back one that has."""

import pytest
import torch

from bot.engine.local import Weights
from tests.trainer.examples import asked
from trainer.passes.reply import Reply
from trainer.passes.scoring import reply_logits, tokens_of
from trainer.tuning.distillation import SHARPENING, TOP_TOKENS, DistillationPenalty

REPLIES = [
    Reply(prompt=asked("Why?"), text="because it is so", finished=True),
    Reply(prompt=asked("And where is it?"), text="over there", finished=True),
    Reply(prompt=asked("When?"), text="now", finished=False),
]


@pytest.fixture
def penalty(tiny_weights: Weights) -> DistillationPenalty:
    return DistillationPenalty(tiny_weights, REPLIES, batch_size=len(REPLIES), seed=0)


def moved(weights: Weights, *, by: float) -> None:
    """Change a model's weights at random."""
    torch.manual_seed(0)
    for each in weights.model.parameters():
        each.data += by * torch.randn_like(each)


def exact(weights: Weights, before: torch.Tensor) -> float:
    """Return KL(before ‖ now) a token over every token of the vocabulary."""
    with torch.no_grad():
        logits, counts = reply_logits(weights.model, rows(weights))
    divergence = (before.exp() * (before - logits.log_softmax(dim=-1))).sum(dim=-1)
    return float((divergence * counts).sum() / counts.sum())


def rows(weights: Weights) -> list[tuple[list[int], list[int]]]:
    found = [tokens_of(weights, each.prompt, each.text, each.finished) for each in REPLIES]
    return sorted(found, key=lambda row: len(row[0]) + len(row[1]))


def test_a_model_that_is_a_little_sharper_is_at_no_distance(
    tiny_weights: Weights,
) -> None:
    times = 20.0  # or it would think all tokens as good as alike
    tiny_weights.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits * times)
    penalty = DistillationPenalty(tiny_weights, REPLIES, batch_size=len(REPLIES), seed=0)
    as_it_was = penalty.distance(tiny_weights.model).item()

    times *= SHARPENING

    assert as_it_was > 1e-4
    assert penalty.distance(tiny_weights.model).item() == pytest.approx(0, abs=1e-5)


def test_the_further_a_model_moves_the_greater_the_distance(
    penalty: DistillationPenalty, tiny_weights: Weights
) -> None:
    distances = []
    for _ in range(3):
        moved(tiny_weights, by=0.05)
        distances.append(penalty.distance(tiny_weights.model).item())

    assert distances == sorted(distances)
    assert distances[0] > 0


def test_it_is_a_lower_bound_of_the_whole_divergence(
    penalty: DistillationPenalty, tiny_weights: Weights
) -> None:
    with torch.no_grad():
        logits, _ = reply_logits(tiny_weights.model, rows(tiny_weights))
        before = (SHARPENING * logits).log_softmax(dim=-1)
    assert before.shape[-1] > TOP_TOKENS, "or nothing would be joined"

    moved(tiny_weights, by=0.1)

    distance, whole = penalty.distance(tiny_weights.model).item(), exact(tiny_weights, before)
    assert 0 < distance <= whole + 1e-6


def test_going_down_its_slope_leads_back(
    penalty: DistillationPenalty, tiny_weights: Weights
) -> None:
    moved(tiny_weights, by=0.1)
    tiny_weights.model.requires_grad_(True)
    optimiser = torch.optim.Adam(tiny_weights.model.parameters(), lr=1e-3)
    first = penalty.distance(tiny_weights.model).item()

    for _ in range(10):
        optimiser.zero_grad()
        penalty.distance(tiny_weights.model).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    assert penalty.distance(tiny_weights.model).item() < first / 2


def test_small_batches_take_turns(tiny_weights: Weights) -> None:
    penalty = DistillationPenalty(tiny_weights, REPLIES, batch_size=1, seed=0)
    moved(tiny_weights, by=0.1)

    distances = [penalty.distance(tiny_weights.model).item() for _ in range(2 * len(REPLIES))]

    assert len(set(distances)) == len(REPLIES)
    assert distances[: len(REPLIES)] == distances[len(REPLIES) :]
