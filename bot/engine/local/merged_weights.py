"""The weights of a model, as they came and once more for each adapter that is held ready.

An adapter is added into a second set of the matrices that it changes, from the pristine ones, so
that it costs nothing a token; going over to it is an exchange of pointers. Where memory does not
allow a second set, the update is computed beside each matrix instead. For serving, the sets can be
packed: laid out as the processor multiplies by them.

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
from bot.engine.local.onednn_weights import Packed, can_pack, laid_out, together
from bot.engine.lora import Update

logger = logging.getLogger(__name__)

SPARED = 0.5
"""Share of the free memory that a second set may take."""


Group: TypeAlias = tuple[str, ...]
"""Names of modules that share a matrix; most have their own."""


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """What an adapter makes of a model: whole matrices, or updates beside them."""

    matrices: Mapping[Group, Tensor]
    updates: Mapping[str, Update]


class MergedWeights:
    """The sets of one model. For one thread at a time; `unmerged` may be asked for in any."""

    def __init__(self, model: nn.Module, *, free: "Callable[[], int] | None" = None) -> None:
        self._modules: dict[str, Any] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        self._pristine = {name: module.weight.data for name, module in self._modules.items()}
        self._groups: dict[str, Group] = {name: (name,) for name in self._modules}
        self._packed: dict[Group, Packed] = {}
        self._device: torch.device = next(model.parameters()).device
        self._free = free or self._free_bytes
        self._held: dict[str, WeightSet] = {}
        self._current: str | None = None
        self._hooks: list[RemovableHandle] = []

    @torch.no_grad()
    def pack(self) -> None:
        """Lay the matrices out for fast products, if there is room; the model trains no more."""
        left = [name for name in self._modules if self._groups[name] not in self._packed]
        names = [name for name in left if can_pack(self._modules[name])]
        if sum(self._pristine[name].nbytes for name in names) > SPARED * self._free():
            logger.warning("there is too little memory to pack the model; it answers more slowly")
            return
        for group in together(names):
            self._packed[group] = Packed([self._modules[name] for name in group])
            self._groups.update(dict.fromkeys(group, group))

    def make(self, name: str, updates: Mapping[str, Update]) -> WeightSet:
        """The set of an adapter; nothing changes yet. Raises `AdapterUnusable`."""
        making = self.making(name, updates)
        while True:
            try:
                next(making)
            except StopIteration as end:
                made: WeightSet = end.value
                return made

    @torch.no_grad()
    def making(self, name: str, updates: Mapping[str, Update]) -> Generator[None, None, WeightSet]:
        """`make`, a matrix at a time, whatever is in use meanwhile. Raises `AdapterUnusable`."""
        for module, update in updates.items():
            self._check(name, module, update)
        groups = dict.fromkeys(self._groups[module] for module in updates)
        needed = sum(self._pristine[module].nbytes for group in groups for module in group)
        if needed > SPARED * self._free():
            logger.warning("%s is not merged, which takes %d MB of memory", name, needed // 2**20)
            beside = {module: self._placed(module, update) for module, update in updates.items()}
            return WeightSet(matrices={}, updates=beside)
        merged = {}
        for group in groups:
            merged[group] = self._merged(group, updates)
            yield
        return WeightSet(matrices=merged, updates={})

    @property
    def unmerged(self) -> frozenset[str]:
        """Adapters held as updates, not as matrices."""
        return frozenset(name for name, held in list(self._held.items()) if held.updates)

    def hold(self, name: str, weights: WeightSet) -> None:
        """Keep a set ready, in place of another of this name."""
        if name == self._current:
            self.use(None)
        self._held[name] = weights

    def drop(self, name: str) -> None:
        """Let a set go; it must not be in use."""
        assert name != self._current, f"{name} is in use"
        self._held.pop(name, None)

    def use(self, name: str | None) -> None:
        """Go over to the set of an adapter, or to the pristine one: an exchange of pointers."""
        if name == self._current:
            return
        for group in self._held[self._current].matrices if self._current else ():
            self._put(group, None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if name is not None:
            for group, matrix in self._held[name].matrices.items():
                self._put(group, matrix)
            for module, update in self._held[name].updates.items():
                self._hooks.append(self._modules[module].register_forward_hook(_beside(update)))
        self._current = name

    def _put(self, group: Group, matrix: Tensor | None) -> None:
        """Multiply by this matrix, or by the pristine one."""
        if group in self._packed:
            self._packed[group].use(matrix)
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
        """Outputs and inputs; GPT-2 keeps its matrices the other way round."""
        rows, columns = self._pristine[module].shape
        return (columns, rows) if self._turned(module) else (rows, columns)

    def _turned(self, module: str) -> bool:
        return isinstance(self._modules[module], Conv1D)

    def _merged(self, group: Group, updates: Mapping[str, Update]) -> Tensor:
        """A group's matrix with the updates of its modules, those that have one, added."""
        matrices = [
            self._added(module, updates[module]) if module in updates else self._pristine[module]
            for module in group
        ]
        return laid_out(matrices) if group in self._packed else matrices[0]

    def _added(self, module: str, update: Update) -> Tensor:
        pristine = self._pristine[module]
        up, down = (each.to(pristine.device, torch.float32) for each in (update.up, update.down))
        factors = (down.T, up.T) if self._turned(module) else (up, down)
        merged = torch.addmm(pristine.float(), *factors, alpha=update.scale)
        return merged.to(pristine.dtype)

    def _placed(self, module: str, update: Update) -> Update:
        like = self._pristine[module]
        return Update(down=update.down.to(like), up=update.up.to(like), scale=update.scale)

    def _free_bytes(self) -> int:
        if self._device.type == "cuda":  # what torch keeps for itself and does not use is free, too
            kept = torch.cuda.memory_reserved(self._device)
            unused = kept - torch.cuda.memory_allocated(self._device)
            return torch.cuda.mem_get_info(self._device)[0] + unused
        return int(psutil.virtual_memory().available)


def _beside(update: Update) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ update.down.T) @ update.up.T * update.scale

    return add
