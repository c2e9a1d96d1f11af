"""What the layers below an adapter make of a batch, worked out once.

Only the last layers learn (`Recipe.layers`), so what comes before them is the same whenever
a batch is seen: by the reference, by the base that is held on to, and in every epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bot.engine.local import LLAMA_SHAPED, has_full_attention

ROOM_BYTES = 2**30
"""Kept at most; what comes later is worked out each time."""

Forward = Callable[..., Any]


@contextmanager
def frozen_layers_once(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Meanwhile the first `count` layers compute a batch only when they see it first.

    For models in the shape of Llama, whose layers are all given the same; others compute as ever.
    """
    if count == 0 or type(model) not in LLAMA_SHAPED or not has_full_attention(model):
        yield
        return
    inside: Any = model.model
    layers: Sequence[nn.Module] = inside.layers[:count]
    memory = _Memory()
    forwards = [layer.forward for layer in layers]
    for number, (layer, forward) in enumerate(zip(layers, forwards, strict=True)):
        layer.forward = memory.around(forward, first=number == 0, last=number == count - 1)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own comes back


class _Memory:
    """One pass after another goes through the layers, from the first to the last."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Tensor] = {}
        self._room = ROOM_BYTES
        self._key: bytes | None = None

    def around(self, forward: Forward, *, first: bool, last: bool) -> Forward:
        """A layer's forward pass; with what is known, nothing happens until the last layer."""

        def remembering(hidden: Tensor, *inputs: Any, **named: Any) -> Any:
            if first:
                self._key = _key(hidden, named)
            if self._key is None:
                return forward(hidden, *inputs, **named)
            if self._key in self._kept:
                return self._kept[self._key] if last else hidden
            found = forward(hidden, *inputs, **named)
            if last and found.nbytes <= self._room:
                self._kept[self._key] = found
                self._room -= found.nbytes
            return found

        return remembering


def _key(hidden: Tensor, named: dict[str, Any]) -> bytes | None:
    """All that the layers' answer depends on; None for a pass that has to be gone through.

    That is one that goes on from a cache, or that a gradient flows through, or in which nothing
    can be made that a gradient will need.
    """
    if (
        named.get("past_key_values") is not None
        or hidden.requires_grad
        or torch.is_inference_mode_enabled()
    ):
        return None
    digest = blake2b()
    mask = named.get("attention_mask")
    for each in (hidden, named["position_ids"], *(() if mask is None else (mask,))):
        digest.update(f"{each.dtype}{tuple(each.shape)}".encode())
        digest.update(each.detach().contiguous().view(torch.uint8).cpu().numpy())
    return digest.digest()
