"""A checkpoint is judged as it will be served, and its training goes on undisturbed."""

import math
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from bot.engine.local import Weights
from store.domain import ExampleSet
from tests.fakes import FakeEmbedder
from tests.trainer.examples import demonstration, settings
from trainer.passes.scoring import merged
from trainer.proving.predictor import RatingPredictor
from trainer.tuning.checkpoint_judge import CheckpointJudge, budget_used, spread
from trainer.tuning.distillation import SHARPENING

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


def test_a_checkpoint_whose_logits_are_no_numbers_cannot_be_used(
    judge: CheckpointJudge, adapted: PeftModel
) -> None:
    with torch.no_grad():
        for name, each in adapted.named_parameters():
            if "lora_B" in name:
                each.fill_(math.nan)

    assert judge(adapted).budget_used == math.inf


@pytest.fixture
def judge(tiny_weights: Weights) -> CheckpointJudge:
    nobody = RatingPredictor(FakeEmbedder(), (), ())
    train = ExampleSet(demonstrations=(demonstration(1),))
    system_prompt = settings().reply.system_prompt
    return CheckpointJudge(
        tiny_weights, nobody, train, system_prompt=system_prompt, drift_kl=1e-3, nll_rise=1e6
    )


def changed(model: PeftModel, *, by: float) -> PeftModel:
    """Scale the update by `by`."""
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.mul_(by)
    return model


def test_an_update_of_nothing_uses_no_budget(
    tiny_weights: Weights, judge: CheckpointJudge, adapted: PeftModel
) -> None:
    assert judge(changed(adapted, by=0.0)).budget_used == pytest.approx(0.0, abs=1e-3)


def test_a_model_that_is_only_sharper_has_not_drifted(
    tiny_weights: Weights, judge: CheckpointJudge, adapted: PeftModel
) -> None:
    changed(adapted, by=0.0)
    sharpen = Sharpen()
    tiny_weights.model.lm_head.register_forward_hook(sharpen)

    sharpen.power = SHARPENING
    within = judge(adapted).budget_used
    sharpen.power = 2.0
    beyond = judge(adapted).budget_used

    assert within == pytest.approx(0.0, abs=1e-3)
    assert beyond > 1


class Sharpen:
    """Forward hook that raises the probabilities of the tokens to a power."""

    power = 1.0

    def __call__(self, module: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.power


def test_the_further_an_update_goes_the_more_budget_it_uses(
    judge: CheckpointJudge, adapted: PeftModel
) -> None:
    half = judge(changed(adapted, by=0.5)).budget_used
    whole = judge(changed(adapted, by=2.0)).budget_used

    assert 1 < half < whole
    assert judge(adapted).score == -math.inf


def test_budget_use_is_the_share_of_a_limit_that_is_used_up() -> None:
    assert budget_used(0.015, 0.03) == pytest.approx(0.5)
    assert budget_used(-0.01, 0.03) < 0
    assert (budget_used(0.01, 0.0), budget_used(0.0, 0.0)) == (math.inf, 0.0)


def test_a_checkpoint_that_says_nothing_is_over_every_limit() -> None:
    assert budget_used(math.nan, 0.15) == math.inf


def test_prompts_are_taken_evenly_from_first_to_last() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
