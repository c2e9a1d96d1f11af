"""Beginnings of conversations that the model has read already, so that it need not read them again.

A conversation's next prompt begins with what its last one held, and all begin with the same system
prompt. What the model made of them is kept under the version that read it, so a swap can never
serve what another version thought; bounded in bytes; the one used longest ago goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

LEAST_SAVED = 32
"""Tokens: a prompt that goes on from a beginning is read by itself, others side by side."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both of shape (1, heads, tokens, head size)."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A beginning of a prompt, read."""

    tokens: int
    layers: Layers


class PrefixCache:
    """Beginnings, up to `limit_bytes` of them. For one thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[str | None, tuple[int, ...]], Layers] = OrderedDict()
        self.bytes = 0
        self.asked = 0
        """Prompt tokens that had to be read."""
        self.saved = 0
        """Of these, tokens that were there already."""

    def find(self, adapter: str | None, prompt: Sequence[int]) -> Prefix | None:
        """The longest beginning of a prompt that this version has read; never all of it."""
        self.asked += len(prompt)
        best, key = 0, None
        for each in self._kept:
            if each[0] == adapter and (same := common(each[1], prompt)) > best:
                best, key = same, each
        best = min(best, len(prompt) - 1)  # the last token's scores are wanted
        if key is None or best < LEAST_SAVED:
            return None
        self._kept.move_to_end(key)
        self.saved += best
        cut = [(keys[:, :, :best], values[:, :, :best]) for keys, values in self._kept[key]]
        return Prefix(tokens=best, layers=cut)

    def keep(self, adapter: str | None, tokens: Sequence[int], layers: Layers) -> None:
        """Keep what a version made of these tokens, in place of shorter beginnings of the same."""
        if _size(layers) > self.limit_bytes:
            return
        new = (adapter, tuple(tokens))
        for key in [key for key in self._kept if key[0] == adapter]:
            if common(key[1], new[1]) == len(key[1]):
                self._drop(key)
        self._kept[new] = layers
        self.bytes += _size(layers)
        while self.bytes > self.limit_bytes:
            self._drop(next(iter(self._kept)))

    def forget(self, adapter: str) -> None:
        """Let go of everything that a version has read."""
        for key in [key for key in self._kept if key[0] == adapter]:
            self._drop(key)

    def _drop(self, key: tuple[str | None, tuple[int, ...]]) -> None:
        self.bytes -= _size(self._kept.pop(key))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other)  # noqa: B905  # of different lengths
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _size(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)
