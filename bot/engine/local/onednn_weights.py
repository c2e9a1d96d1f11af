"""Weights packed for the processor: bf16 matrices in oneDNN's blocked layout.

torch keeps a matrix row by row, and oneDNN reorders it anew for every product. With few tokens at a
time that takes about as long as the product itself; and one product is faster than the two or three
of which it is made (docs/experiments.md, 2026-11-21 and 2026-11-22). The operators are those that
torch's own compiler uses for constant weights; where they are missing or wrong, nothing is packed.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules of a layer that multiply the same input, in the order in which they are called."""


def can_pack(module: nn.Module) -> bool:
    """Return whether a module's matrix can be packed."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.bfloat16
        and multiplies_bf16()
        and _operators_work()
    )


def group_by_input(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield every module name once, those that multiply the same input in one group."""
    left = set(names)
    for name in names:
        layer, _, own = name.rpartition(".")
        group = next((each for each in SHARED_INPUT if own in each), (own,))
        whole = tuple(f"{layer}.{each}" for each in group)
        if left.issuperset(whole):
            yield whole
            left.difference_update(whole)
        elif name in left:
            yield (name,)
            left.remove(name)


def pack(matrices: Sequence[Tensor]) -> Tensor:
    """Pack matrices (outputs, inputs) into one in blocked layout, for products with few rows."""
    matrix = matrices[0] if len(matrices) == 1 else torch.cat(list(matrices))
    blocked: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, 1)
    return blocked


class PackedLinears:
    """Linear modules that multiply the same input, computed by one packed matrix.

    The first module that is called computes for all of them, and the others take their parts of
    that product. For one thread. The modules cannot be trained afterwards.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._sizes = [module.out_features for module in modules]
        self._bias = _concatenate_biases(modules)
        self._pristine = pack([module.weight for module in modules])
        self._matrix = self._pristine
        self._states: Tensor | None = None
        self._parts: dict[int, Tensor] = {}
        for number, module in enumerate(modules):
            module.forward = partial(self._part, number)
            module.packed = self

    def set_matrix(self, matrix: Tensor | None) -> None:
        """Multiply by this packed matrix from now on; by the modules' own for None."""
        self._matrix = self._pristine if matrix is None else matrix
        self._states, self._parts = None, {}

    def product(self, states: Tensor) -> Tensor:
        """Compute the outputs of all modules, concatenated."""
        return _product(states, self._matrix, self._bias)

    def _part(self, number: int, states: Tensor) -> Tensor:
        """Return one module's output; the last part taken frees the product."""
        if states is not self._states or number not in self._parts:
            product = self.product(states)
            parts = torch.split_with_sizes(product, self._sizes, dim=-1)
            self._states, self._parts = states, dict(enumerate(parts))
        part = self._parts.pop(number)
        if not self._parts:
            self._states = None
        return part


def concatenated_outputs(modules: Sequence[Any], states: Tensor) -> Tensor:
    """Return the outputs of modules for the same input, concatenated in the modules' order."""
    packed = getattr(modules[0], "packed", None)
    if packed is None or any(
        getattr(module, "packed", None) is not packed or module._forward_hooks for module in modules
    ):
        return torch.cat([module(states) for module in modules], dim=-1)
    product: Tensor = packed.product(states)
    return product


def _concatenate_biases(modules: Sequence[Any]) -> Tensor | None:
    if all(module.bias is None for module in modules):
        return None
    return torch.cat(
        [
            module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
            for module in modules
        ]
    )


def _product(states: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, matrix, bias, "none", [], "")
    return product


@cache
def multiplies_bf16() -> bool:
    """Return whether oneDNN multiplies bf16 here; torch's own products take ten times as long."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def _operators_work() -> bool:
    """Return whether this torch has the operators and they multiply right on this processor."""
    matrix = torch.linspace(-1, 1, 64 * 32).view(64, 32).bfloat16()
    states = torch.linspace(-1, 1, 3 * 32).view(1, 3, 32).bfloat16()
    try:
        product = _product(states, pack([matrix]), None)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, linear(states, matrix), rtol=0.02, atol=0.05)
