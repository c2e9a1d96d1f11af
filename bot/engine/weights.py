"""Loads a causal language model and its tokenizer: the embedded one, a folder, or a Hub id."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bot.engine.errors import ModelNotFound, ModelUnusable
from bot.engine.sets import WeightSets
from bot.engine.source import model_name, model_source
from bot.engine.template import ChatTemplate

ASSUMED_CONTEXT_TOKENS = 2048
"""For the few configurations that do not say how much the model takes."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model that is ready to generate."""

    name: str
    model: PreTrainedModel
    sets: WeightSets
    """The model's matrices, once for each adapter that is held ready."""
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    context_tokens: int
    end_tokens: frozenset[int]
    """Ids at which a reply ends: the model's own, and the template's end of a message."""


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
    _quieten()
    name, source = model_name(model), model_source(model, models_folder)
    target = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        template = ChatTemplate(tokenizer, model=name)  # before the weights: it is cheaper
        how = _in_four_bits(target, dtype) if four_bits else {}
        network = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, **how)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _translated(name, error) from error
    if not four_bits:  # bitsandbytes has put it there
        network.to(target)  # type: ignore[arg-type]  # its wrapper loses the signature
    network.requires_grad_(False)  # from_pretrained has put it in eval mode
    return Weights(
        name=name,
        model=network,
        sets=WeightSets(network),
        tokenizer=tokenizer,
        template=template,
        context_tokens=getattr(config, "max_position_embeddings", None) or ASSUMED_CONTEXT_TOKENS,
        end_tokens=_end_tokens(network, tokenizer),
    )


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


def _quieten() -> None:
    # Progress bars and advice of the libraries would be mixed into the conversation.
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _translated(name: str, error: Exception) -> ModelNotFound | ModelUnusable:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        return ModelNotFound(f"cannot load the model {name}: {reason}; check RATCHET_MODEL")
    return ModelUnusable(f"{name} is no causal language model that can be served: {reason}")


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return frozenset(each for each in ids if each is not None)
