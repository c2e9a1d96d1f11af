"""An adapter that is not wholly what it should be is refused, with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bot.engine.errors import AdapterRefused
from bot.engine.lora import RANK_LIMIT, read_adapter, read_updates
from store.adapters import hash_adapter
from tests.conftest import MakeAdapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def folder(make_adapter: MakeAdapter) -> Path:
    return Path(make_adapter("tiny").path)


def configure(folder: Path, **changes: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(folder: Path, how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(how(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def test_every_module_has_its_update(folder: Path) -> None:
    updates = read_updates(folder, "a1")

    assert updates["model.layers.0.self_attn.k_proj"].shape == (16, 32)
    assert {each.scale for each in updates.values()} == {16.0}
    assert len(updates) == 14


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(folder: Path) -> None:
    configure(folder, use_rslora=True)

    assert {each.scale for each in read_updates(folder, "a1").values()} == {32.0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "IA3"}, "not plain LoRA"),
        ({"bias": "all"}, "not plain LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 8}, "another rank than 8"),
        pytest.param(
            {"r": RANK_LIMIT + 1},
            f"the limit is {RANK_LIMIT}",
            marks=pytest.mark.bad_input("a rank beyond the limit"),
        ),
        ({"r": 0}, "its rank is 0"),
        ({"r": "four"}, "four"),
    ],
)
def test_a_configuration_that_is_not_served_is_refused(
    folder: Path, changes: dict[str, object], complaint: str
) -> None:
    configure(folder, **changes)

    with pytest.raises(AdapterRefused, match=f"a1.*{complaint}"):
        read_updates(folder, "a1")


@pytest.mark.bad_input("an adapter that is no numbers")
def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    change(folder, lambda tensors: {name: each * torch.nan for name, each in tensors.items()})

    with pytest.raises(AdapterRefused, match="not finite"):
        read_updates(folder, "a1")


@pytest.mark.parametrize("kept", [slice(0), slice(1, None)], ids=["none", "half of a pair"])
def test_tensors_that_are_no_pairs_are_refused(folder: Path, kept: slice) -> None:
    change(folder, lambda tensors: dict(sorted(tensors.items())[kept]))

    with pytest.raises(AdapterRefused, match="other tensors than pairs"):
        read_updates(folder, "a1")


@pytest.mark.bad_input("a pickle in place of safetensors")
def test_a_pickle_is_never_opened(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()

    with pytest.raises(AdapterRefused, match="a1"):
        read_updates(folder, "a1")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "not json"])
def test_a_configuration_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)

    with pytest.raises(AdapterRefused, match="a1"):
        read_updates(folder, "a1")


@pytest.mark.bad_input("an adapter edited by hand")
def test_files_that_changed_are_refused_before_they_are_read(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter("tiny")
    (Path(adapter.path) / CONFIG).write_text("not json")

    with pytest.raises(AdapterRefused, match="changed after it was made"):
        read_adapter(adapter, model="tiny")


@pytest.mark.bad_input("an adapter of another base model")
def test_another_models_adapter_is_refused(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter("another")
    adapter = replace(adapter, sha256=hash_adapter(Path(adapter.path)))

    with pytest.raises(AdapterRefused, match="trained on another, this is tiny"):
        read_adapter(adapter, model="tiny")
