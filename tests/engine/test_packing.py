"""Packed for the processor, a model says the same, with an adapter and without."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bot.engine import packing
from bot.engine.lora import read_updates
from bot.engine.sets import WeightSets
from bot.engine.weights import Weights, load_weights
from tests.conftest import MakeAdapter

IDS = torch.tensor([[5, 6, 7, 8]])
NAME = "a1-00000000"

pytestmark = pytest.mark.skipif(
    not packing._works(), reason="oneDNN multiplies no bf16 on this processor"
)


@pytest.fixture
def weights(tiny_model: Path, tmp_path: Path) -> Weights:
    return load_weights(str(tiny_model), models_folder=tmp_path, device="cpu")


@torch.inference_mode()
def says(weights: Weights) -> Tensor:
    logits = weights.model(input_ids=IDS).logits
    assert isinstance(logits, Tensor)
    return logits


def test_with_and_without_an_adapter_it_says_the_same(
    weights: Weights, make_adapter: MakeAdapter
) -> None:
    updates = read_updates(Path(make_adapter(weights.name).path), NAME)
    before = {}
    for packs in (False, True):
        sets = WeightSets(weights.model)
        if packs:
            sets.pack()
        sets.hold(NAME, sets.make(NAME, updates))
        before[packs, "base"] = says(weights)
        sets.use(NAME)
        before[packs, NAME] = says(weights)
        sets.use(None)
        before[packs, "base again"] = says(weights)

    for name in ("base", NAME, "base again"):
        torch.testing.assert_close(before[True, name], before[False, name], rtol=0.02, atol=0.02)
    assert torch.equal(before[True, "base"], before[True, "base again"])
    assert not torch.allclose(before[True, "base"], before[True, NAME], atol=0.1)


def test_the_matrices_themselves_stay_as_they_are(weights: Weights) -> None:
    before = {name: each.clone() for name, each in weights.model.state_dict().items()}

    weights.sets.pack()

    after = weights.model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_without_room_nothing_is_packed(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    before = says(weights)

    WeightSets(weights.model, free=lambda: 0).pack()

    assert torch.equal(says(weights), before)
    assert "too little memory" in caplog.text


def test_a_torch_without_the_operators_packs_nothing(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Tensor:
        raise AttributeError("no such operator")

    packing._works.cache_clear()
    monkeypatch.setattr(packing, "packed", gone)
    linear = weights.model.get_submodule("model.layers.0.mlp.up_proj")

    assert not packing.can_pack(linear)
    packing._works.cache_clear()


def test_what_is_not_bf16_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    full = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.float32)
    linear = full.model.get_submodule("model.layers.0.mlp.up_proj")

    assert not packing.can_pack(linear)
