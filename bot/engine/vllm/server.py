"""One vLLM server, over its OpenAI-compatible HTTP interface: token ids go in, token ids come out.

Tokens rather than text, so that every engine reads and ends replies alike, and a reply that one
server began can be gone on with by another.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bot.engine.base import SamplingParams
from bot.engine.errors import AdapterRefused, EngineError, ModelUnusable, ServerLost
from store.domain import Adapter, FinishReason

PROBE = "The probe of a vocabulary: naïve 12,345 + x_y = 「z」?"
"""Text that two vocabularies hardly cut alike by chance."""

ASK_SECONDS = 5.0
"""For what a server can say at once."""

LOAD_SECONDS = 30.0
"""For an adapter; vLLM takes a fraction of a second."""

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_OF_THE_REQUEST = (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY)
"""Refusals that every other server would repeat."""


class Server:
    """A server, as far as it is known. `client` brings the time limit of replies."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.up = False
        """Whether it was met and has answered since."""
        self.open = 0
        """Replies that it is writing for us."""
        self.context_tokens = 0
        self._client = client
        self._base = ""
        self._loaded: set[str] = set()

    async def greet(self, vocabulary: Sequence[int]) -> None:
        """Learn what it serves. `vocabulary` is how the model that is wanted reads `PROBE`.

        Raises `ServerLost`, or `ModelUnusable` if it serves another model.
        """
        try:
            models = (await self._ask("GET", "/v1/models"))["data"]
            base = next(model for model in models if not model.get("parent"))
            name, context_tokens = str(base["id"]), int(base["max_model_len"])
            probe = {"model": name, "prompt": PROBE, "add_special_tokens": False}
            read = (await self._ask("POST", "/tokenize", probe))["tokens"]
            loaded = {str(model["id"]) for model in models if model.get("parent")}
        except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
            raise ServerLost(f"it does not answer like vLLM: {error!r}") from None
        if read != list(vocabulary):
            raise ModelUnusable(
                f"{self.url} serves {name}, which reads text in other tokens than RATCHET_MODEL: "
                "start it with the same model"
            )
        self._base, self.context_tokens, self._loaded = name, context_tokens, loaded
        self.up = True

    async def load(self, adapter: Adapter) -> None:
        """Have it hold an adapter, if it does not. Raises `AdapterRefused` or `ServerLost`."""
        if adapter.name in self._loaded:
            return
        wanted = {"lora_name": adapter.name, "lora_path": adapter.path}
        code, text = await self._post("/v1/load_lora_adapter", wanted)
        if httpx.codes.is_success(code) or "already been loaded" in text:  # a name: one content
            self._loaded.add(adapter.name)
        elif httpx.codes.is_client_error(code) or await self.is_well():  # 500: what it cannot use
            raise AdapterRefused(f"{self.url} does not take {adapter.name}: {_reason(text)}")
        else:
            raise ServerLost(f"it answers with {code}")

    async def unload(self, name: str) -> None:
        """Have it let an adapter go. Raises `ServerLost`."""
        if name in self._loaded:
            self._loaded.discard(name)
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})  # or it had forgotten

    async def write(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        *,
        adapter: str | None,
        ends: Sequence[int],
    ) -> AsyncGenerator[int | FinishReason, None]:
        """The tokens that follow, the end token included, then why there are no more.

        Raises `ServerLost`, or `EngineError` for what no server would do. vLLM's repetition penalty
        counts the prompt as well, which ours must not: none is asked for.
        """
        wanted = {
            "model": adapter or self._base,
            "prompt": list(ids),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,  # or the model's own defaults would count, here and below
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": sampling.seed,
            "stop_token_ids": list(ends),
            "stream": True,
            "return_token_ids": True,
        }
        self.open += 1
        try:
            async with self._answer("POST", "/v1/completions", wanted) as answer:
                if answer.is_error:
                    await self._complain(answer, adapter)
                async for event in _events(answer):
                    tokens, reason = _read(event)
                    for token in tokens:
                        yield token
                    if reason is not None:
                        yield reason
                        return
            raise ServerLost("it broke off")
        finally:
            self.open -= 1

    async def is_well(self) -> bool:
        """Whether it says that it is."""
        try:
            async with self._answer("GET", "/health", seconds=ASK_SECONDS) as answer:
                return answer.is_success
        except ServerLost:
            return False

    def lose(self) -> None:
        """It does not answer; when it comes back, it may hold nothing, or another model."""
        self.up = False
        self._loaded.clear()

    async def _complain(self, answer: httpx.Response, adapter: str | None) -> None:
        text = (await answer.aread()).decode("utf-8", "replace")
        if answer.status_code in _OF_THE_REQUEST:
            raise EngineError(f"{self.url} refuses: {_reason(text)}")
        if answer.status_code == httpx.codes.NOT_FOUND and adapter is not None:
            self._loaded.discard(adapter)  # it was started anew meanwhile
        raise ServerLost(f"it answers with {answer.status_code}: {_reason(text)}")

    async def _post(self, path: str, body: Any) -> tuple[int, str]:
        """The code and the text of what it answers."""
        async with self._answer("POST", path, body, seconds=LOAD_SECONDS) as answer:
            return answer.status_code, (await answer.aread()).decode("utf-8", "replace")

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._answer(method, path, body, seconds=ASK_SECONDS) as answer:
            text = await answer.aread()
        if answer.is_error:
            raise ServerLost(f"{path} is answered with {answer.status_code}")
        return json.loads(text)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Any = None, *, seconds: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that may still be coming in. Raises `ServerLost`."""
        limit = httpx.USE_CLIENT_DEFAULT if seconds is None else httpx.Timeout(seconds)
        try:
            async with self._client.stream(
                method, self.url + path, json=body, timeout=limit
            ) as answer:
                yield answer
        except httpx.RequestError as error:
            raise ServerLost(f"{type(error).__name__} {error}".strip()) from error


async def _events(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events; httpx's own lines end at more characters than a newline."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and (data := line[len(b"data: ") :].strip()) != b"[DONE]":
                yield data


def _read(event: bytes) -> tuple[list[int], FinishReason | None]:
    """The tokens of an event, and the reason if it is the last."""
    try:
        found = json.loads(event)
        if "error" in found:
            raise ServerLost(f"it broke off: {_reason(event.decode())}")
        [choice] = found["choices"]
        tokens = [int(token) for token in choice["token_ids"] or ()]
        reason = choice["finish_reason"]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerLost(f"it sends what is no completion with token ids: {error!r}") from None
    if reason is not None and reason not in _REASONS:
        raise ServerLost(f"it gave the reply up: {reason}")
    return tokens, _REASONS.get(reason)


def _reason(text: str) -> str:
    """What an error says, short enough for a line."""
    try:
        found = json.loads(text)
        text = found["error"]["message"] if "error" in found else found["message"]
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:300]
