"""The local engine's own promises: what is generated, and how adapters change it."""

import asyncio
import json
import shutil
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bot.engine.base import Completion, SamplingParams
from bot.engine.errors import AdapterRefused, AdapterUnusable, EngineError, EngineStopped
from bot.engine.local import local_engine
from bot.engine.local.batch import PREFILL_TOKENS, Prefill
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.merged_weights import Group, MergedWeights, WeightSet
from bot.engine.local.prefix import PrefixCache
from bot.engine.local.scheduler import Scheduler
from bot.engine.local.weights import Weights
from bot.engine.lora import Update
from bot.engine.request import Request
from store.adapters import hash_adapter
from store.domain import Adapter, FinishReason, Message
from tests.conftest import MakeAdapter

HELLO = (Message(role="user", content="What is the capital of France?"),)
GREEDY = SamplingParams(max_new_tokens=24)


async def complete(
    engine: LocalEngine, sampling: SamplingParams = GREEDY, adapter: str | None = None
) -> Completion:
    async with aclosing(engine.stream(HELLO, sampling, adapter=adapter)) as stream:
        items = [item async for item in stream]
    assert isinstance(items[-1], Completion)
    return items[-1]


def generated_by_transformers(weights: Weights, tokens: int) -> str:
    prompt = torch.tensor([weights.template.encode(HELLO)])
    output = weights.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False
    )
    text = weights.tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


async def test_greedy_text_is_what_transformers_generates(
    local_engine: LocalEngine, tiny_weights: Weights
) -> None:
    completion = await complete(local_engine)

    assert completion.text == generated_by_transformers(tiny_weights, 24)


async def test_a_reply_ends_at_the_models_end_token(
    tiny_weights: Weights, local_engine: LocalEngine
) -> None:
    first = tiny_weights.tokenizer.encode((await complete(local_engine)).text)[0]
    engine = LocalEngine(replace(tiny_weights, end_tokens=frozenset({first})))

    completion = await complete(engine)
    await engine.close()

    assert (completion.text, completion.completion_tokens) == ("", 0)
    assert completion.finish_reason is FinishReason.STOP


async def test_other_seeds_draw_other_replies(local_engine: LocalEngine) -> None:
    drawn = {
        (await complete(local_engine, replace(GREEDY, temperature=1.5, seed=seed))).text
        for seed in range(4)
    }

    assert len(drawn) > 1


async def test_a_repetition_penalty_makes_a_reply_repeat_itself_less(
    local_engine: LocalEngine,
) -> None:
    def distinct(completion: Completion) -> int:
        return len(set(completion.text))

    plain = await complete(local_engine, replace(GREEDY, max_new_tokens=100))
    penalised = await complete(
        local_engine, replace(GREEDY, max_new_tokens=100, repetition_penalty=2.0)
    )

    assert distinct(penalised) > distinct(plain)


async def test_an_adapter_changes_the_reply_and_leaves_the_base_as_it_was(
    local_engine: LocalEngine, make_adapter: MakeAdapter
) -> None:
    before = await complete(local_engine)
    one, two = (make_adapter(local_engine.model, seed=seed) for seed in (1, 2))
    await local_engine.load_adapter(one)
    await local_engine.load_adapter(two)

    with_one = await complete(local_engine, adapter=one.name)
    with_two = await complete(local_engine, adapter=two.name)
    after = await complete(local_engine)

    assert len({before.text, with_one.text, with_two.text}) == 3
    assert after.text == before.text


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("truncated", marks=pytest.mark.bad_input("an adapter with a truncated file")),
        pytest.param("missing", marks=pytest.mark.bad_input("an adapter with a missing file")),
        pytest.param("foreign", marks=pytest.mark.bad_input("an adapter with a foreign file")),
        pytest.param("no config", marks=pytest.mark.bad_input("an adapter with a missing file")),
    ],
)
async def test_a_damaged_adapter_is_refused_and_the_engine_goes_on(
    local_engine: LocalEngine, make_adapter: MakeAdapter, damage: str
) -> None:
    adapter = make_adapter(local_engine.model)
    weights = Path(adapter.path) / "adapter_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "missing":
        weights.unlink()
    elif damage == "foreign":
        weights.write_text("not safetensors at all")
    else:
        (weights.parent / "adapter_config.json").unlink()
    if damage in ("truncated", "foreign"):  # made like that, not changed afterwards
        adapter = replace(adapter, sha256=hash_adapter(weights.parent))

    with pytest.raises(AdapterRefused, match=adapter.name):
        await local_engine.load_adapter(adapter)

    assert (await complete(local_engine)).adapter is None


async def test_an_adapter_whose_files_were_changed_is_refused(
    local_engine: LocalEngine, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(local_engine.model)
    config = Path(adapter.path) / "adapter_config.json"
    config.write_text(config.read_text() + "\n")

    with pytest.raises(AdapterRefused, match="changed after it was made"):
        await local_engine.load_adapter(adapter)


async def test_an_adapter_of_other_shapes_is_refused(
    local_engine: LocalEngine, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(local_engine.model)
    config = Path(adapter.path) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 8}))
    adapter = replace(adapter, sha256=hash_adapter(config.parent))

    with pytest.raises(AdapterRefused, match=adapter.name):
        await local_engine.load_adapter(adapter)


async def test_an_adapter_is_loaded_once(
    local_engine: LocalEngine, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(local_engine.model)
    await local_engine.load_adapter(adapter)
    shutil.rmtree(adapter.path)

    await local_engine.load_adapter(adapter)

    assert (await complete(local_engine, adapter=adapter.name)).adapter == adapter.name


async def test_the_event_loop_goes_on_while_the_engine_works(local_engine: LocalEngine) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.ensure_future(tick())
    await complete(local_engine, replace(GREEDY, max_new_tokens=150))
    ticking.cancel()

    assert ticks > 10


async def test_a_failing_model_fails_the_reply_and_not_the_engine(
    local_engine: LocalEngine, tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr("bot.engine.local.step._LlamaForwardPass.__call__", fail)
        with pytest.raises(EngineError, match="RuntimeError"):
            await complete(local_engine)

    assert (await complete(local_engine)).completion_tokens == 24


async def test_an_adapter_that_many_ask_for_at_once_is_merged_once(
    local_engine: LocalEngine, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    merge_stepwise = MergedWeights.merge_stepwise

    def counted(
        self: MergedWeights, name: str, updates: Mapping[str, Update]
    ) -> Generator[None, None, WeightSet]:
        made.append(name)
        return merge_stepwise(self, name, updates)

    monkeypatch.setattr(MergedWeights, "merge_stepwise", counted)
    adapter = make_adapter(local_engine.model)

    await asyncio.gather(*(local_engine.load_adapter(adapter) for _ in range(8)))

    assert made == [adapter.name]


async def test_while_adapters_come_and_go_replies_say_what_they_say_alone(
    tiny_weights: Weights, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "SLICE_SECONDS", 0)  # a matrix at a time
    monkeypatch.setattr(local_engine, "SMOKE_TOKENS", 1)
    done = []
    work, go_on = Scheduler.work, local_engine._run_slice

    def step(self: Scheduler) -> None:
        if not self.idle:
            done.append("step")
        work(self)

    def some(task: Iterator[None]) -> bool:
        done.append("slice")
        return go_on(task)

    monkeypatch.setattr(local_engine, "_run_slice", some)
    monkeypatch.setattr(Scheduler, "work", step)
    engine = LocalEngine(replace(tiny_weights, end_tokens=frozenset()))
    first, second = (make_adapter(engine.model, seed=seed) for seed in (1, 2))
    await engine.load_adapter(first)
    long = SamplingParams(max_new_tokens=150)
    alone = [(await complete(engine, long, adapter=name)).text for name in (None, first.name)]
    done.clear()

    base, adapted, _ = await asyncio.gather(
        complete(engine, long), complete(engine, long, first.name), engine.load_adapter(second)
    )
    await engine.close()

    assert [base.text, adapted.text] == alone
    assert done.count("slice") > 10
    assert ("slice", "slice") not in pairwise(done)


async def test_of_things_to_do_one_is_done_between_two_steps(
    local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    work = Scheduler.work
    busy, go = threading.Event(), threading.Event()

    def step(self: Scheduler) -> None:
        done.append("step")
        busy.set()
        go.wait(5)
        work(self)

    monkeypatch.setattr(Scheduler, "work", step)
    writing = asyncio.create_task(complete(local_engine))
    await asyncio.to_thread(busy.wait, 5)
    things = [
        asyncio.create_task(local_engine._run_between_steps(partial(done.append, "thing")))
        for _ in range(2)
    ]
    await asyncio.sleep(0)  # both are asked for
    go.set()
    await asyncio.gather(writing, *things)

    assert done.count("thing") == 2
    assert ("thing", "thing") not in pairwise(done)


async def test_a_load_that_is_cancelled_leaves_nothing(
    tiny_weights: Weights, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "SLICE_SECONDS", 0)
    monkeypatch.setattr(local_engine, "SMOKE_TOKENS", 1)
    engine = LocalEngine(tiny_weights)
    adapter = make_adapter(engine.model)
    smoked = threading.Event()
    smoking = LocalEngine._smoke_test

    def seen(self: LocalEngine, name: str) -> Iterator[None]:
        for _ in smoking(self, name):
            smoked.set()
            yield

    with monkeypatch.context() as watched:
        watched.setattr(LocalEngine, "_smoke_test", seen)
        loading = asyncio.create_task(engine.load_adapter(adapter))
        await asyncio.to_thread(smoked.wait, 5)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    base = await complete(engine)

    assert adapter.name not in tiny_weights.merged._held
    await engine.load_adapter(adapter)
    adapted = await complete(engine, adapter=adapter.name)
    again = await complete(engine)
    await engine.close()
    assert adapted.text != base.text == again.text


async def test_closing_ends_a_load_in_its_middle(
    tiny_weights: Weights, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(tiny_weights)
    begun, go = threading.Event(), threading.Event()
    merged = MergedWeights._merge_group

    def slow(self: MergedWeights, group: Group, updates: Mapping[str, Update]) -> Tensor:
        begun.set()
        go.wait(5)
        return merged(self, group, updates)

    monkeypatch.setattr(local_engine, "SLICE_SECONDS", 0)
    monkeypatch.setattr(MergedWeights, "_merge_group", slow)
    loading = asyncio.create_task(engine.load_adapter(make_adapter(engine.model)))
    await asyncio.to_thread(begun.wait, 5)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)  # it is told to stop
    go.set()

    await closing
    with pytest.raises(EngineStopped):
        await loading


async def test_threads_that_compute_beside_the_engines_are_gone(
    tiny_weights: Weights, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[threading.Thread] = []
    pack, read = MergedWeights.pack, local_engine.read_adapter

    def packing(self: MergedWeights) -> None:
        computed.append(threading.current_thread())
        pack(self)

    def reading(adapter: Adapter, *, model: str) -> dict[str, Update]:
        computed.append(threading.current_thread())
        return read(adapter, model=model)

    monkeypatch.setattr(MergedWeights, "pack", packing)
    monkeypatch.setattr(local_engine, "read_adapter", reading)
    engine = LocalEngine(tiny_weights)
    await engine.load_adapter(make_adapter(tiny_weights.name))
    await engine.close()

    assert len(computed) == 2
    assert not any(thread.is_alive() for thread in computed)


async def test_an_adapter_that_there_is_no_memory_for_is_refused(
    local_engine: LocalEngine, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(local_engine.model)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as broken:
        broken.setattr(MergedWeights, "_merge_group", fail)
        with pytest.raises(AdapterRefused, match=f"{adapter.name} cannot be loaded"):
            await local_engine.load_adapter(adapter)

    await local_engine.load_adapter(adapter)
    assert (await complete(local_engine, adapter=adapter.name)).adapter == adapter.name


async def test_an_adapter_that_says_nothing_is_unusable(
    tiny_weights: Weights, make_adapter: MakeAdapter
) -> None:
    engine = LocalEngine(
        replace(tiny_weights, end_tokens=frozenset(range(len(tiny_weights.tokenizer))))
    )

    with pytest.raises(AdapterUnusable, match="says nothing"):
        await engine.load_adapter(make_adapter(engine.model))
    await engine.close()


async def test_a_prompt_that_there_is_no_room_for_fails_alone(
    local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as broken:
        broken.setattr("bot.engine.local.scheduler.Prefill", fail)
        with pytest.raises(EngineError, match="OutOfMemoryError"):
            await complete(local_engine)

    assert (await complete(local_engine)).completion_tokens == 24


async def test_when_its_thread_dies_nobody_waits_for_ever(
    local_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Scheduler) -> None:
        raise MemoryError

    monkeypatch.setattr(Scheduler, "work", die)

    for _ in range(2):  # the one that it happened to, and the next
        with pytest.raises(EngineStopped):
            await complete(local_engine)


async def test_a_short_prompt_does_not_wait_until_a_long_one_is_read(
    tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.local.scheduler.PREFILL_SLICE_TOKENS", 8)
    engine = LocalEngine(tiny_weights)
    long, short = (
        [Message(role="user", content="What is the capital of France? " * times)]
        for times in (12, 1)
    )
    begun, ended = asyncio.Event(), []

    async def ask(name: str, prompt: Sequence[Message], tokens: int) -> None:
        async with aclosing(engine.stream(prompt, SamplingParams(max_new_tokens=tokens))) as stream:
            async for _ in stream:
                begun.set()
        ended.append(name)

    running = asyncio.create_task(ask("running", short, 100))
    async with asyncio.timeout(30):
        await begun.wait()
    await asyncio.gather(ask("long", long, 1), ask("short", short, 1))
    await running
    await engine.close()

    assert ended.index("short") < ended.index("long")


async def test_while_others_are_answered_a_prompt_is_read_a_little_at_a_time(
    tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.local.scheduler.PREFILL_SLICE_TOKENS", 4)
    portions = []

    class Noted(Prefill):
        def advance(self, tokens: int = PREFILL_TOKENS) -> bool:
            portions.append(tokens)
            return super().advance(tokens)

    monkeypatch.setattr("bot.engine.local.scheduler.Prefill", Noted)
    scheduler = Scheduler(
        replace(tiny_weights, end_tokens=frozenset()),
        places=16,
        prefixes=PrefixCache(0),
        on_end=lambda _request, _last: None,
    )
    for _ in range(2):
        scheduler.add(
            Request(
                prompt=list(range(5, 25)),
                sampling=SamplingParams(max_new_tokens=20),
                adapter=None,
                loop=asyncio.get_running_loop(),
            )
        )
        scheduler.work()
    while not scheduler.idle:
        scheduler.work()

    assert portions == [PREFILL_TOKENS, 4, 4, 4, 4, 4]
