"""A model packed for the processor gives the same output, with an adapter and without."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bot.engine.local import onednn_weights
from bot.engine.local.cache import new_cache
from bot.engine.local.merged_weights import MergedWeights
from bot.engine.local.onednn_weights import PackedLinears, group_by_input, pack
from bot.engine.local.step import make_forward_pass
from bot.engine.local.weights import Weights, load_weights
from bot.engine.lora import Update, read_updates
from tests.conftest import MakeAdapter

IDS = torch.tensor([[5, 6, 7, 8]])
NAME = "a1-00000000"

pytestmark = pytest.mark.skipif(
    not onednn_weights._operators_work(), reason="oneDNN multiplies no bf16 on this processor"
)


@pytest.fixture
def weights(tiny_model: Path, tmp_path: Path) -> Weights:
    return load_weights(str(tiny_model), models_folder=tmp_path, device="cpu")


@torch.inference_mode()
def says(weights: Weights) -> Tensor:
    """Return the logits by transformers and by the engine's own step, concatenated."""
    logits = weights.model(input_ids=IDS).logits
    own = make_forward_pass(weights.model)(IDS, torch.ones_like(IDS), new_cache(), IDS.shape[1])
    torch.testing.assert_close(own, logits, rtol=0.02, atol=0.02)
    return torch.cat((logits, own))


def test_with_and_without_an_adapter_it_says_the_same(
    weights: Weights, make_adapter: MakeAdapter
) -> None:
    updates = read_updates(Path(make_adapter(weights.name).path), NAME)
    before = {}
    for packs in (False, True):
        merged_weights = MergedWeights(weights.model)
        if packs:
            merged_weights.pack()
        merged_weights.add(NAME, merged_weights.merge(NAME, updates))
        before[packs, "base"] = says(weights)
        merged_weights.switch_to(NAME)
        before[packs, NAME] = says(weights)
        merged_weights.switch_to(None)
        before[packs, "base again"] = says(weights)

    for name in ("base", NAME, "base again"):
        torch.testing.assert_close(before[True, name], before[False, name], rtol=0.02, atol=0.02)
    assert torch.equal(before[True, "base"], before[True, "base again"])
    assert not torch.allclose(before[True, "base"], before[True, NAME], atol=0.1)


def test_modules_that_multiply_the_same_are_packed_together() -> None:
    names = ["a.q_proj", "a.k_proj", "a.o_proj", "b.up_proj", "a.v_proj", "b.gate_proj", "q_proj"]

    assert set(group_by_input(names)) == {
        ("a.q_proj", "a.k_proj", "a.v_proj"),
        ("b.gate_proj", "b.up_proj"),
        ("a.o_proj",),
        ("q_proj",),
    }
    assert set(group_by_input(["a.q_proj", "a.v_proj"])) == {("a.q_proj",), ("a.v_proj",)}


@pytest.mark.parametrize("biases", [(False, False), (True, True), (False, True)])
@torch.inference_mode()
def test_packed_together_each_says_what_it_says_alone(biases: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    alone = [
        nn.Linear(32, outputs, bias=bias, dtype=torch.bfloat16)
        for outputs, bias in zip((64, 16), biases, strict=True)
    ]
    one, other = (torch.randn(2, 3, 32, dtype=torch.bfloat16) for _ in range(2))
    expected = {
        (number, states): module(states)
        for number, module in enumerate(alone)
        for states in (one, other)
    }
    PackedLinears(alone)

    for number, states in ((0, one), (1, one), (1, one), (0, other), (0, other), (1, other)):
        said = alone[number](states)
        torch.testing.assert_close(said, expected[number, states], rtol=0.02, atol=0.02)


@torch.inference_mode()
def test_what_was_multiplied_by_another_matrix_is_forgotten() -> None:
    modules = [nn.Linear(32, 16, bias=False, dtype=torch.bfloat16) for _ in range(2)]
    states = torch.ones(1, 32, dtype=torch.bfloat16)
    packed = PackedLinears(modules)
    before = modules[0](states)

    packed.set_matrix(pack([2 * module.weight for module in modules]))

    torch.testing.assert_close(modules[0](states), 2 * before)
    assert not torch.equal(modules[1](states), before)


def test_beside_packed_matrices_an_adapter_says_what_it_says_in_them(
    weights: Weights, make_adapter: MakeAdapter
) -> None:
    updates = read_updates(Path(make_adapter(weights.name).path), NAME)
    weights.merged.pack()
    merged = weights.merged.merge(NAME, updates)
    weights.merged._free = lambda: 0
    beside = weights.merged.merge(NAME, updates)
    assert merged.matrices
    assert beside.updates
    said = []
    for each in (merged, beside):
        weights.merged.add(NAME, each)
        weights.merged.switch_to(NAME)
        said.append(says(weights))
        weights.merged.switch_to(None)

    torch.testing.assert_close(said[0], said[1], rtol=0.02, atol=0.02)


def test_an_adapter_of_some_modules_leaves_those_beside_them(weights: Weights) -> None:
    name = "model.layers.0.self_attn.q_proj"
    layer = weights.model.get_submodule("model.layers.0.self_attn")
    rows, columns = layer.q_proj.weight.shape
    update = Update(down=torch.ones(1, columns), up=torch.ones(rows, 1), scale=1.0)
    states = torch.randn(1, 2, columns, dtype=torch.bfloat16)
    weights.merged.pack()
    weights.merged.add(NAME, weights.merged.merge(NAME, {name: update}))
    modules = (layer.q_proj, layer.k_proj, layer.v_proj)
    query, *others = (module(states) for module in modules)

    weights.merged.switch_to(NAME)
    changed, *same = (module(states) for module in modules)

    expected = query + states.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(changed, expected, rtol=0.05, atol=0.1)
    assert all(torch.equal(one, other) for one, other in zip(others, same, strict=True))


def test_the_matrices_themselves_stay_as_they_are(weights: Weights) -> None:
    before = {name: each.clone() for name, each in weights.model.state_dict().items()}

    weights.merged.pack()

    after = weights.model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_without_room_nothing_is_packed(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    before = says(weights)

    MergedWeights(weights.model, free=lambda: 0).pack()

    assert torch.equal(says(weights), before)
    assert "too little memory" in caplog.text


def test_a_torch_without_the_operators_packs_nothing(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Tensor:
        raise AttributeError("no such operator")

    onednn_weights._operators_work.cache_clear()
    monkeypatch.setattr(onednn_weights, "pack", gone)
    linear = weights.model.get_submodule("model.layers.0.mlp.up_proj")

    assert not onednn_weights.can_pack(linear)
    onednn_weights._operators_work.cache_clear()


def test_what_is_not_bf16_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    full = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.float32)
    linear = full.model.get_submodule("model.layers.0.mlp.up_proj")

    assert not onednn_weights.can_pack(linear)
