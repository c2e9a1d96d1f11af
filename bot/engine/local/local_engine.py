"""The engine on this machine: a model of transformers, with one thread that owns it.

The event loop hands requests to the thread through a bounded queue and gets pieces of text back;
it never waits on a tensor. An adapter is got ready a little at a time, between the thread's steps:
two threads that compute on the same cores take several times as long as one after the other.
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
from bot.engine.local.batch import Reading
from bot.engine.local.prefix import PrefixCache
from bot.engine.local.scheduler import Scheduler
from bot.engine.local.weights import Weights
from bot.engine.lora import Update, read_adapter
from bot.engine.request import Piece, Request
from store.domain import Adapter, Message
from store.threads import run_in_short_lived_thread

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.005
"""After the first that comes when nobody is answered: prompts are best read side by side."""

SLICE_SECONDS = 0.01
"""How long those who are being answered wait, each step, while an adapter is got ready: about so
long, for no matrix is divided."""

SMOKE_TOKENS = 16
"""Of the smoke prompt, that are read between two steps."""

T = TypeVar("T")
_Task: TypeAlias = Callable[[], None]


class LocalEngine:
    """An `Engine` over weights in this process, which it makes its own: they train no more.

    Up to `batch_size` replies are written at once; up to `queue_size` are written or wait. Up to
    `prefix_bytes` hold what was read before, for conversations that go on. Up to `draft_tokens` of
    a reply are drafted at a time.
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
        run_in_short_lived_thread(weights.sets.pack)
        self._weights = weights
        self._queue_size = queue_size
        self._shelf = AdapterCache()
        # One place more than replies, so that an adapter can be loaded behind a full queue.
        self._tasks: queue.Queue[_Task | Request] = queue.Queue(queue_size + 1)
        self._open: dict[int, Request] = {}
        """Every request that has not ended."""
        self._prefixes = PrefixCache(prefix_bytes)
        self._scheduler = Scheduler(
            weights,
            places=batch_size,
            prefixes=self._prefixes,
            end=self._end,
            draft_tokens=draft_tokens,
        )
        self._stopping = threading.Event()
        self._gate = threading.Lock()
        """Held to let something in, and to close."""
        self._thread = threading.Thread(target=self._work, name="ratchet-engine", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        """The base model's name."""
        return self._weights.name

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self._weights.context_tokens

    @property
    def unmerged(self) -> frozenset[str]:
        """See `Engine.unmerged`."""
        return self._weights.sets.unmerged

    @property
    def prefix_share(self) -> float:
        """Share of the prompt tokens so far that had been read before."""
        return self._prefixes.saved / max(1, self._prefixes.asked)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make."""
        return len(self._weights.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._weights.template.encode, messages)
        async with aclosing(self._submit(prompt, sampling, adapter).answers()) as pieces:
            async for piece in pieces:
                yield piece

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`."""
        if adapter.name in self._shelf:
            return
        async with self._shelf.loading:
            if adapter.name in self._shelf:
                return
            reading = partial(read_adapter, adapter, model=self.model)
            updates = await asyncio.to_thread(run_in_short_lived_thread, reading)
            await self._take_in(adapter.name, updates)
            answered = {request.adapter for request in list(self._open.values())}
            for name in self._shelf.put(adapter, answered):
                await self._between_steps(partial(self._drop, name))

    async def close(self) -> None:
        """See `Engine.close`."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 30)

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> Request:
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        self._shelf.use(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        loop = asyncio.get_running_loop()
        room = min(sampling.max_new_tokens, self.context_tokens - len(prompt))
        limited = replace(sampling, max_new_tokens=room)  # drafts stop there, too
        request = Request(prompt=prompt, sampling=limited, adapter=adapter, loop=loop)
        self._open[id(request)] = request
        try:
            self._put(request)
        except EngineError:
            del self._open[id(request)]
            raise
        return request

    async def _take_in(self, name: str, updates: Mapping[str, Update]) -> None:
        """Get an adapter ready, a little between every two steps. Raises `EngineError`."""
        taking = self._taking_in(name, updates)
        try:
            while await self._between_steps(partial(_go_on, taking)):
                pass
        except asyncio.CancelledError:
            with suppress(EngineError):
                self._put(partial(self._drop, name))  # after what may be under way
            raise

    async def _between_steps(self, task: Callable[[], T]) -> T:
        """Have the engine's thread do something. Raises `EngineError`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                if self._stopping.is_set():
                    raise EngineStopped
                settle = partial(done.set_result, task())
            except EngineError as expected:
                settle = partial(done.set_exception, expected)
            except Exception as failure:  # whatever it makes the model do, the engine goes on
                logger.exception("an adapter made the model fail")
                refused = AdapterRefused(f"the model fails with it: {failure}")
                settle = partial(done.set_exception, refused)
            loop.call_soon_threadsafe(_settle, done, settle)

        self._put(work)
        return await done

    def _put(self, task: "_Task | Request") -> None:
        with self._gate:
            if self._stopping.is_set():
                raise EngineStopped
            try:
                self._tasks.put_nowait(task)
            except queue.Full:
                raise EngineBusy(self._tasks.qsize()) from None

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._take_tasks()
                self._scheduler.work()
        except Exception:  # the outermost edge of this thread
            logger.exception("the engine's thread died")
        with self._gate:  # nothing comes in any more
            self._stopping.set()
        while not self._tasks.empty():
            self._take_tasks()  # each sees that the engine stops, and says so
        for request in list(self._open.values()):
            self._end(request, EngineStopped())

    def _take_tasks(self) -> None:
        """The requests that have come in, and one thing to do; else wait a moment for either."""
        wait = self._scheduler.idle and not self._stopping.is_set()
        with suppress(queue.Empty):
            task = self._tasks.get(timeout=0.2) if wait else self._tasks.get_nowait()
            if wait and isinstance(task, Request):
                time.sleep(GATHER_SECONDS)
            while isinstance(task, Request):
                self._scheduler.add(task)
                task = self._tasks.get_nowait()
            task()  # one only: what follows from it waits for the next step

    def _end(self, request: Request, last: Piece | None) -> None:
        self._open.pop(id(request), None)  # before anybody hears of it and asks for more
        if last is not None:
            request.give(last)

    def _taking_in(self, name: str, updates: Mapping[str, Update]) -> Iterator[None]:
        """Add an adapter into a set of its own, and hold it if it answers the smoke prompt."""
        try:
            weights = yield from self._weights.sets.making(name, updates)
        except (RuntimeError, MemoryError) as error:
            raise AdapterRefused(f"{name} cannot be loaded: {error}") from error
        self._weights.sets.hold(name, weights)
        try:
            yield from self._smoking(name)
        except Exception:
            self._drop(name)
            raise

    def _drop(self, name: str) -> None:
        self._weights.sets.use(None)  # each step takes its own
        self._weights.sets.drop(name)
        self._prefixes.forget(name)

    @torch.inference_mode()
    def _smoking(self, name: str) -> Iterator[None]:
        prompt = self._weights.template.encode(SMOKE_PROMPT)
        self._weights.sets.use(name)
        reading = Reading(self._weights.model, [prompt], [SamplingParams()])
        while not reading.advance(SMOKE_TOKENS):
            yield
            self._weights.sets.use(name)
        [logits] = reading.logits
        if not bool(torch.isfinite(logits).all()):
            raise AdapterUnusable(f"{name} answers with what is no number")
        if int(logits.argmax()) in self._weights.end_tokens:
            raise AdapterUnusable(f"{name} says nothing to the smoke prompt")


def _go_on(work: Iterator[None]) -> bool:
    """Do some more of it; whether there is any left."""
    until = time.perf_counter() + SLICE_SECONDS
    return any(time.perf_counter() >= until for _ in work)


def _settle(done: "asyncio.Future[T]", settle: Callable[[], None]) -> None:
    if not done.done():  # nobody may wait for it any more
        settle()
