"""Attention computed in parts equals torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bot.engine.local import attention
from bot.engine.local.attention import additive_mask, blockwise_attention, decode_attention

ROWS, HEADS, SHARED, SIZE = 3, 4, 2, 8


@pytest.mark.parametrize("few", [1, 7, 40, 500, 2**21])
@pytest.mark.parametrize(("tokens", "before"), [(6, 0), (5, 4)], ids=["anew", "going on"])
def test_whatever_fits_at_a_time_the_same_is_found(
    few: int, tokens: int, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK_SCORES", few)
    torch.manual_seed(0)
    width = before + tokens
    query = torch.randn(ROWS, HEADS, tokens, SIZE)
    room = torch.randn(2, ROWS, HEADS // SHARED, width + 5, SIZE)  # as a cache has
    key, value = room[:, :, :, :width]
    mask = torch.ones(tokens, width, dtype=torch.bool).tril(before).repeat(ROWS, 1, 1, 1)
    mask[0, ..., :2] = mask[1, ..., 3] = False  # padding on the left, and in the middle
    mask[..., before:] |= torch.eye(tokens, dtype=torch.bool)

    found = blockwise_attention(query, key, value, additive_mask(mask, query.dtype), scaling=0.3)

    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))


@pytest.mark.parametrize("many", [1, 1000], ids=["products", "kernel"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_few_tokens_find_what_many_find(
    tokens: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MATMUL_MIN_KEYS", many)
    torch.manual_seed(0)
    query = torch.randn(ROWS, HEADS, tokens, SIZE).bfloat16()
    key, value = torch.randn(2, ROWS, HEADS // SHARED, 9, SIZE).bfloat16()
    mask = torch.ones(tokens, 9, dtype=torch.bool).tril(9 - tokens).repeat(ROWS, 1, 1, 1)
    mask[0, ..., :3] = mask[1, ..., 2] = False

    found = decode_attention(query, key, value, additive_mask(mask, query.dtype), scaling=0.3)

    expected = scaled_dot_product_attention(
        *(query.float(), key.float(), value.float()), attn_mask=mask, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found.float(), expected.transpose(1, 2), rtol=0.02, atol=0.02)
