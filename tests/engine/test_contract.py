"""Contract of every engine, run over the real ones and over the fake that stands for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from bot.engine.adapter_cache import ADAPTERS_HELD
from bot.engine.base import Completion, Engine, SamplingParams
from bot.engine.errors import (
    AdapterNotLoaded,
    AdapterRefused,
    EngineBusy,
    EngineStopped,
    PromptTooLong,
)
from bot.reports.metrics import Metered, Metrics
from store.domain import FinishReason, Message
from tests.conftest import MakeAdapter
from tests.fakes import FakeEngine

HELLO = (Message(role="system", content="Be brief."), Message(role="user", content="Hello there"))
BRIEF = SamplingParams(max_new_tokens=8)
LONG = SamplingParams(max_new_tokens=10_000)


@pytest.fixture
async def fake_engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(lambda messages: "word " * 5000, context_tokens=256, queue_size=4)
    yield engine
    await engine.close()


@pytest.fixture
def metered_engine(fake_engine: FakeEngine) -> Metered:
    return Metered(fake_engine, Metrics())


@pytest.fixture(params=["local_engine", "vllm_engine", "fake_engine", "metered_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return each implementation, with room for four replies."""
    implementation: Engine = request.getfixturevalue(request.param)
    return implementation


async def complete(
    engine: Engine,
    sampling: SamplingParams = BRIEF,
    messages: tuple[Message, ...] = HELLO,
    adapter: str | None = None,
) -> tuple[list[str], Completion]:
    """Return a reply's pieces and its completion."""
    async with aclosing(engine.stream(messages, sampling, adapter=adapter)) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Completion)
    return [item for item in items if isinstance(item, str)], items[-1]


async def exhaust(stream: AsyncIterator[str | Completion]) -> None:
    async for _ in stream:
        await asyncio.sleep(0)


async def test_the_pieces_joined_are_the_completion(engine: Engine) -> None:
    pieces, completion = await complete(engine)

    assert "".join(pieces) == completion.text
    assert len(pieces) > 1


async def test_a_reply_keeps_to_its_token_limit(engine: Engine) -> None:
    _, completion = await complete(engine, SamplingParams(max_new_tokens=3))

    assert completion.completion_tokens == 3
    assert completion.finish_reason is FinishReason.LENGTH


async def test_prompt_tokens_are_what_the_engine_counts(engine: Engine) -> None:
    _, completion = await complete(engine)

    assert completion.prompt_tokens == engine.count_tokens(HELLO)


async def test_a_longer_prompt_counts_more_tokens(engine: Engine) -> None:
    longer = (*HELLO, Message(role="user", content="And more of it"))

    assert engine.count_tokens(longer) > engine.count_tokens(HELLO)


async def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(engine: Engine) -> None:
    endless = (Message(role="user", content="word " * 5000),)

    with pytest.raises(PromptTooLong) as refused:
        await complete(engine, messages=endless)

    assert refused.value.prompt_tokens > refused.value.limit == engine.context_tokens - 1


@pytest.mark.bad_input("a prompt of exactly the context length")
async def test_a_prompt_with_room_for_one_token_is_answered_with_one(engine: Engine) -> None:
    prompts = [
        (Message(role="user", content="a " * words + end),)
        for words in range(engine.context_tokens)
        for end in ("", "b", "b.")
    ]
    by_tokens = {engine.count_tokens(each): each for each in prompts}

    _, completion = await complete(engine, LONG, messages=by_tokens[engine.context_tokens - 1])
    assert completion.prompt_tokens == engine.context_tokens - 1
    assert completion.completion_tokens <= 1
    with pytest.raises(PromptTooLong):
        await complete(engine, messages=by_tokens[engine.context_tokens])


async def test_a_reply_that_outgrows_the_context_is_cut_there(engine: Engine) -> None:
    _, completion = await complete(engine, LONG)

    assert completion.prompt_tokens + completion.completion_tokens <= engine.context_tokens


async def test_the_same_seed_draws_the_same_reply(engine: Engine) -> None:
    sampling = SamplingParams(temperature=1.0, top_p=0.9, seed=7, max_new_tokens=12)

    first, second = await complete(engine, sampling), await complete(engine, sampling)

    assert first[1].text == second[1].text


async def test_an_adapter_that_is_not_loaded_is_named(engine: Engine) -> None:
    with pytest.raises(AdapterNotLoaded, match="a9-deadbeef"):
        await complete(engine, adapter="a9-deadbeef")


async def test_a_reply_names_the_adapter_it_was_written_with(
    engine: Engine, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(engine.model)
    await engine.load_adapter(adapter)

    _, with_adapter = await complete(engine, adapter=adapter.name)
    _, without = await complete(engine)

    assert (with_adapter.adapter, without.adapter) == (adapter.name, None)


async def test_the_adapter_used_longest_ago_makes_room(
    engine: Engine, make_adapter: MakeAdapter
) -> None:
    first, second, *others = (
        make_adapter(engine.model, seed=number) for number in range(ADAPTERS_HELD + 1)
    )
    await engine.load_adapter(first)
    await engine.load_adapter(second)
    await complete(engine, adapter=first.name)
    for each in others:
        await engine.load_adapter(each)

    assert (await complete(engine, adapter=first.name))[1].adapter == first.name
    with pytest.raises(AdapterNotLoaded, match=second.name):
        await complete(engine, adapter=second.name)


@pytest.mark.bad_input("an adapter of another base model")
async def test_another_models_adapter_is_refused(engine: Engine, make_adapter: MakeAdapter) -> None:
    with pytest.raises(AdapterRefused, match="trained on another"):
        await engine.load_adapter(make_adapter("another"))


async def test_a_caller_that_goes_away_frees_the_engine(engine: Engine) -> None:
    async with aclosing(engine.stream(HELLO, LONG)) as stream:
        await anext(stream)

    async with asyncio.timeout(5):
        _, completion = await complete(engine)

    assert completion.completion_tokens == BRIEF.max_new_tokens


async def test_a_full_queue_says_how_many_wait(engine: Engine) -> None:
    streams = [engine.stream(HELLO, LONG) for _ in range(4)]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await waiting[0]

    with pytest.raises(EngineBusy) as busy:
        await complete(engine)

    assert busy.value.waiting == 4
    for task, stream in zip(waiting, streams, strict=True):
        task.cancel()
        await asyncio.wait([task])
        await stream.aclose()


async def test_replies_asked_for_at_once_all_come(engine: Engine) -> None:
    replies = await asyncio.gather(*(complete(engine) for _ in range(4)))

    assert [completion.completion_tokens for _, completion in replies] == [8, 8, 8, 8]


async def test_a_reply_under_way_when_the_engine_closes_ends_with_engine_stopped(
    engine: Engine,
) -> None:
    async with aclosing(engine.stream(HELLO, LONG)) as stream:
        await anext(stream)
        closing = asyncio.ensure_future(engine.close())

        with pytest.raises(EngineStopped):
            await exhaust(stream)
    await closing


async def test_a_closed_engine_answers_no_more(engine: Engine) -> None:
    await engine.close()

    with pytest.raises(EngineStopped):
        await complete(engine)
