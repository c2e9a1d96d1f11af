"""The KV cache equals transformers' own, however it has grown."""

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bot.engine.local.cache import SPARE_TOKENS, layers_of, new_cache

ROWS, HEADS, SIZE = 2, 3, 4


def states(tokens: int, seed: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    keys, values = torch.randn(2, rows, HEADS, tokens, SIZE)
    return keys, values


@pytest.mark.parametrize("first", [1, SPARE_TOKENS * 3])
def test_it_grows_as_transformers_own_does(first: int) -> None:
    ours, theirs = new_cache(), DynamicCache()

    for seed, tokens in enumerate((first, *[1] * (SPARE_TOKENS + 2), 5)):
        mine = ours.update(*states(tokens, seed), 0)
        its = theirs.update(*states(tokens, seed), 0)

    assert all(torch.equal(*pair) for pair in zip(mine, its, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_token_is_written_into_the_room_that_is_there() -> None:
    cache = new_cache()
    before, _ = cache.update(*states(3, 0), 0)

    after, _ = cache.update(*states(1, 1), 0)

    assert after.data_ptr() == before.data_ptr()


def test_rows_that_join_are_flush_to_the_right() -> None:
    one, other = new_cache(), new_cache()
    long, _ = one.update(*states(5, 0), 0)
    short, _ = other.update(*states(2, 1), 0)

    layers_of(one)[0].append_rows(layers_of(other)[0])

    keys = layers_of(one)[0].keys
    assert torch.equal(keys[:ROWS], long)
    assert torch.equal(keys[ROWS:, :, 3:], short)
    assert not keys[ROWS:, :, :3].any()


def test_tokens_that_are_dropped_make_room_for_others() -> None:
    ours, theirs = new_cache(), new_cache()
    ours.update(*states(5, 0), 0)
    ours.update(*states(3, 1), 0)
    layers_of(ours)[0].drop_last_tokens(3)
    theirs.update(*states(5, 0), 0)

    pairs = (cache.update(*states(2, 2), 0) for cache in (ours, theirs))

    assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))


def test_each_rows_tokens_are_arranged_for_itself() -> None:
    cache = new_cache()
    before, _ = cache.update(*states(5, 0), 0)
    before = before.clone()

    layers_of(cache)[0].gather_columns(torch.tensor([[0, 2, 4], [3, 0, 1]]))
    after, _ = cache.update(*states(1, 1), 0)

    assert torch.equal(after[0, :, :3], before[0][:, [0, 2, 4]])
    assert torch.equal(after[1, :, :3], before[1][:, [3, 0, 1]])
    assert torch.equal(after[:, :, 3:], states(1, 1)[0])


def test_rows_that_stay_go_on_growing() -> None:
    cache = new_cache()
    before, _ = cache.update(*states(5, 0), 0)
    before = before.clone()

    layers_of(cache)[0].select(torch.tensor([1]), torch.tensor([0, 2, 4]))
    after, _ = cache.update(*states(1, 1, rows=1), 0)

    assert torch.equal(after[:, :, :3], before[1:, :, [0, 2, 4]])
    assert after.shape == (1, HEADS, 4, SIZE)
