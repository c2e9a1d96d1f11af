"""Matrices laid out as the processor multiplies by them: oneDNN's blocked form, for bf16.

torch keeps a matrix row by row, and oneDNN lays it out anew for every product. With few tokens at a
time that takes about as long as the product itself (docs/experiments.md). The operators are those
that torch's own compiler uses for weights that do not change; where they are missing or wrong,
everything stays as it was.
"""

from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def can_pack(module: nn.Module) -> bool:
    """Whether this is a module whose matrix can be laid out so."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.bfloat16
        and _works()
    )


def packed(matrix: Tensor) -> Tensor:
    """The same matrix (outputs, inputs), laid out for products with few rows."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, 1)
    return laid_out


def multiply_by_packed(module: Any) -> None:
    """Have a linear module multiply by its attribute `packed`. There is no way back to training."""
    module.forward = MethodType(_forward, module)


def _forward(module: Any, states: Tensor) -> Tensor:
    return _product(states, module.packed, module.bias)


def _product(states: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, matrix, bias, "none", [], "")
    return product


@cache
def _works() -> bool:
    """Whether this torch on this processor has the operators, and they multiply."""
    matrix = torch.linspace(-1, 1, 64 * 32).view(64, 32).bfloat16()
    states = torch.linspace(-1, 1, 3 * 32).view(1, 3, 32).bfloat16()
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        product = _product(states, packed(matrix), None)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, linear(states, matrix), rtol=0.02, atol=0.05)
