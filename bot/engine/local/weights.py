"""Loading a causal language model and its tokenizer: the embedded one, a folder, or a Hub id."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from bot.engine.errors import ModelUnusable
from bot.engine.local.merged_weights import MergedWeights
from bot.engine.local.onednn_weights import multiplies_bf16
from bot.engine.source import model_source
from bot.engine.vocabulary import Vocabulary, load_vocabulary, translate_load_errors
from store.threads import run_in_short_lived_thread


@dataclass(frozen=True, kw_only=True)
class Weights(Vocabulary):
    """A loaded model with its vocabulary, ready to generate."""

    model: PreTrainedModel
    merged: MergedWeights
    """The model's matrices, once for each adapter that is loaded."""


def load_weights(
    model: str,
    *,
    models_folder: Path,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    four_bits: bool = False,
) -> Weights:
    """Load `starter`, a folder, or a Hugging Face id; with `four_bits`, to train QLoRA on.

    Without `dtype` the weights are bf16, or fp32 on a processor that cannot multiply bf16 and has
    room for them.
    Raises `ModelNotFound` or `ModelUnusable`.
    """
    return run_in_short_lived_thread(partial(_load, model, models_folder, device, dtype, four_bits))


def _load(
    model: str, models_folder: Path, device: str, dtype: torch.dtype | None, four_bits: bool
) -> Weights:
    target = choose_device(device)
    vocabulary = load_vocabulary(model, models_folder=models_folder)  # first: errors come sooner
    stored = dtype or torch.bfloat16
    options = _nf4_options(target, stored) if four_bits else {}
    with translate_load_errors(vocabulary.name):
        source = model_source(model, models_folder)
        network = AutoModelForCausalLM.from_pretrained(
            source, dtype=stored, use_safetensors=True, **options
        )
    if dtype is None and target.type == "cpu" and _is_faster_in_fp32(network):
        network.to(torch.float32)  # type: ignore[arg-type]  # its wrapper loses the signature
    if not four_bits:  # bitsandbytes has moved it already
        network.to(target)  # type: ignore[arg-type]  # its wrapper loses the signature
    network.requires_grad_(False)  # from_pretrained has put it in eval mode
    return Weights(
        name=vocabulary.name,
        tokenizer=vocabulary.tokenizer,
        template=vocabulary.template,
        context_tokens=vocabulary.context_tokens,
        end_tokens=vocabulary.end_tokens,
        model=network,
        merged=MergedWeights(network),
    )


def choose_device(device: str) -> torch.device:
    """Return the device; `auto` takes CUDA, then MPS, then the CPU.

    Raises `ModelUnusable` for a device that is absent.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present.get(device, False):
        raise ModelUnusable(f"RATCHET_DEVICE is {device}, but there is none here: set it to auto")
    return torch.device(device)


def _is_faster_in_fp32(network: PreTrainedModel) -> bool:
    """Return whether fp32 pays: torch's own bf16 products take four times as long.

    Measured on a processor with AVX2 alone (docs/experiments.md, 2026-11-30). The weights and one
    merged adapter have to fit into half of the free memory.
    """
    needed = 2 * sum(4 * weight.numel() for weight in network.parameters())
    return not multiplies_bf16() and needed < psutil.virtual_memory().available / 2


def _nf4_options(device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Return options to load in NF4 with double quantisation (Dettmers et al. 2023, "QLoRA")."""
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
