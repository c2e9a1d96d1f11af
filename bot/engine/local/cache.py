"""The key-value cache of replies that are written side by side, with room to grow.

transformers' own copies all of it for every token; here a token is written into room that is kept,
and the whole is copied only when the room is used up.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64
"""Room that is kept at least; half as much again as there is, if that is more."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # of __init_subclass__
    """One layer's part, of shape (rows, heads, tokens, head size) for keys and for values alike.

    `keys` and `values` are what transformers looks at: views of the part of the room that is used.
    """

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Let new tokens follow, for every row."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
            self._fill(key_states, value_states)
            return self.keys, self.values
        used = self.keys.shape[2]
        end = used + key_states.shape[2]
        if end > self._room[0].shape[2]:
            self._fill(self.keys, self.values, more=key_states.shape[2])
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, used:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def join(self, other: "RoomyLayer") -> None:
        """Let another's rows come after these; the shorter of the two is padded on the left."""
        width = max(self.keys.shape[2], other.keys.shape[2])
        self._fill(
            *(
                torch.cat([pad(each, (0, 0, width - each.shape[2], 0)) for each in pair])
                for pair in ((self.keys, other.keys), (self.values, other.values))
            )
        )

    def keep(self, rows: Tensor, columns: Tensor) -> None:
        """Let go of all other rows, and of the tokens in all other columns."""
        every = len(columns) == self.keys.shape[2]
        keys, values = self.keys[rows], self.values[rows]
        self._fill(*((keys, values) if every else (keys[:, :, columns], values[:, :, columns])))

    def drop_last(self, tokens: int) -> None:
        """Let go of so many tokens of every row, the last ones."""
        self.keys, self.values = self.keys[:, :, :-tokens], self.values[:, :, :-tokens]

    def arrange(self, columns: Tensor) -> None:
        """Keep of each row the tokens in these columns, in this order; (rows, tokens)."""
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        keys, values = (
            states.transpose(1, 2)[rows, columns].transpose(1, 2)
            for states in (self.keys, self.values)
        )
        self._fill(keys, values)

    def _fill(self, keys: Tensor, values: Tensor, *, more: int = 0) -> None:
        """Take these for all that there is, into room for them and for some more."""
        used = keys.shape[2]
        size = used + more + max(SPARE_TOKENS, used // 2)
        self._room = (_roomy(keys, size), _roomy(values, size))
        self.keys, self.values = (room[:, :, :used] for room in self._room)


def new_cache() -> Cache:
    """An empty one, for any model."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def layers_of(cache: Cache) -> Sequence[RoomyLayer]:
    """Its layers, first to last."""
    return cast(Sequence[RoomyLayer], cache.layers)


def _roomy(states: Tensor, size: int) -> Tensor:
    rows, heads, used, width = states.shape
    room = states.new_empty(rows, heads, size, width)
    room[:, :, :used] = states
    return room
