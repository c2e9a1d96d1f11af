"""Reading a LoRA adapter from its directory; anything damaged or unsupported is refused.

An adapter updates matrices: `scale` · `up` @ `down` is added to each (Hu et al. 2021, "LoRA:
Low-Rank Adaptation of Large Language Models"). Variants that do more than that are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bot.engine.errors import AdapterRefused, AdapterUnusable
from store.adapter_files import FILES, hash_adapter
from store.domain import Adapter
from store.errors import AdapterDamaged

RANK_LIMIT = 512
"""Highest rank served; beyond it an update is no longer small beside its matrix."""

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
"""Beginning and ends of PEFT's tensor names, with the module's name between them."""

_UNSUPPORTED_OPTIONS = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
    "lora_bias",
)
"""Options of PEFT that make an adapter more than plain LoRA."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """The update of one matrix: `scale` · `up` @ `down`."""

    down: Tensor
    """Shape (rank, inputs)."""
    up: Tensor
    """Shape (outputs, rank)."""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix that it changes."""
        return self.up.shape[0], self.down.shape[1]


def read_adapter(adapter: Adapter, *, model: str) -> dict[str, Update]:
    """Return an adapter's updates by module name. Raises `AdapterRefused`."""
    if adapter.base_model != model:
        raise AdapterRefused(f"{adapter.name} was trained on {adapter.base_model}, this is {model}")
    folder = Path(adapter.path)
    try:
        if hash_adapter(folder) != adapter.sha256:
            raise AdapterUnusable(f"the files of {adapter.name} were changed after it was made")
    except (AdapterDamaged, OSError) as error:
        raise AdapterRefused(f"{adapter.name} cannot be loaded: {error}") from error
    return read_updates(folder, adapter.name)


def read_updates(folder: Path, name: str) -> dict[str, Update]:
    """Return the updates in a directory in PEFT's layout; errors (`AdapterRefused`) use `name`."""
    try:
        config = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        return _parse_updates(config, load_file(folder / FILES[1]))
    except OSError as error:
        raise AdapterRefused(f"{name} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise AdapterUnusable(f"{name} is not a LoRA adapter that we can serve: {error}") from error


class _Unusable(ValueError):
    """Reason why an adapter cannot be served."""


def _parse_updates(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Update]:
    if config["peft_type"] != "LORA" or config.get("bias", "none") != "none":
        raise _Unusable("it is not plain LoRA")
    if more := [name for name in _UNSUPPORTED_OPTIONS if config.get(name)]:
        raise _Unusable(f"it uses {', '.join(more)}")
    rank = int(config["r"])
    if not 1 <= rank <= RANK_LIMIT:
        raise _Unusable(f"its rank is {rank}, the limit is {RANK_LIMIT}")
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    modules = {name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)}
    wanted = {f"{module}{suffix}" for module in modules for suffix in (_DOWN, _UP)}
    if not modules or wanted != set(tensors):
        raise _Unusable("its file holds other tensors than pairs of matrices")
    found = {}
    for module in sorted(modules):
        update = Update(down=tensors[module + _DOWN], up=tensors[module + _UP], scale=scale)
        if update.down.shape[0] != rank or update.up.shape[1] != rank:
            raise _Unusable(f"{module} has another rank than {rank}")
        if not all(bool(torch.isfinite(each).all()) for each in (update.down, update.up)):
            raise _Unusable(f"the weights of {module} are not finite")
        found[module.removeprefix(_PREFIX)] = update
    return found
