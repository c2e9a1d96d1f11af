"""Matrices laid out as the processor multiplies by them: oneDNN's blocked form, for bf16.

torch keeps a matrix row by row, and oneDNN lays it out anew for every product. With few tokens at a
time that takes about as long as the product itself; and one product takes less time than the two
or three of which it is made (docs/experiments.md). The operators are those that torch's own
compiler uses for weights that do not change; where they are missing or wrong, everything stays as
it was.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules side by side in a layer that multiply the same states, in the order they are asked in."""


def can_pack(module: nn.Module) -> bool:
    """Whether this is a module whose matrix can be laid out so."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.bfloat16
        and multiplies_bf16()
        and _works()
    )


def together(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The modules of these names, each once: those that multiply the same states in one group."""
    left = set(names)
    for name in names:
        layer, _, own = name.rpartition(".")
        group = next((each for each in TOGETHER if own in each), (own,))
        whole = tuple(f"{layer}.{each}" for each in group)
        if left.issuperset(whole):
            yield whole
            left.difference_update(whole)
        elif name in left:
            yield (name,)
            left.remove(name)


def laid_out(matrices: Sequence[Tensor]) -> Tensor:
    """One for all of these (outputs, inputs), for products with few rows."""
    matrix = matrices[0] if len(matrices) == 1 else torch.cat(list(matrices))
    blocked: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, 1)
    return blocked


class Packed:
    """Linear modules that multiply the same states, by one matrix that is laid out.

    Whoever is asked first multiplies for all of them, and the others take their parts of it. For
    one thread. There is no way back to training.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._sizes = [module.out_features for module in modules]
        self._bias = _joined_biases(modules)
        self._pristine = laid_out([module.weight for module in modules])
        self._matrix = self._pristine
        self._states: Tensor | None = None
        self._parts: dict[int, Tensor] = {}
        for number, module in enumerate(modules):
            module.forward = partial(self._part, number)
            module.packed = self

    def use(self, matrix: Tensor | None) -> None:
        """Multiply by this one from now on, or by what the modules came with."""
        self._matrix = self._pristine if matrix is None else matrix
        self._states, self._parts = None, {}

    def product(self, states: Tensor) -> Tensor:
        """What all of the modules make of these, side by side."""
        return _product(states, self._matrix, self._bias)

    def _part(self, number: int, states: Tensor) -> Tensor:
        if states is not self._states or number not in self._parts:
            product = self.product(states)
            parts = torch.split_with_sizes(product, self._sizes, dim=-1)
            self._states, self._parts = states, dict(enumerate(parts))
        part = self._parts.pop(number)
        if not self._parts:
            self._states = None
        return part


def side_by_side(modules: Sequence[Any], states: Tensor) -> Tensor:
    """What modules that multiply the same states make of them, in the modules' order."""
    packed = getattr(modules[0], "packed", None)
    if packed is None or any(
        getattr(module, "packed", None) is not packed or module._forward_hooks for module in modules
    ):
        return torch.cat([module(states) for module in modules], dim=-1)
    product: Tensor = packed.product(states)
    return product


def _joined_biases(modules: Sequence[Any]) -> Tensor | None:
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
    """Whether oneDNN does on this processor; torch's own products take ten times as long."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def _works() -> bool:
    """Whether this torch on this processor has the operators, and they multiply."""
    matrix = torch.linspace(-1, 1, 64 * 32).view(64, 32).bfloat16()
    states = torch.linspace(-1, 1, 3 * 32).view(1, 3, 32).bfloat16()
    try:
        product = _product(states, laid_out([matrix]), None)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, linear(states, matrix), rtol=0.02, atol=0.05)
