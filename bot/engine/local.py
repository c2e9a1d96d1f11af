"""The engine on this machine: transformers and PEFT, with one thread that owns the model.

The event loop hands requests to the thread through a bounded queue and gets pieces of text back;
it never waits on a tensor. Requests are answered one after another, first come, first served.
"""

import asyncio
import logging
import queue
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bot.engine.base import Completion, SamplingParams
from bot.engine.decode import decode
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

Piece: TypeAlias = str | Completion | EngineError


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


class LocalEngine:
    """An `Engine` over weights in this process."""

    def __init__(self, weights: Weights, *, queue_size: int = 64) -> None:
        self._weights = weights
        self._adapters: set[str] = set()
        # One place more than replies, so that an adapter can be loaded behind a full queue.
        self._tasks: queue.Queue[_Task] = queue.Queue(queue_size + 1)
        self._queue_size = queue_size
        self._waiting: dict[int, _Request] = {}
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
        if len(self._waiting) >= self._queue_size:
            raise EngineBusy(len(self._waiting))
        request = _Request(
            prompt=prompt,
            sampling=sampling,
            adapter=adapter,
            loop=asyncio.get_running_loop(),
        )
        self._waiting[id(request)] = request
        try:
            self._put(lambda: self._answer(request))
        except EngineError:
            del self._waiting[id(request)]
            raise
        return request

    def _put(self, task: _Task) -> None:
        if self._stopping.is_set() or not self._thread.is_alive():
            raise EngineStopped
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            raise EngineBusy(self._tasks.qsize()) from None

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                task = self._tasks.get(timeout=0.2)
            except queue.Empty:
                continue
            task()
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()()  # each sees that the engine stops, and says so

    def _answer(self, request: _Request) -> None:
        try:
            if self._stopping.is_set():
                raise EngineStopped
            if not request.cancelled.is_set():
                self._use(request.adapter)
                self._generate(request)
        except EngineStopped as stopped:
            request.give(stopped)
        except Exception as error:
            logger.exception("a reply failed in the engine")
            request.give(EngineError(f"the model failed: {type(error).__name__}"))
        finally:
            self._waiting.pop(id(request), None)

    def _generate(self, request: _Request) -> None:
        room = self.context_tokens - len(request.prompt)
        limit = min(request.sampling.max_new_tokens, room)
        detokenizer = Detokenizer(self._weights.tokenizer)
        text, count, reason = "", 0, FinishReason.LENGTH
        for token in decode(self._weights.model, request.prompt, request.sampling):
            if self._stopping.is_set():
                raise EngineStopped
            if token in self._weights.end_tokens:
                reason = FinishReason.STOP
                break
            count += 1
            if piece := detokenizer.add(token):
                text += piece
                request.give(piece)
            if request.cancelled.is_set():
                reason = FinishReason.CANCELLED
                break
            if count >= limit:
                break
        if piece := detokenizer.finish():
            text += piece
            request.give(piece)
        request.give(
            Completion(
                text=text,
                adapter=request.adapter,
                prompt_tokens=len(request.prompt),
                completion_tokens=count,
                finish_reason=reason,
                seconds=time.monotonic() - request.started,
            )
        )

    def _use(self, adapter: str | None) -> None:
        if not self._adapters:
            return
        model = self._weights.model
        if adapter is None:
            model.disable_adapters()
        else:
            model.enable_adapters()
            model.set_adapter(adapter)

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
        self._adapters.add(adapter.name)


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
