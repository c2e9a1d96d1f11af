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
from bot.engine.errors import AdapterRefused, EngineError, ModelUnusable
from store.domain import Adapter

PROBE = "The probe of a vocabulary: naïve 12,345 + x_y = 「z」?"
"""Text that two vocabularies hardly cut alike by chance."""


ASK_SECONDS = 5.0
"""For what a server can say at once; replies and adapters have the client's time limits."""


class ServerLost(Exception):
    """It is down, too slow, broken, or broke off; another may do better."""


class Server:
    """A server, as far as it is known. `client` brings the time limits."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.up = False
        """Whether it answered the last time."""
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
        except (KeyError, TypeError, ValueError, StopIteration) as error:
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
        async with self._answer("POST", "/v1/load_lora_adapter", wanted) as answer:
            text = (await answer.aread()).decode("utf-8", "replace")
        if answer.is_error and "already been loaded" not in text:  # a name means one content
            raise AdapterRefused(f"{self.url} does not take {adapter.name}: {_reason(text)}")
        self._loaded.add(adapter.name)

    async def unload(self, name: str) -> None:
        """Have it let an adapter go. Raises `ServerLost`."""
        if name in self._loaded:
            self._loaded.discard(name)
            async with self._answer("POST", "/v1/unload_lora_adapter", {"lora_name": name}):
                pass  # one that it has forgotten is gone as well

    async def write(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        *,
        adapter: str | None,
        ends: Sequence[int],
    ) -> AsyncGenerator[int, None]:
        """The tokens that follow, the end token included. Raises `ServerLost` or `EngineError`."""
        wanted = {
            "model": adapter or self._base,
            "prompt": list(ids),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,  # or the model's own defaults would count
            "min_p": 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed,
            "stop_token_ids": list(ends),
            "stream": True,
            "return_token_ids": True,
        }
        self.open += 1
        try:
            async with self._answer("POST", "/v1/completions", wanted) as answer:
                if answer.is_error:
                    text = (await answer.aread()).decode("utf-8", "replace")
                    if answer.status_code == httpx.codes.NOT_FOUND and adapter in self._loaded:
                        self._loaded.discard(adapter)  # it was started anew meanwhile
                        raise ServerLost(f"it has forgotten {adapter}")
                    raise EngineError(f"{self.url} refuses: {_reason(text)}")
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        for token in _tokens(line.removeprefix("data: ")):
                            yield token
                raise ServerLost("it broke off")
        finally:
            self.open -= 1

    async def is_well(self) -> bool:
        """Whether it says that it is."""
        try:
            async with self._answer("GET", "/health", timeout=ASK_SECONDS):
                return True
        except ServerLost:
            return False

    def lose(self) -> None:
        """It does not answer; when it comes back, it may hold nothing."""
        self.up = False
        self._loaded.clear()

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._answer(method, path, body, timeout=ASK_SECONDS) as answer:
            text = await answer.aread()
        if answer.is_error:
            raise ServerLost(f"{path} is answered with {answer.status_code}")
        return json.loads(text)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Any = None, *, timeout: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that may still be coming in; what is the server's fault is `ServerLost`."""
        request = self._client.build_request(method, self.url + path, json=body)
        if timeout is not None:
            request.extensions["timeout"] = httpx.Timeout(timeout).as_dict()
        try:
            answer = await self._client.send(request, stream=True)
            try:
                if answer.is_server_error:
                    raise ServerLost(f"{path} is answered with {answer.status_code}")
                yield answer
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            raise ServerLost(f"{type(error).__name__} {error}".strip()) from error


def _tokens(text: str) -> list[int]:
    try:
        event = json.loads(text)
        if "error" in event:
            raise ServerLost(f"it broke off: {_reason(text)}")
        found = [token for choice in event["choices"] for token in choice["token_ids"] or ()]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerLost(f"it sends what is no completion with token ids: {error}") from None
    return found


def _reason(text: str) -> str:
    """What an error says, short enough for a line."""
    try:
        found = json.loads(text)
        text = found["error"]["message"] if "error" in found else found["message"]
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:300]
