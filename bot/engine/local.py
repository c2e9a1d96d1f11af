"""The engine on this machine: transformers and PEFT, with one thread that owns the model.

The event loop hands requests to the thread through a bounded queue and gets pieces of text back;
it never waits on a tensor. Requests with the same adapter are written side by side: they join as
they come, first come, first served, and leave when they are done.
"""

import asyncio
import logging
import queue
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bot.engine.base import Completion, SamplingParams
from bot.engine.batch import Batch
from bot.engine.detokenizer import Detokenizer
from bot.engine.errors import (
    AdapterNotLoaded,
    AdapterRefused,
    EngineBusy,
    EngineError,
    EngineStopped,
    PromptTooLong,
)
from bot.engine.weights import Weights
from store.adapters import hash_adapter
from store.domain import Adapter, FinishReason, Message

logger = logging.getLogger(__name__)

JOINING = 8
"""Where many wait, an eighth of the places is filled at a time."""

Piece: TypeAlias = str | Completion | EngineError

ADAPTERS_HELD = 8
"""Adapters kept ready at once; the one that was used longest ago makes room."""


@dataclass(kw_only=True, eq=False)
class _Request:
    """A reply that is wanted. `pieces` holds at most one entry a token, so it is bounded."""

    prompt: list[int]
    sampling: SamplingParams
    adapter: str | None
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece]" = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def give(self, piece: Piece) -> None:
        """Hand a piece to the event loop, from the engine's thread."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.cancelled.set()


_Task: TypeAlias = Callable[[], None]


@dataclass(kw_only=True, eq=False)
class _Writing:
    """A reply that is being written: a row of a batch."""

    request: _Request
    detokenizer: Detokenizer
    limit: int
    text: str = ""
    count: int = 0

    def show(self, piece: str) -> None:
        """Hand on what has become readable."""
        if piece:
            self.text += piece
            self.request.give(piece)


class LocalEngine:
    """An `Engine` over weights in this process.

    Up to `batch_size` replies are written at once; up to `queue_size` are written or wait.
    """

    def __init__(self, weights: Weights, *, queue_size: int = 64, batch_size: int = 16) -> None:
        self._weights = weights
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._adapters: OrderedDict[str, None] = OrderedDict()
        """What is loaded, in the order of last use."""
        # One place more than replies, so that an adapter can be loaded behind a full queue.
        self._tasks: queue.Queue[_Task | _Request] = queue.Queue(queue_size + 1)
        self._open: dict[int, _Request] = {}
        """Every request that has not ended."""
        self._waiting: deque[_Request] = deque()
        self._batches: dict[str | None, tuple[Batch, list[_Writing]]] = {}
        self._stopping = threading.Event()
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

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make."""
        return len(self._weights.template.encode(messages))

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        prompt = await asyncio.to_thread(self._weights.template.encode, messages)
        request = self._submit(prompt, sampling, adapter)
        try:
            while True:
                piece = await request.pieces.get()
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            request.cancelled.set()

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`."""
        if adapter.name in self._adapters:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def load() -> None:
            error: EngineError | None = None
            try:
                self._attach(adapter)
            except EngineError as refused:
                error = refused
            except Exception as failure:  # whatever a file makes PEFT do, the engine goes on
                logger.exception("an adapter failed to load")
                error = AdapterRefused(f"{adapter.name} cannot be loaded: {failure}")
            loop.call_soon_threadsafe(_settle, done, error)

        self._put(load)
        await done

    async def close(self) -> None:
        """See `Engine.close`."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 30)

    def _submit(self, prompt: list[int], sampling: SamplingParams, adapter: str | None) -> _Request:
        if len(prompt) >= self.context_tokens:
            raise PromptTooLong(len(prompt), self.context_tokens - 1)
        if adapter is not None and adapter not in self._adapters:
            raise AdapterNotLoaded(adapter)
        if len(self._open) >= self._queue_size:
            raise EngineBusy(len(self._open))
        request = _Request(
            prompt=prompt,
            sampling=sampling,
            adapter=adapter,
            loop=asyncio.get_running_loop(),
        )
        self._open[id(request)] = request
        try:
            self._put(request)
        except EngineError:
            del self._open[id(request)]
            raise
        return request

    def _put(self, task: "_Task | _Request") -> None:
        if self._stopping.is_set() or not self._thread.is_alive():
            raise EngineStopped
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            raise EngineBusy(self._tasks.qsize()) from None

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._take_tasks()
            self._admit()
            for adapter in list(self._batches):
                try:
                    self._step(adapter)
                except Exception as error:
                    logger.exception("replies failed in the engine")
                    self._fail(adapter, EngineError(f"the model failed: {type(error).__name__}"))
        self._take_tasks()  # each sees that the engine stops, and says so
        for request in list(self._open.values()):
            self._end(request, EngineStopped())

    def _take_tasks(self) -> None:
        """What has come in; with nothing to write, wait a moment for something."""
        idle = not self._batches and not self._waiting and not self._stopping.is_set()
        with suppress(queue.Empty):
            task = self._tasks.get(timeout=0.2) if idle else self._tasks.get_nowait()
            while True:
                if isinstance(task, _Request):
                    self._waiting.append(task)
                else:
                    task()
                task = self._tasks.get_nowait()

    def _admit(self) -> None:
        """Let those who wait join, as far as there is room."""
        room = self._batch_size - sum(len(rows) for _, rows in self._batches.values())
        if room < min(len(self._waiting), self._batch_size // JOINING):
            return  # each time that prompts are read, everybody else waits
        joining: dict[str | None, list[_Request]] = {}
        while self._waiting and room > 0:
            request = self._waiting.popleft()
            if request.cancelled.is_set():
                self._end(request)
                continue
            joining.setdefault(request.adapter, []).append(request)
            room -= 1
        for adapter, requests in joining.items():
            batch, rows = self._batches.setdefault(adapter, (Batch(self._weights.model), []))
            rows += [self._begun(request) for request in requests]
            try:
                self._use(adapter)
                batch.join(
                    [request.prompt for request in requests],
                    [request.sampling for request in requests],
                )
            except Exception as error:
                logger.exception("prompts failed in the engine")
                self._fail(adapter, EngineError(f"the model failed: {type(error).__name__}"))

    def _begun(self, request: _Request) -> _Writing:
        room = self.context_tokens - len(request.prompt)
        return _Writing(
            request=request,
            detokenizer=Detokenizer(self._weights.tokenizer),
            limit=min(request.sampling.max_new_tokens, room),
        )

    def _step(self, adapter: str | None) -> None:
        """Write one token of every reply with this adapter."""
        batch, rows = self._batches[adapter]
        self._use(adapter)
        going = [
            number
            for number, (row, token) in enumerate(zip(rows, batch.step(), strict=True))
            if not self._written(row, token)
        ]
        if len(going) < len(rows):
            batch.keep(going)
            rows[:] = [rows[number] for number in going]
        if not rows:
            del self._batches[adapter]

    def _written(self, row: _Writing, token: int) -> bool:
        """Add a token to a reply; whether that was its end."""
        ended = token in self._weights.end_tokens
        if not ended:
            row.count += 1
            row.show(row.detokenizer.add(token))
        if ended:
            reason = FinishReason.STOP
        elif row.request.cancelled.is_set():
            reason = FinishReason.CANCELLED
        elif row.count >= row.limit:
            reason = FinishReason.LENGTH
        else:
            return False
        row.show(row.detokenizer.finish())
        self._end(
            row.request,
            Completion(
                text=row.text,
                adapter=row.request.adapter,
                prompt_tokens=len(row.request.prompt),
                completion_tokens=row.count,
                finish_reason=reason,
                seconds=time.monotonic() - row.request.started,
            ),
        )
        return True

    def _fail(self, adapter: str | None, error: EngineError) -> None:
        _, rows = self._batches.pop(adapter)
        for row in rows:
            self._end(row.request, error)

    def _end(self, request: _Request, last: Piece | None = None) -> None:
        self._open.pop(id(request), None)  # before anybody hears of it and asks for more
        if last is not None:
            request.give(last)

    def _use(self, adapter: str | None) -> None:
        if not self._adapters:
            return
        model = self._weights.model
        if adapter is None:
            model.disable_adapters()
        else:
            model.enable_adapters()
            model.set_adapter(adapter)
            self._adapters.move_to_end(adapter)

    def _attach(self, adapter: Adapter) -> None:
        if adapter.name in self._adapters:
            return
        if adapter.base_model != self.model:
            raise AdapterRefused(
                f"{adapter.name} was trained on {adapter.base_model}, this is {self.model}"
            )
        if self._stopping.is_set():
            raise EngineStopped
        if hash_adapter(Path(adapter.path)) != adapter.sha256:
            raise AdapterRefused(f"the files of {adapter.name} were changed after it was made")
        model = self._weights.model
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several: meant
                model.load_adapter(adapter.path, adapter_name=adapter.name)
        except Exception:
            if adapter.name in getattr(model, "peft_config", {}):
                model.delete_adapter(adapter.name)
            raise
        model.requires_grad_(False)
        self._adapters[adapter.name] = None
        self._make_room(adapter.name)

    def _make_room(self, newest: str) -> None:
        writing = {newest, *self._batches, *(each.adapter for each in self._waiting)}
        idle = [name for name in self._adapters if name not in writing]
        for name in idle[: max(0, len(self._adapters) - ADAPTERS_HELD)]:
            self._weights.model.delete_adapter(name)
            del self._adapters[name]


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
