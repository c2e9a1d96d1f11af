"""A cache of the activations below an adapter: the frozen layers compute each batch once.

Only the last layers are trained (`Recipe.layers`), so the layers before them return the
same for a batch every time: for the reference model, for the distillation penalty, in every epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bot.engine.local import LLAMA_SHAPED, has_full_attention

CACHE_BYTES = 2**30
"""Size limit of the cache; batches beyond it are computed each time."""

Forward: TypeAlias = Callable[..., Any]


@contextmanager
def cached_frozen_layers(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Cache the output of the first `count` layers for the block.

    Has no effect on models that are not Llama-shaped, whose layers may take different inputs.
    """
    if count == 0 or type(model) not in LLAMA_SHAPED or not has_full_attention(model):
        yield
        return
    decoder: Any = model.model
    layers: Sequence[nn.Module] = decoder.layers[:count]
    cache = _ActivationCache()
    forwards = [layer.forward for layer in layers]
    for number, (layer, forward) in enumerate(zip(layers, forwards, strict=True)):
        layer.forward = cache.around(forward, first=number == 0, last=number == count - 1)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the method of the class


class _ActivationCache:
    """Outputs of the last frozen layer by batch.

    Passes must not overlap: the first layer sets the key that the later layers use.
    """

    def __init__(self) -> None:
        self._outputs: dict[bytes, Tensor] = {}
        self._free_bytes = CACHE_BYTES
        self._key: bytes | None = None

    def around(self, forward: Forward, *, first: bool, last: bool) -> Forward:
        """Wrap a layer's forward pass; on a cache hit only the last layer does anything."""

        def cached(hidden: Tensor, *inputs: Any, **options: Any) -> Any:
            if first:
                self._key = _key(hidden, options)
            if self._key is None:
                return forward(hidden, *inputs, **options)
            if self._key in self._outputs:
                return self._outputs[self._key] if last else hidden
            found = forward(hidden, *inputs, **options)
            if last and found.nbytes <= self._free_bytes:
                self._outputs[self._key] = found
                self._free_bytes -= found.nbytes
            return found

        return cached


def _key(hidden: Tensor, options: dict[str, Any]) -> bytes | None:
    """Return a digest of all inputs that the layers' output depends on; None for "do not cache".

    Not cached are passes with a KV cache, passes that need a gradient of the input, and passes in
    inference mode, whose tensors autograd cannot use later.
    """
    if (
        options.get("past_key_values") is not None
        or hidden.requires_grad
        or torch.is_inference_mode_enabled()
    ):
        return None
    inputs = [hidden, options["position_ids"]]
    if options.get("attention_mask") is not None:
        inputs.append(options["attention_mask"])
    digest = blake2b()
    for each in inputs:
        digest.update(f"{each.dtype}{tuple(each.shape)}".encode())
        digest.update(each.detach().contiguous().view(torch.uint8).cpu().numpy())
    return digest.digest()
