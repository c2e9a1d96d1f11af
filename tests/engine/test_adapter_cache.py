"""A few adapters are kept loaded; one that answers somebody is not dropped."""

import pytest

from bot.engine.adapter_cache import ADAPTERS_HELD, AdapterCache
from bot.engine.errors import AdapterNotLoaded
from tests.records import make_adapter

ADAPTERS = [make_adapter(name=f"a{number}") for number in range(ADAPTERS_HELD + 1)]
*FIRST, NEWEST = ADAPTERS


@pytest.fixture
def full() -> AdapterCache:
    cache = AdapterCache()
    assert [cache.put(each, ()) for each in FIRST] == [[]] * ADAPTERS_HELD
    return cache


def test_the_one_used_longest_ago_leaves(full: AdapterCache) -> None:
    full.use("a0")

    assert full.put(NEWEST, ()) == ["a1"]
    with pytest.raises(AdapterNotLoaded, match="a1"):
        full.use("a1")


def test_none_leaves_that_somebody_is_answered_with(full: AdapterCache) -> None:
    assert full.put(NEWEST, {"a0", "a1", None}) == ["a2"]


def test_where_all_are_in_use_one_more_is_held(full: AdapterCache) -> None:
    assert full.put(NEWEST, {each.name for each in FIRST}) == []
    assert all(each.name in full for each in ADAPTERS)


def test_the_base_model_needs_no_place() -> None:
    assert AdapterCache().use(None) is None
