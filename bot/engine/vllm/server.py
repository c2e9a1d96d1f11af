"""One vLLM server, over its OpenAI-compatible HTTP interface: token ids go in, token ids come out.

Token ids rather than text, so that every engine encodes prompts and ends replies alike, and another
server can continue a reply that one began.
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
"""Text that two vocabularies hardly tokenise alike by chance."""

QUERY_SECONDS = 5.0
"""Time limit of requests that a server can answer at once."""

LOAD_SECONDS = 30.0
"""Time limit of loading an adapter; vLLM takes a fraction of a second."""

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
"""vLLM's finish reasons of a reply that is complete; any other means that it gave up."""

_REQUEST_ERRORS = (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY)
"""Status codes of refusals that every other server would repeat."""


class Server:
    """A server and its last known state. `client` brings the time limit of replies."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.up = False
        """True if it was identified and has not failed since."""
        self.open_replies = 0
        """Replies that it is generating for us."""
        self.context_tokens = 0
        self._client = client
        self._base = ""
        self._loaded: set[str] = set()

    async def identify(self, vocabulary: Sequence[int]) -> None:
        """Find out what it serves. `vocabulary` is `PROBE` in token ids of the wanted model.

        Raises `ServerLost`, or `ModelUnusable` if it serves another model.
        """
        try:
            models = (await self._request_json("GET", "/v1/models"))["data"]
            base = next(model for model in models if not model.get("parent"))
            name, context_tokens = str(base["id"]), int(base["max_model_len"])
            probe = {"model": name, "prompt": PROBE, "add_special_tokens": False}
            read = (await self._request_json("POST", "/tokenize", probe))["tokens"]
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
        """Load an adapter unless it is loaded. Raises `AdapterRefused` or `ServerLost`."""
        if adapter.name in self._loaded:
            return
        wanted = {"lora_name": adapter.name, "lora_path": adapter.path}
        code, text = await self._post("/v1/load_lora_adapter", wanted)
        if httpx.codes.is_success(code) or "already been loaded" in text:  # a name: one content
            self._loaded.add(adapter.name)
        elif httpx.codes.is_client_error(code) or await self.is_healthy():  # vLLM refuses with 500
            raise AdapterRefused(f"{self.url} does not take {adapter.name}: {_error_text(text)}")
        else:
            raise ServerLost(f"it answers with {code}")

    async def unload(self, name: str) -> None:
        """Unload an adapter. Raises `ServerLost`."""
        if name in self._loaded:
            self._loaded.discard(name)
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})  # an error: not loaded

    async def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        *,
        adapter: str | None,
        ends: Sequence[int],
    ) -> AsyncGenerator[int | FinishReason, None]:
        """Yield the tokens that follow, the end token included, then the finish reason.

        Raises `ServerLost`, or `EngineError` for a request that every server would refuse. vLLM's
        repetition penalty counts the prompt as well, which ours must not: none is asked for.
        """
        wanted = {
            "model": adapter or self._base,
            "prompt": list(ids),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,  # without these three, the model's own defaults would apply
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": sampling.seed,
            "stop_token_ids": list(ends),
            "stream": True,
            "return_token_ids": True,
        }
        self.open_replies += 1
        try:
            async with self._response("POST", "/v1/completions", wanted) as response:
                if response.is_error:
                    await self._raise_error(response, adapter)
                async for event in _events(response):
                    tokens, reason = _parse_event(event)
                    for token in tokens:
                        yield token
                    if reason is not None:
                        yield reason
                        return
            raise ServerLost("it broke off the reply")
        finally:
            self.open_replies -= 1

    async def is_healthy(self) -> bool:
        """Return whether its health check succeeds."""
        try:
            async with self._response("GET", "/health", seconds=QUERY_SECONDS) as response:
                return response.is_success
        except ServerLost:
            return False

    def mark_down(self) -> None:
        """Note that it does not answer; it may come back without adapters or with another model."""
        self.up = False
        self._loaded.clear()

    async def _raise_error(self, response: httpx.Response, adapter: str | None) -> None:
        text = (await response.aread()).decode("utf-8", "replace")
        if response.status_code in _REQUEST_ERRORS:
            raise EngineError(f"{self.url} refuses the request: {_error_text(text)}")
        if response.status_code == httpx.codes.NOT_FOUND and adapter is not None:
            self._loaded.discard(adapter)  # it was restarted meanwhile
        raise ServerLost(f"it answers with {response.status_code}: {_error_text(text)}")

    async def _post(self, path: str, body: Any) -> tuple[int, str]:
        """Post JSON; return the status code and the text of the response."""
        async with self._response("POST", path, body, seconds=LOAD_SECONDS) as response:
            return response.status_code, (await response.aread()).decode("utf-8", "replace")

    async def _request_json(self, method: str, path: str, body: Any = None) -> Any:
        async with self._response(method, path, body, seconds=QUERY_SECONDS) as response:
            text = await response.aread()
        if response.is_error:
            raise ServerLost(f"{path} is answered with {response.status_code}")
        return json.loads(text)

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, body: Any = None, *, seconds: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Open a response that may still be coming in. Raises `ServerLost`."""
        limit = httpx.USE_CLIENT_DEFAULT if seconds is None else httpx.Timeout(seconds)
        try:
            async with self._client.stream(
                method, self.url + path, json=body, timeout=limit
            ) as response:
                yield response
        except httpx.RequestError as error:
            raise ServerLost(f"{type(error).__name__} {error}".strip()) from error


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events.

    httpx's own lines end at more characters than a newline.
    """
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and (data := line[len(b"data: ") :].strip()) != b"[DONE]":
                yield data


def _parse_event(event: bytes) -> tuple[list[int], FinishReason | None]:
    """Return the tokens of an event, and the finish reason if it is the last."""
    try:
        found = json.loads(event)
        if "error" in found:
            raise ServerLost(f"it broke off the reply: {_error_text(event.decode())}")
        [choice] = found["choices"]
        tokens = [int(token) for token in choice["token_ids"] or ()]
        reason = choice["finish_reason"]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerLost(f"its answer is not a completion with token ids: {error!r}") from None
    if reason is not None and reason not in _FINISH_REASONS:
        raise ServerLost(f"it gave the reply up: {reason}")
    return tokens, _FINISH_REASONS.get(reason)


def _error_text(text: str) -> str:
    """Return the message of an error response, short enough for a line."""
    try:
        found = json.loads(text)
        text = found["error"]["message"] if "error" in found else found["message"]
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:300]
