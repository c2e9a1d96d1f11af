"""A checkpoint is judged as it will be served, and is trained on as if nobody had looked."""

from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from bot.engine.weights import Weights
from trainer.scoring import merged

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def adapted(tiny_weights: Weights) -> Iterator[PeftModel]:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = get_peft_model(tiny_weights.model, config)
    assert isinstance(model, PeftModel)
    yield model.eval()
    model.unload()


@torch.no_grad()
def says(model: PeftModel) -> torch.Tensor:
    logits = model(input_ids=IDS).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def test_merged_it_says_the_same(adapted: PeftModel) -> None:
    apart = says(adapted)
    with adapted.disable_adapter():
        base = says(adapted)

    with merged(adapted):
        together = says(adapted)

    torch.testing.assert_close(together, apart)
    assert not torch.allclose(together, base)


def test_afterwards_every_weight_is_what_it_was_to_the_bit(adapted: PeftModel) -> None:
    adapted.to(torch.bfloat16)  # type: ignore[arg-type]  # its wrapper loses the signature
    before = {name: each.detach().clone() for name, each in adapted.named_parameters()}

    with merged(adapted):
        changed = {name: each.detach().clone() for name, each in adapted.named_parameters()}

    after = dict(adapted.named_parameters())
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert not all(torch.equal(changed[name], each) for name, each in before.items())


def test_afterwards_it_can_be_trained_on(adapted: PeftModel) -> None:
    with merged(adapted), torch.inference_mode():
        adapted(input_ids=IDS)

    adapted(input_ids=IDS, labels=IDS).loss.backward()

    trained = [each for name, each in adapted.named_parameters() if "lora_B" in name]
    assert all(each.grad is not None for each in trained)
