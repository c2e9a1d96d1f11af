"""Loads a causal language model and its tokenizer: the embedded one, a folder, or a Hub id."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from bot.engine.errors import ModelUnusable
from bot.engine.local.merged_weights import MergedWeights
from bot.engine.source import model_source
from bot.engine.vocabulary import Vocabulary, load_vocabulary, translated
from store.threads import run_in_short_lived_thread


@dataclass(frozen=True, kw_only=True)
class Weights(Vocabulary):
    """A model that is ready to generate."""

    model: PreTrainedModel
    sets: MergedWeights
    """The model's matrices, once for each adapter that is held ready."""


def load_weights(
    model: str,
    *,
    models_folder: Path,
    device: str = "auto",
    dtype: torch.dtype = torch.bfloat16,
    four_bits: bool = False,
) -> Weights:
    """Load `starter`, a folder, or a Hugging Face id; with `four_bits`, to train QLoRA on.

    Raises `ModelNotFound` or `ModelUnusable`.
    """
    return run_in_short_lived_thread(partial(_load, model, models_folder, device, dtype, four_bits))


def _load(
    model: str, models_folder: Path, device: str, dtype: torch.dtype, four_bits: bool
) -> Weights:
    target = choose_device(device)
    vocabulary = load_vocabulary(model, models_folder=models_folder)  # first: it is cheaper
    how = _in_four_bits(target, dtype) if four_bits else {}
    with translated(vocabulary.name):
        source = model_source(model, models_folder)
        network = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **how)
    if not four_bits:  # bitsandbytes has put it there
        network.to(target)  # type: ignore[arg-type]  # its wrapper loses the signature
    network.requires_grad_(False)  # from_pretrained has put it in eval mode
    return Weights(**vars(vocabulary), model=network, sets=MergedWeights(network))


def choose_device(device: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises `ModelUnusable` for one that is absent."""
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present.get(device, False):
        raise ModelUnusable(f"RATCHET_DEVICE is {device}, but this machine has none: use auto")
    return torch.device(device)


def _in_four_bits(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """NF4 with double quantisation (Dettmers et al. 2023, "QLoRA")."""
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnusable(
            "RATCHET_TRAIN_METHOD is qlora, which needs a CUDA device and the package "
            "bitsandbytes: set it to lora"
        )
    quantised = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantised, "device_map": {"": device}}
