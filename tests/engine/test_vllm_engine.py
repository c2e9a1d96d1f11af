"""Replies go on when vLLM servers fail, in every way that servers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.tiny_models import make_tiny_model
from bot.engine.base import Completion, SamplingParams
from bot.engine.errors import (
    AdapterRefused,
    AdapterUnusable,
    EngineError,
    EngineStopped,
    EngineUnreachable,
    ModelUnusable,
)
from bot.engine.vllm.vllm_engine import VllmEngine
from bot.engine.vocabulary import Vocabulary, load_vocabulary
from store.domain import FinishReason, Message
from tests.conftest import MakeAdapter
from tests.telegram.running import eventually
from tests.vllm import FakeVllm, choice

HELLO = (Message(role="user", content="Hello there"),)
BRIEF = SamplingParams(max_new_tokens=8)
SOON = 0.05


@pytest.fixture
def vocabulary(tiny_model: Path, tmp_path: Path) -> Vocabulary:
    return load_vocabulary(str(tiny_model), models_folder=tmp_path)


@pytest.fixture
async def servers(vocabulary: Vocabulary) -> AsyncIterator[tuple[FakeVllm, FakeVllm]]:
    async with FakeVllm(vocabulary.tokenizer) as one, FakeVllm(vocabulary.tokenizer) as other:
        yield one, other


@asynccontextmanager
async def connected(vocabulary: Vocabulary, *servers: FakeVllm) -> AsyncIterator[VllmEngine]:
    engine = await VllmEngine.connect(
        vocabulary,
        [server.url for server in servers],
        silence_seconds=0.3,
        health_seconds=SOON,
    )
    try:
        yield engine
    finally:
        await engine.close()


async def complete(
    engine: VllmEngine, sampling: SamplingParams = BRIEF, adapter: str | None = None
) -> Completion:
    async with aclosing(engine.stream(HELLO, sampling, adapter=adapter)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                return piece
    raise AssertionError("no completion")


def written(vocabulary: Vocabulary, server: FakeVllm, model: str = "the-base") -> str:
    """Return the eight tokens that any of the servers would write by itself."""
    ids = vocabulary.template.encode(HELLO)
    start = len(ids)
    for _ in range(BRIEF.max_new_tokens):
        ids.append(server.next_token(model, ids, None))
    return str(vocabulary.tokenizer.decode(ids[start:]))


Pair = tuple[FakeVllm, FakeVllm]


@pytest.mark.bad_input("a vLLM server that dies mid-stream")
async def test_a_reply_that_breaks_off_is_gone_on_with_by_another(
    vocabulary: Vocabulary, servers: Pair
) -> None:
    async with connected(vocabulary, *servers) as engine:
        servers[0].breaks_after = 3

        completion = await complete(engine)

    assert completion.text == written(vocabulary, servers[0])
    assert completion.completion_tokens == BRIEF.max_new_tokens
    [rest] = servers[1].asked("/v1/completions")
    assert (len(rest["prompt"]), rest["max_tokens"]) == (completion.prompt_tokens + 3, 5)


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "EngineCore encountered an issue.", "code": 500}},
        {"choices": [choice([], "abort")]},
        {"choices": []},
    ],
    ids=["an error", "given up", "nothing"],
)
async def test_a_reply_that_a_server_gives_up_is_gone_on_with_by_another(
    vocabulary: Vocabulary, servers: Pair, event: dict[str, object]
) -> None:
    async with connected(vocabulary, *servers) as engine:
        servers[0].breaks_after, servers[0].breaks_with = 3, event

        completion = await complete(engine)

    assert completion.text == written(vocabulary, servers[0])
    assert len(servers[1].asked("/v1/completions")) == 1


async def test_a_server_that_comes_back_with_another_model_is_not_used(
    vocabulary: Vocabulary, servers: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_tiny_model(tmp_path / "other", corpus=["altogether different words"])
    other = load_vocabulary(str(folder), models_folder=tmp_path)
    async with connected(vocabulary, *servers) as engine:
        await servers[1].stop()
        await eventually(lambda: f"{servers[1].url} is lost" in caplog.text)
        servers[1].reads_like(other.tokenizer)
        await servers[1].start()
        servers[0].status = 500

        with pytest.raises(EngineUnreachable):
            await complete(engine)

    assert servers[1].asked("/v1/completions") == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("down", marks=pytest.mark.bad_input("a vLLM server that is down")),
        pytest.param("broken", marks=pytest.mark.bad_input("a vLLM server that answers 500")),
        pytest.param("silent", marks=pytest.mark.bad_input("a vLLM server that is slow")),
    ],
)
async def test_a_server_that_does_not_answer_is_passed_over(
    vocabulary: Vocabulary, servers: Pair, fault: str
) -> None:
    async with connected(vocabulary, *servers) as engine:
        match fault:
            case "down":
                await servers[0].stop()
            case "broken":
                servers[0].status = 500
            case _:
                servers[0].hold.clear()

        completion = await complete(engine)
        servers[0].hold.set()

    assert completion.text == written(vocabulary, servers[1])


@pytest.mark.bad_input("a vLLM server that answers 500")
async def test_with_no_server_left_the_reply_says_so(vocabulary: Vocabulary, servers: Pair) -> None:
    async with connected(vocabulary, *servers) as engine:
        for server in servers:
            server.status = 500

        with pytest.raises(EngineUnreachable, match=servers[1].url):
            await complete(engine)


async def test_a_server_that_comes_back_is_used_again(
    vocabulary: Vocabulary, servers: Pair
) -> None:
    async with connected(vocabulary, servers[0]) as engine:
        await servers[0].stop()
        with pytest.raises(EngineUnreachable):
            await complete(engine)
        await servers[0].start()

        assert (await complete(engine)).text == written(vocabulary, servers[0])


async def test_no_server_at_all_is_said_at_once(vocabulary: Vocabulary) -> None:
    with pytest.raises(EngineUnreachable, match="RATCHET_VLLM_URL"):
        await VllmEngine.connect(vocabulary, ["http://127.0.0.1:9"])


async def test_a_server_with_another_vocabulary_is_refused(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "other", corpus=["altogether different words"])
    other = load_vocabulary(str(folder), models_folder=tmp_path)

    async with FakeVllm(other.tokenizer) as server:
        with pytest.raises(ModelUnusable, match="in other tokens than RATCHET_MODEL"):
            await VllmEngine.connect(vocabulary, [server.url])


async def test_a_server_that_is_no_vllm_is_unreachable(vocabulary: Vocabulary) -> None:
    async with FakeVllm(vocabulary.tokenizer) as server:
        server.status = 403
        with pytest.raises(EngineUnreachable):
            await VllmEngine.connect(vocabulary, [server.url])


async def test_the_key_is_shown(vocabulary: Vocabulary) -> None:
    async with FakeVllm(vocabulary.tokenizer, key="open sesame") as server:
        with pytest.raises(EngineUnreachable):
            await VllmEngine.connect(vocabulary, [server.url])
        engine = await VllmEngine.connect(vocabulary, [server.url], key="open sesame")
        assert (await complete(engine)).finish_reason is FinishReason.LENGTH
        await engine.close()


async def test_the_smallest_context_of_all_holds(vocabulary: Vocabulary) -> None:
    async with (
        FakeVllm(vocabulary.tokenizer, context_tokens=64) as small,
        FakeVllm(vocabulary.tokenizer) as large,
        connected(vocabulary, large, small) as engine,
    ):
        completion = await complete(engine, SamplingParams(max_new_tokens=500))

    assert engine.context_tokens == 64
    assert completion.prompt_tokens + completion.completion_tokens == 64


async def test_an_adapter_is_loaded_on_every_server_by_its_name(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    async with connected(vocabulary, *servers) as engine:
        await engine.load_adapter(adapter)

        completion = await complete(engine, adapter=adapter.name)

    assert [server.adapters for server in servers] == [{adapter.name: adapter.path}] * 2
    assert completion.text == written(vocabulary, servers[0], adapter.name)


@pytest.mark.bad_input("a vLLM server that forgets its adapters")
async def test_a_server_that_was_started_anew_is_given_the_adapter_again(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    async with connected(vocabulary, servers[0]) as engine:
        await engine.load_adapter(adapter)
        servers[0].adapters.clear()

        found = await asyncio.gather(*(complete(engine, adapter=adapter.name) for _ in range(8)))

    assert {each.text for each in found} == {written(vocabulary, servers[0], adapter.name)}
    assert servers[0].adapters == {adapter.name: adapter.path}


async def test_a_server_that_was_down_is_given_the_adapter_when_it_is_back(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    async with connected(vocabulary, *servers) as engine:
        await servers[0].stop()
        await engine.load_adapter(adapter)
        await servers[0].start()
        await servers[1].stop()

        completion = await complete(engine, adapter=adapter.name)

    assert completion.text == written(vocabulary, servers[0], adapter.name)


async def test_what_is_loaded_already_is_not_loaded_again(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    for _ in range(2):
        async with connected(vocabulary, servers[0]) as engine:
            await engine.load_adapter(adapter)

    assert len(servers[0].asked("/v1/load_lora_adapter")) == 1


@pytest.mark.parametrize("status", [400, 500])
async def test_an_adapter_that_a_server_refuses_leaves_the_others_as_they_are(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter, status: int
) -> None:
    first, second = make_adapter(vocabulary.name), make_adapter(vocabulary.name, seed=2)
    async with connected(vocabulary, servers[0]) as engine:
        await engine.load_adapter(first)
        servers[0].load_status = status

        with pytest.raises(AdapterRefused, match="greater than max_lora_rank"):
            await engine.load_adapter(second)

        assert (await complete(engine, adapter=first.name)).adapter == first.name


async def test_a_server_that_refuses_an_adapter_is_passed_over_while_another_holds_it(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    servers[0].load_status = 404
    async with connected(vocabulary, *servers) as engine:
        await engine.load_adapter(adapter)

        completion = await complete(engine, adapter=adapter.name)

    assert completion.text == written(vocabulary, servers[1], adapter.name)


async def test_an_adapter_that_was_tampered_with_never_reaches_a_server(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    (Path(adapter.path) / "adapter_config.json").write_text("{}")
    async with connected(vocabulary, servers[0]) as engine:
        with pytest.raises(AdapterUnusable, match="changed after it was made"):
            await engine.load_adapter(adapter)

    assert servers[0].asked("/v1/load_lora_adapter") == []


async def test_an_adapter_that_many_ask_for_at_once_is_loaded_once(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    async with connected(vocabulary, servers[0]) as engine:
        await asyncio.gather(*(engine.load_adapter(adapter) for _ in range(8)))

    assert len(servers[0].asked("/v1/load_lora_adapter")) == 1


async def test_an_adapter_is_made_ready_beside_a_full_queue(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(vocabulary.name)
    engine = await VllmEngine.connect(vocabulary, [servers[0].url], queue_size=1)
    idle = engine.stream(HELLO, SamplingParams(max_new_tokens=200))
    await anext(idle)

    await engine.load_adapter(adapter)

    await idle.aclose()
    assert (await complete(engine, adapter=adapter.name)).adapter == adapter.name
    await engine.close()


async def test_adapters_of_long_ago_are_unloaded(
    vocabulary: Vocabulary, servers: Pair, make_adapter: MakeAdapter
) -> None:
    adapters = [make_adapter(vocabulary.name, seed=seed) for seed in range(4)]
    async with connected(vocabulary, *servers) as engine:
        for adapter in adapters:
            await engine.load_adapter(adapter)

    for server in servers:
        assert list(server.adapters) == [adapter.name for adapter in adapters[1:]]


async def test_replies_are_spread(vocabulary: Vocabulary, servers: Pair) -> None:
    async with connected(vocabulary, *servers) as engine:
        for server in servers:
            server.hold.clear()
        tasks = [asyncio.create_task(complete(engine)) for _ in range(6)]
        await eventually(lambda: sum(len(s.asked("/v1/completions")) for s in servers) == 6)
        for server in servers:
            server.hold.set()
        await asyncio.gather(*tasks)

    assert [len(server.asked("/v1/completions")) for server in servers] == [3, 3]


@pytest.mark.bad_input("a client that never reads its stream")
async def test_who_never_reads_a_reply_holds_nobody_up(
    vocabulary: Vocabulary, servers: Pair
) -> None:
    async with connected(vocabulary, servers[0]) as engine:
        idle = engine.stream(HELLO, SamplingParams(max_new_tokens=200))
        await anext(idle)

        completion = await complete(engine)
        await idle.aclose()

    assert completion.completion_tokens == BRIEF.max_new_tokens


async def test_a_reply_that_nobody_wants_any_more_is_given_up_on_the_server(
    vocabulary: Vocabulary, servers: Pair
) -> None:
    async with connected(vocabulary, servers[0]) as engine:
        stream = engine.stream(HELLO, SamplingParams(max_new_tokens=200))
        await anext(stream)
        servers[0].hold.clear()
        await stream.aclose()
        servers[0].hold.set()
        await eventually(lambda: not servers[0].open)


async def test_what_is_no_completion_is_an_error_and_no_silence(
    vocabulary: Vocabulary, servers: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(vocabulary, servers[0]) as engine:
        monkeypatch.setattr(servers[0], "next_token", lambda *_: None)

        with pytest.raises(EngineError):
            await complete(engine)


async def test_a_reply_under_way_ends_when_the_engine_closes(
    vocabulary: Vocabulary, servers: Pair
) -> None:
    async with connected(vocabulary, servers[0]) as engine:
        servers[0].hold.clear()
        waiting = asyncio.create_task(complete(engine))
        await asyncio.sleep(0.05)
        await engine.close()
        servers[0].hold.set()

        with pytest.raises(EngineStopped):
            await waiting
