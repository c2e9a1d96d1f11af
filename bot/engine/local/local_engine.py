"""The engine on this machine: a model of transformers, owned by one thread.

The event loop hands requests to the thread through a bounded queue and gets pieces of text back; it
never waits on a tensor. Adapters are loaded in slices between the thread's decode steps: two
threads that compute on the same cores take several times as long as one after the other.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import TypeAlias, TypeVar

import torch

from bot.engine.adapter_cache import AdapterCache
from bot.engine.base import SMOKE_PROMPT, Completion, SamplingParams
from bot.engine.errors import (
    AdapterRefused,
    AdapterUnusable,
    EngineBusy,
    EngineError,
    EngineStopped,
    PromptTooLong,
)
from bot.engine.local.batch import Prefill
from bot.engine.local.prefix import PrefixCache
from bot.engine.local.scheduler import Scheduler
from bot.engine.local.weights import Weights
from bot.engine.lora import Update, read_adapter
from bot.engine.request import Piece, Request
from store.domain import Adapter, Message
from store.threads import run_in_short_lived_thread

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.005
"""Wait this long for more requests after the first reaches an idle engine, so that prompts are
prefilled together."""

SLICE_SECONDS = 0.01
"""Time per decode step spent on loading an adapter. May overrun by one matrix, the smallest
unit."""

SMOKE_TOKENS = 16
"""Smoke-prompt tokens prefilled between two decode steps."""

T = TypeVar("T")
_Task: TypeAlias = Callable[[], None]


class LocalEngine:
    """An `Engine` over weights in this process. It packs them, so they cannot be trained again.

    Up to `batch_size` replies are decoded at once; up to `queue_size` are decoded or wait. Up to
    `prefix_bytes` hold keys and values of earlier conversations, for those that go on. Up to
    `draft_tokens` of a reply are drafted at a time.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        queue_size: int = 64,
        batch_size: int = 16,
        prefix_bytes: int = 0,
        draft_tokens: int = 0,
    ) -> None:
        run_in_short_lived_thread(weights.merged.pack)
        self._weights = weights
        self._queue_size = queue_size
        self._adapters = AdapterCache()
        # One place more than replies, so that an adapter can be loaded behind a full queue.
        self._tasks: queue.Queue[_Task | Request] = queue.Queue(queue_size + 1)
        self._open: dict[int, Request] = {}
        """Requests that have not ended, by `id`."""
        self._prefixes = PrefixCache(prefix_bytes)
        self._scheduler = Scheduler(
            weights,
            places=batch_size,
            prefixes=self._prefixes,
            on_end=self._end,
            draft_tokens=draft_tokens,
        )
        self._stopping = threading.Event()
        self._enqueue_lock = threading.Lock()
        """Guards enqueueing against shutdown."""
        self._thread = threading.Thread(target=self._run, name="ratchet-engine", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self._weights.name

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and reply may have together."""
        return self._weights.context_tokens

    @property
    def unmerged(self) -> frozenset[str]:
        """See `Engine.unmerged`."""
        return self._weights.merged.unmerged

    @property
    def prefix_share(self) -> float:
        """Share of all prompt tokens so far that were found in the prefix cache."""
        return self._prefixes.reused_tokens / max(1, self._prefixes.prompt_tokens)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """See `Engine.count_tokens`."""
        return len(self._weights.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._weights.template.encode, messages)
        async with aclosing(self._submit(prompt, sampling, adapter).stream()) as pieces:
            async for piece in pieces:
                yield piece

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`."""
        if adapter.name in self._adapters:
            return
        async with self._adapters.loading:
            if adapter.name in self._adapters:
                return
            reading = partial(read_adapter, adapter, model=self.model)
            updates = await asyncio.to_thread(run_in_short_lived_thread, reading)
            await self._merge_adapter(adapter.name, updates)
            in_use = {request.adapter for request in list(self._open.values())}
            for name in self._adapters.put(adapter, in_use):
                await self._run_between_steps(partial(self._drop_adapter, name))

    async def close(self) -> None:
        """See `Engine.close`."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 30)

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> Request:
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        self._adapters.use(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        loop = asyncio.get_running_loop()
        room = min(sampling.max_new_tokens, self.context_tokens - len(prompt))
        limited = replace(sampling, max_new_tokens=room)  # drafts stop there, too
        request = Request(prompt=prompt, sampling=limited, adapter=adapter, loop=loop)
        self._open[id(request)] = request
        try:
            self._enqueue(request)
        except EngineError:
            del self._open[id(request)]
            raise
        return request

    async def _merge_adapter(self, name: str, updates: Mapping[str, Update]) -> None:
        """Merge and test an adapter, a slice between every two steps. Raises `EngineError`."""
        work = self._merging(name, updates)
        try:
            while await self._run_between_steps(partial(_run_slice, work)):
                pass
        except asyncio.CancelledError:
            with suppress(EngineError):
                self._enqueue(partial(self._drop_adapter, name))  # after a slice in progress
            raise

    async def _run_between_steps(self, task: Callable[[], T]) -> T:
        """Have the engine's thread run a task and return its result. Raises `EngineError`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                if self._stopping.is_set():
                    raise EngineStopped
                settle = partial(done.set_result, task())
            except EngineError as expected:
                settle = partial(done.set_exception, expected)
            except Exception as failure:  # edge: the load fails, the engine goes on
                logger.exception("the model failed with an adapter")
                refused = AdapterRefused(f"the model fails with it: {failure}")
                settle = partial(done.set_exception, refused)
            loop.call_soon_threadsafe(_settle_unless_done, done, settle)

        self._enqueue(work)
        return await done

    def _enqueue(self, task: "_Task | Request") -> None:
        with self._enqueue_lock:
            if self._stopping.is_set():
                raise EngineStopped
            try:
                self._tasks.put_nowait(task)
            except queue.Full:
                raise EngineBusy(self._tasks.qsize()) from None

    def _run(self) -> None:
        """Run the engine's thread."""
        try:
            while not self._stopping.is_set():
                self._take_tasks()
                self._scheduler.work()
        except Exception:  # edge: the outermost of this thread
            logger.exception("the engine's thread died")
        with self._enqueue_lock:  # nothing is enqueued any more
            self._stopping.set()
        while not self._tasks.empty():
            self._take_tasks()  # each task sees that the engine stops, and raises EngineStopped
        for request in list(self._open.values()):
            self._end(request, EngineStopped())

    def _take_tasks(self) -> None:
        """Take the queued requests and run one task; if the engine is idle, wait a moment first."""
        wait = self._scheduler.idle and not self._stopping.is_set()
        with suppress(queue.Empty):
            task = self._tasks.get(timeout=0.2) if wait else self._tasks.get_nowait()
            if wait and isinstance(task, Request):
                time.sleep(GATHER_SECONDS)
            while isinstance(task, Request):
                self._scheduler.add(task)
                task = self._tasks.get_nowait()
            task()  # one task only: the next waits for the next step

    def _end(self, request: Request, last: Piece | None) -> None:
        self._open.pop(id(request), None)  # first, so that its place is free when it is heard of
        if last is not None:
            request.send(last)

    def _merging(self, name: str, updates: Mapping[str, Update]) -> Iterator[None]:
        """Merge an adapter and run the smoke test, step by step; hold it if both succeed."""
        try:
            weights = yield from self._weights.merged.merge_stepwise(name, updates)
        except (RuntimeError, MemoryError) as error:
            raise AdapterRefused(f"{name} cannot be loaded: {error}") from error
        self._weights.merged.add(name, weights)
        try:
            yield from self._smoke_test(name)
        except Exception:  # whatever failed, nothing of the adapter stays
            self._drop_adapter(name)
            raise

    def _drop_adapter(self, name: str) -> None:
        self._weights.merged.switch_to(None)  # each step switches to its own
        self._weights.merged.remove(name)
        self._prefixes.drop(name)

    @torch.inference_mode()
    def _smoke_test(self, name: str) -> Iterator[None]:
        """Prefill the smoke prompt, a slice per step. Raises `AdapterUnusable`."""
        prompt = self._weights.template.encode(SMOKE_PROMPT)
        self._weights.merged.switch_to(name)
        prefill = Prefill(self._weights.model, [prompt], [SamplingParams()])
        while not prefill.advance(SMOKE_TOKENS):
            yield
            self._weights.merged.switch_to(name)
        [logits] = prefill.logits
        if not bool(torch.isfinite(logits).all()):
            raise AdapterUnusable(f"with {name} the model produces NaN or infinite logits")
        if int(logits.argmax()) in self._weights.end_tokens:
            raise AdapterUnusable(f"{name} says nothing to the smoke prompt")


def _run_slice(work: Iterator[None]) -> bool:
    """Run steps for about `SLICE_SECONDS`; return whether any may be left."""
    until = time.perf_counter() + SLICE_SECONDS
    for _ in work:  # noqa: SIM110  # `any` would hide that this does the work
        if time.perf_counter() >= until:
            return True
    return False


def _settle_unless_done(done: "asyncio.Future[T]", settle: Callable[[], None]) -> None:
    if not done.done():  # its waiter may have been cancelled
        settle()
