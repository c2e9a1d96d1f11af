"""The weights of a model: as loaded, and merged once more with each adapter that is loaded.

An adapter is merged into copies of the matrices that it changes, made from the pristine ones, so
that it costs nothing per token; switching is an exchange of pointers. Where memory is too short for
the copies, the update is computed beside each matrix instead. For serving, matrices can be packed
(see `onednn_weights`).

Invariant: the pristine weights are never written to.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import psutil
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from bot.engine.errors import AdapterUnusable
from bot.engine.local.onednn_weights import PackedLinears, can_pack, group_by_input, pack
from bot.engine.lora import Update

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Share of the free memory that packing, or merging one adapter, may take."""


Group: TypeAlias = tuple[str, ...]
"""Names of modules that share a packed matrix; unpacked modules have their own."""


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """An adapter made ready for a model: merged matrices, or updates computed beside them."""

    matrices: Mapping[Group, Tensor]
    updates: Mapping[str, Update]


class MergedWeights:
    """The weight sets of one model. One thread at a time; `unmerged` is safe in any thread."""

    def __init__(self, model: nn.Module, *, free: "Callable[[], int] | None" = None) -> None:
        self._modules: dict[str, Any] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        self._pristine = {name: module.weight.data for name, module in self._modules.items()}
        self._groups: dict[str, Group] = {name: (name,) for name in self._modules}
        self._packed: dict[Group, PackedLinears] = {}
        self._device: torch.device = next(model.parameters()).device
        self._free = free or self._free_bytes
        self._held: dict[str, WeightSet] = {}
        self._current: str | None = None
        self._hooks: list[RemovableHandle] = []

    @torch.no_grad()
    def pack(self) -> None:
        """Pack the matrices for fast products, if memory allows; the model trains no more."""
        left = [name for name in self._modules if self._groups[name] not in self._packed]
        names = [name for name in left if can_pack(self._modules[name])]
        if sum(self._pristine[name].nbytes for name in names) > MEMORY_SHARE * self._free():
            logger.warning("there is too little memory to pack the model; replies are slower")
            return
        for group in group_by_input(names):
            self._packed[group] = PackedLinears([self._modules[name] for name in group])
            self._groups.update(dict.fromkeys(group, group))

    def merge(self, name: str, updates: Mapping[str, Update]) -> WeightSet:
        """Make an adapter's weight set; nothing in use changes. Raises `AdapterUnusable`."""
        steps = self.merge_stepwise(name, updates)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                merged: WeightSet = end.value
                return merged

    @torch.no_grad()
    def merge_stepwise(
        self, name: str, updates: Mapping[str, Update]
    ) -> Generator[None, None, WeightSet]:
        """`merge`, one matrix at a time, whatever is in use meanwhile. Raises `AdapterUnusable`."""
        for module, update in updates.items():
            self._check(name, module, update)
        groups = dict.fromkeys(self._groups[module] for module in updates)
        needed = sum(self._pristine[module].nbytes for group in groups for module in group)
        if needed > MEMORY_SHARE * self._free():
            logger.warning("%s is not merged, which takes %d MB of memory", name, needed // 2**20)
            beside = {module: self._like_weight(module, each) for module, each in updates.items()}
            return WeightSet(matrices={}, updates=beside)
        merged = {}
        for group in groups:
            merged[group] = self._merge_group(group, updates)
            yield
        return WeightSet(matrices=merged, updates={})

    @property
    def unmerged(self) -> frozenset[str]:
        """Adapters held as updates, not as merged matrices."""
        return frozenset(name for name, held in list(self._held.items()) if held.updates)

    def add(self, name: str, weights: WeightSet) -> None:
        """Hold a weight set under a name, in place of an earlier one."""
        if name == self._current:
            self.switch_to(None)
        self._held[name] = weights

    def remove(self, name: str) -> None:
        """Let go of a weight set, which must not be in use."""
        assert name != self._current, f"{name} is in use"
        self._held.pop(name, None)

    def switch_to(self, name: str | None) -> None:
        """Use an adapter's weight set, or the pristine weights: an exchange of pointers."""
        if name == self._current:
            return
        if self._current is not None:
            for group in self._held[self._current].matrices:
                self._set_matrix(group, None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if name is not None:
            for group, matrix in self._held[name].matrices.items():
                self._set_matrix(group, matrix)
            for module, update in self._held[name].updates.items():
                hook = self._modules[module].register_forward_hook(_adding_hook(update))
                self._hooks.append(hook)
        self._current = name

    def _set_matrix(self, group: Group, matrix: Tensor | None) -> None:
        """Multiply by this matrix from now on; by the pristine one for None."""
        if group in self._packed:
            self._packed[group].set_matrix(matrix)
        else:
            name = group[0]
            self._modules[name].weight.data = self._pristine[name] if matrix is None else matrix

    def _check(self, name: str, module: str, update: Update) -> None:
        if module not in self._modules:
            raise AdapterUnusable(f"{name} changes {module}, which the model does not have")
        if update.shape != self._shape(module):
            raise AdapterUnusable(
                f"{name} changes {module} by a matrix of {update.shape}, "
                f"the model's is {self._shape(module)}"
            )

    def _shape(self, module: str) -> tuple[int, int]:
        """Return outputs and inputs; GPT-2 keeps its matrices transposed."""
        rows, columns = self._pristine[module].shape
        return (columns, rows) if self._is_transposed(module) else (rows, columns)

    def _is_transposed(self, module: str) -> bool:
        return isinstance(self._modules[module], Conv1D)

    def _merge_group(self, group: Group, updates: Mapping[str, Update]) -> Tensor:
        """Return a group's matrix with the updates of its modules added; some may have none."""
        matrices = [
            self._merge_module(module, updates[module])
            if module in updates
            else self._pristine[module]
            for module in group
        ]
        return pack(matrices) if group in self._packed else matrices[0]

    def _merge_module(self, module: str, update: Update) -> Tensor:
        """Return a module's matrix with the update added, computed in fp32."""
        pristine = self._pristine[module]
        up, down = (each.to(pristine.device, torch.float32) for each in (update.up, update.down))
        left, right = (down.T, up.T) if self._is_transposed(module) else (up, down)
        merged = torch.addmm(pristine.float(), left, right, alpha=update.scale)
        return merged.to(pristine.dtype)

    def _like_weight(self, module: str, update: Update) -> Update:
        """Return the update on the device and in the dtype of the module's matrix."""
        like = self._pristine[module]
        return Update(down=update.down.to(like), up=update.up.to(like), scale=update.scale)

    def _free_bytes(self) -> int:
        if self._device.type == "cuda":  # memory that torch has reserved but does not use is free
            reserved = torch.cuda.memory_reserved(self._device)
            unused = reserved - torch.cuda.memory_allocated(self._device)
            return torch.cuda.mem_get_info(self._device)[0] + unused
        return int(psutil.virtual_memory().available)


def _adding_hook(update: Update) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Make a forward hook that adds the update's product to a module's output."""

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ update.down.T) @ update.up.T * update.scale

    return add
