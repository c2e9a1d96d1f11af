"""The prefix cache: keys and values of earlier conversations, so that they are not prefilled again.

A conversation's next prompt begins with what its last one held, and all begin with the same system
prompt. Entries belong to the adapter version that computed them, so a swap never serves another
version's; they are bounded in bytes, and the least recently used one goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

MIN_PREFIX_TOKENS = 32
"""Shortest prefix that is used: a prompt with a prefix is prefilled alone, others together."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both of shape (1, heads, tokens, head size)."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prefix of a prompt, prefilled already."""

    tokens: int
    layers: Layers


class PrefixCache:
    """Prefixes of at most `limit_bytes` together. For one thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[tuple[str | None, tuple[int, ...]], Layers] = OrderedDict()
        self.bytes = 0
        self.prompt_tokens = 0
        """Tokens of all prompts that were looked up."""
        self.reused_tokens = 0
        """Tokens of these that were found in the cache."""

    def find(self, adapter: str | None, prompt: Sequence[int]) -> Prefix | None:
        """Return the longest cached prefix of a prompt for this version; never all of it."""
        self.prompt_tokens += len(prompt)
        best, key = 0, None
        for each in self._entries:
            if each[0] == adapter and (same := common_prefix_length(each[1], prompt)) > best:
                best, key = same, each
        best = min(best, len(prompt) - 1)  # the last token's logits are needed
        if key is None or best < MIN_PREFIX_TOKENS:
            return None
        self._entries.move_to_end(key)
        self.reused_tokens += best
        cut = [(keys[:, :, :best], values[:, :, :best]) for keys, values in self._entries[key]]
        return Prefix(tokens=best, layers=cut)

    def put(self, adapter: str | None, tokens: Sequence[int], layers: Layers) -> None:
        """Store a version's keys and values for these tokens; replaces prefixes of them."""
        if _size(layers) > self.limit_bytes:
            return
        new = (adapter, tuple(tokens))
        for key in [key for key in self._entries if key[0] == adapter]:
            if common_prefix_length(key[1], new[1]) == len(key[1]):
                self._remove(key)
        self._entries[new] = layers
        self.bytes += _size(layers)
        while self.bytes > self.limit_bytes:
            self._remove(next(iter(self._entries)))

    def drop(self, adapter: str) -> None:
        """Remove everything that a version computed."""
        for key in [key for key in self._entries if key[0] == adapter]:
            self._remove(key)

    def _remove(self, key: tuple[str | None, tuple[int, ...]]) -> None:
        self.bytes -= _size(self._entries.pop(key))


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens with which both begin."""
    pairs = zip(one, other)  # noqa: B905  # of different lengths
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _size(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)
