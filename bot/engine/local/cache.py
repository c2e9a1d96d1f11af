"""The key-value cache of replies that are decoded together, with spare capacity.

transformers' own cache copies everything for every token; this one writes a token into its spare
capacity, and copies everything only when that is used up.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64
"""Least spare capacity; it is half of the tokens that are there, if that is more."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # of __init_subclass__
    """One layer's keys and values, each of shape (rows, heads, tokens, head size).

    `keys` and `values`, which transformers reads, are views of the used part of the buffers.
    """

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens to every row; return all keys and values."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
            self._replace(key_states, value_states)
            return self.keys, self.values
        used = self.keys.shape[2]
        end = used + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._replace(self.keys, self.values, more=key_states.shape[2])
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def append_rows(self, other: "GrowingLayer") -> None:
        """Append another layer's rows; the shorter of the two is padded on the left."""
        width = max(self.keys.shape[2], other.keys.shape[2])
        keys, values = (
            torch.cat([pad(each, (0, 0, width - each.shape[2], 0)) for each in pair])
            for pair in ((self.keys, other.keys), (self.values, other.values))
        )
        self._replace(keys, values)

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """Keep only these rows, and of them only the tokens in these columns."""
        keys, values = self.keys[rows], self.values[rows]
        if len(columns) < self.keys.shape[2]:
            keys, values = keys[:, :, columns], values[:, :, columns]
        self._replace(keys, values)

    def drop_last_tokens(self, tokens: int) -> None:
        """Drop this many of the last tokens of every row."""
        self.keys, self.values = self.keys[:, :, :-tokens], self.values[:, :, :-tokens]

    def gather_columns(self, columns: Tensor) -> None:
        """Keep each row's own columns, in this order; `columns` is (rows, tokens)."""
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        keys, values = (
            states.transpose(1, 2)[rows, columns].transpose(1, 2)
            for states in (self.keys, self.values)
        )
        self._replace(keys, values)

    def _replace(self, keys: Tensor, values: Tensor, *, more: int = 0) -> None:
        """Replace the content by a copy with capacity for it, `more` tokens and some spare."""
        used = keys.shape[2]
        capacity = used + more + max(SPARE_TOKENS, used // 2)
        self._buffers = (_with_capacity(keys, capacity), _with_capacity(values, capacity))
        self.keys, self.values = (buffer[:, :, :used] for buffer in self._buffers)


def new_cache() -> Cache:
    """Create an empty cache, for any model."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def layers_of(cache: Cache) -> Sequence[GrowingLayer]:
    """Return a cache's layers, first to last."""
    return cast(Sequence[GrowingLayer], cache.layers)


def _with_capacity(states: Tensor, capacity: int) -> Tensor:
    rows, heads, used, width = states.shape
    buffer = states.new_empty(rows, heads, capacity, width)
    buffer[:, :, :used] = states
    return buffer
