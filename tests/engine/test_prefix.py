"""Cached prefixes are not read again, and never serve another version."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import torch

from bot.engine.base import Completion, SamplingParams
from bot.engine.local.batch import Batch, Prefill
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.prefix import MIN_PREFIX_TOKENS, Layers, PrefixCache
from bot.engine.local.weights import Weights
from store.domain import Message
from tests.conftest import MakeAdapter

GREEDY = SamplingParams(max_new_tokens=12)
OPENING = "In a village by the river lived a baker who knew nothing of the sea."
LONG = list(range(3, 3 + 2 * MIN_PREFIX_TOKENS))


def layers(tokens: int) -> Layers:
    """Return the cache of one layer, 8 bytes a token."""
    return [(torch.zeros(1, 1, tokens, 1), torch.zeros(1, 1, tokens, 1))]


def test_a_prompt_goes_on_from_the_longest_beginning_of_the_same_version() -> None:
    cache = PrefixCache(10_000)
    cache.put("a1", LONG[:40], layers(40))
    cache.put("a1", [*LONG[:50], 999], layers(51))
    cache.put("a2", LONG, layers(len(LONG)))

    found = cache.find("a1", LONG)

    assert found is not None
    assert found.tokens == 50
    assert found.layers[0][0].shape == (1, 1, 50, 1)
    assert cache.find(None, LONG) is None


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    cache = PrefixCache(10_000)
    cache.put(None, LONG, layers(len(LONG)))

    found = cache.find(None, LONG)

    assert found is not None
    assert found.tokens == len(LONG) - 1


def test_what_saves_little_is_no_beginning() -> None:
    cache = PrefixCache(10_000)
    cache.put(None, LONG[: MIN_PREFIX_TOKENS - 1], layers(MIN_PREFIX_TOKENS - 1))

    assert cache.find(None, LONG) is None


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    one, two, three = ([start, *LONG[:39]] for start in (200, 201, 202))
    cache = PrefixCache(2 * 40 * 8)
    cache.put(None, one, layers(40))
    cache.put(None, two, layers(40))
    assert cache.find(None, [*one, 1])

    cache.put(None, three, layers(40))

    assert cache.bytes == 2 * 40 * 8
    assert cache.find(None, [*two, 1]) is None
    assert cache.find(None, [*one, 1])
    assert cache.find(None, [*three, 1])


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning() -> None:
    cache = PrefixCache(10_000)
    cache.put(None, LONG[:40], layers(40))

    cache.put(None, LONG[:50], layers(50))

    assert cache.bytes == 50 * 8


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    cache = PrefixCache(100)

    cache.put(None, LONG, layers(len(LONG)))

    assert (cache.bytes, cache.find(None, LONG)) == (0, None)


@pytest.mark.parametrize("tokens", [1, 7, 32, 4096])
def test_prompts_read_in_parts_are_answered_as_if_read_at_once(
    tiny_weights: Weights, tokens: int
) -> None:
    prompts = [LONG, LONG[:9], LONG[:3]]
    whole, parts = Batch(tiny_weights.model), Batch(tiny_weights.model)
    whole.join(prompts, [GREEDY] * 3)
    prefill = Prefill(tiny_weights.model, prompts, [GREEDY] * 3)
    while not prefill.advance(tokens):
        pass
    parts.join_prefilled(prefill)

    assert [whole.step() for _ in range(8)] == [parts.step() for _ in range(8)]


def asked(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant") * len(texts)
    return tuple(Message(role=role, content=text) for role, text in zip(roles, texts))  # noqa: B905


async def say(
    engine: LocalEngine, messages: tuple[Message, ...], adapter: str | None = None
) -> str:
    async with aclosing(engine.stream(messages, GREEDY, adapter=adapter)) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Completion)
    return items[-1].text


@pytest.fixture
async def remembering(tiny_weights: Weights) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(tiny_weights, prefix_bytes=10_000_000)
    yield engine
    await engine.close()


async def test_a_conversation_that_goes_on_is_answered_as_if_it_were_read_anew(
    remembering: LocalEngine, local_engine: LocalEngine
) -> None:
    first = asked(OPENING)
    reply = await say(remembering, first)
    second = asked(OPENING, reply, "and of what is it")

    again = await say(remembering, second)

    assert remembering.prefix_share > 0.3
    assert again == await say(local_engine, second)


async def test_another_version_reads_for_itself(
    remembering: LocalEngine, local_engine: LocalEngine, make_adapter: MakeAdapter
) -> None:
    question = asked("the the the capital of France is Paris is it the capital of France")
    adapter = make_adapter(remembering.model)
    for engine in (remembering, local_engine):
        await engine.load_adapter(adapter)
    await say(remembering, question)

    said = await say(remembering, question, adapter.name)

    assert remembering.prefix_share == 0
    assert said == await say(local_engine, question, adapter.name)
