"""Merged weights give PEFT's output, and the base weights are never changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from bot.engine.errors import AdapterRefused
from bot.engine.local.merged_weights import MergedWeights
from bot.engine.local.weights import Weights
from bot.engine.lora import Update, read_updates
from tests.conftest import MakeAdapter

IDS = torch.tensor([[5, 6, 7, 8]])
NAME = "a1-00000000"

Free = Callable[[], int]


def plenty() -> int:
    return 2**40


def nothing() -> int:
    return 0


@torch.no_grad()
def says(model: torch.nn.Module) -> Tensor:
    logits = model(input_ids=IDS).logits
    assert isinstance(logits, Tensor)
    return logits


@pytest.fixture
def folder(make_adapter: MakeAdapter, tiny_weights: Weights) -> Path:
    return Path(make_adapter(tiny_weights.name).path)


def held(weights: Weights, folder: Path, free: Free) -> MergedWeights:
    merged_weights = MergedWeights(weights.model, free=free)
    merged_weights.add(NAME, merged_weights.merge(NAME, read_updates(folder, NAME)))
    return merged_weights


@pytest.mark.parametrize("free", [plenty, nothing], ids=["merged", "beside"])
def test_either_way_it_says_what_peft_says(tiny_weights: Weights, folder: Path, free: Free) -> None:
    base = says(tiny_weights.model)
    merged_weights = held(tiny_weights, folder, free)

    merged_weights.switch_to(NAME)
    ours = says(tiny_weights.model)
    merged_weights.switch_to(None)

    torch.testing.assert_close(says(tiny_weights.model), base, rtol=0, atol=0)
    torch.testing.assert_close(ours, says(PeftModel.from_pretrained(tiny_weights.model, folder)))
    assert not torch.allclose(ours, base)


def test_without_room_for_a_second_set_there_is_none(
    tiny_weights: Weights, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    updates = read_updates(folder, NAME)

    beside = MergedWeights(tiny_weights.model, free=nothing).merge(NAME, updates)
    merged = MergedWeights(tiny_weights.model, free=plenty).merge(NAME, updates)

    assert (beside.matrices, merged.updates) == ({}, {})
    assert beside.updates.keys() == {module for [module] in merged.matrices} == updates.keys()
    assert caplog.messages == [f"{NAME} is not merged, which takes 0 MB of memory"]


@pytest.mark.parametrize(("free", "unmerged"), [(nothing, {NAME}), (plenty, set())])
def test_what_is_not_merged_is_known(
    tiny_weights: Weights, folder: Path, free: Callable[[], int], unmerged: set[str]
) -> None:
    merged_weights = held(tiny_weights, folder, free)
    before = merged_weights.unmerged
    merged_weights.remove(NAME)

    assert (before, merged_weights.unmerged) == (unmerged, frozenset())


def test_the_pristine_weights_stay_what_they_were_to_the_bit(
    tiny_weights: Weights, folder: Path
) -> None:
    model = tiny_weights.model.to(torch.bfloat16)  # type: ignore[arg-type]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    merged_weights = held(tiny_weights, folder, plenty)

    for name in (NAME, None) * 50:
        merged_weights.switch_to(name)

    after = model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_a_set_is_made_from_the_pristine_weights_whatever_is_in_use(
    tiny_weights: Weights, folder: Path
) -> None:
    merged_weights = held(tiny_weights, folder, plenty)
    merged_weights.switch_to(NAME)

    again = merged_weights.merge("a2", read_updates(folder, "a2"))
    merged_weights.add("a2", again)
    before = says(tiny_weights.model)
    merged_weights.switch_to("a2")

    torch.testing.assert_close(says(tiny_weights.model), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("module", "outputs", "complaint"),
    [
        ("model.layers.9.mlp.up_proj", 64, "which the model does not have"),
        ("model.layers.0.mlp.up_proj", 63, r"\(63, 32\)"),
    ],
)
def test_an_update_of_what_is_not_there_is_refused(
    tiny_weights: Weights, module: str, outputs: int, complaint: str
) -> None:
    update = Update(down=torch.zeros(4, 32), up=torch.zeros(outputs, 4), scale=1.0)

    with pytest.raises(AdapterRefused, match=complaint):
        MergedWeights(tiny_weights.model).merge(NAME, {module: update})


def test_a_set_in_use_is_not_dropped(tiny_weights: Weights, folder: Path) -> None:
    merged_weights = held(tiny_weights, folder, plenty)
    merged_weights.switch_to(NAME)

    with pytest.raises(AssertionError, match="in use"):
        merged_weights.remove(NAME)


def test_a_set_in_use_is_replaced_by_another_of_its_name(
    tiny_weights: Weights, folder: Path
) -> None:
    base = says(tiny_weights.model)
    room = iter((2**40, 0))
    merged_weights = MergedWeights(tiny_weights.model, free=lambda: next(room))
    for _ in ("merged", "beside"):
        merged_weights.add(NAME, merged_weights.merge(NAME, read_updates(folder, NAME)))
        merged_weights.switch_to(NAME)
        adapted = says(tiny_weights.model)
    merged_weights.switch_to(None)

    torch.testing.assert_close(says(tiny_weights.model), base, rtol=0, atol=0)
    torch.testing.assert_close(adapted, says(PeftModel.from_pretrained(tiny_weights.model, folder)))
