"""Frozen layers give the same outputs from the cache, and are computed once."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bot.engine.local import Weights
from trainer.passes import activation_cache
from trainer.passes.activation_cache import cached_frozen_layers

IDS = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 2]])
OTHERS = torch.tensor([[5, 6, 7, 8], [5, 6, 8, 2]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
FROZEN = 1


class Counted:
    """A tiny model that counts the passes through its first layer's attention."""

    def __init__(self, weights: Weights) -> None:
        self.model: Any = weights.model
        self.passes = 0
        self.model.model.layers[0].self_attn.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1

    @torch.no_grad()
    def logits(self, ids: Tensor = IDS, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return found


@pytest.fixture
def counted(tiny_weights: Weights) -> Counted:
    return Counted(tiny_weights)


@pytest.fixture
def remembering(counted: Counted) -> Iterator[PreTrainedModel]:
    with cached_frozen_layers(counted.model, FROZEN):
        yield counted.model


@pytest.mark.usefixtures("remembering")
def test_a_batch_is_computed_once_and_says_the_same(counted: Counted) -> None:
    first, second = counted.logits(), counted.logits()

    assert counted.passes == 1
    assert torch.equal(first, second)


@pytest.mark.usefixtures("remembering")
def test_other_tokens_or_another_mask_are_another_batch(counted: Counted) -> None:
    counted.logits()
    counted.logits(OTHERS)
    counted.logits(mask=MASK)

    assert counted.passes == 3


def test_what_is_remembered_is_what_the_layers_say(counted: Counted) -> None:
    expected = counted.logits(mask=MASK)
    with cached_frozen_layers(counted.model, FROZEN):
        counted.logits(mask=MASK)
        assert torch.equal(counted.logits(mask=MASK), expected)


def test_afterwards_everything_is_computed_again(counted: Counted) -> None:
    with cached_frozen_layers(counted.model, FROZEN):
        counted.logits()
    counted.logits()

    assert counted.passes == 2


@pytest.mark.usefixtures("remembering")
def test_the_layers_above_learn_from_what_is_remembered(counted: Counted) -> None:
    above = counted.model.model.layers[FROZEN].mlp.down_proj.weight
    counted.model.requires_grad_(False)
    above.requires_grad_(True)
    gradients = []
    for _ in range(2):
        counted.model(input_ids=IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append(above.grad.clone())
        above.grad = None

    assert counted.passes == 1
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


@pytest.mark.usefixtures("remembering")
def test_layers_that_learn_after_all_are_computed(counted: Counted) -> None:
    counted.model.requires_grad_(True)
    counted.model.get_input_embeddings().weight.requires_grad_(True)
    for _ in range(2):
        counted.model(input_ids=IDS, use_cache=False).logits.sum().backward()

    assert counted.passes == 2


@pytest.mark.usefixtures("remembering")
def test_replies_are_written_meanwhile_as_ever(counted: Counted) -> None:
    written = [counted.model.generate(IDS, max_new_tokens=4, do_sample=False) for _ in range(2)]

    assert torch.equal(*written)


def test_beyond_the_room_a_batch_is_computed_each_time(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_cache, "CACHE_BYTES", 0)
    with cached_frozen_layers(counted.model, FROZEN):
        assert torch.equal(counted.logits(), counted.logits())

    assert counted.passes == 2
