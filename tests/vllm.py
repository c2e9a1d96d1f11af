"""A loopback server that speaks vLLM's HTTP interface as version 0.32 does, faults included.

Its model is a hash: the next token follows from the model's name and everything before it, so a
reply that another server goes on with is the reply that one server would have written.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

from aiohttp import web
from transformers import PreTrainedTokenizerBase

Body = dict[str, Any]


class FakeVllm:
    """One server, served while the `async with` lasts.

    Faults: `status` answers every call with that code, `load_status` the loading of adapters. The
    next reply breaks off after `breaks_after` tokens, or ends as `breaks_with` says. While `hold`
    is clear, nothing is written.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model: str = "the-base",
        context_tokens: int = 256,
        key: str = "",
    ) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, Body]] = []
        self.status = 200
        self.load_status = 200
        self.breaks_after: int | None = None
        self.breaks_with: Body | None = None
        self.hold = asyncio.Event()
        self.hold.set()
        self.open = 0
        """Number of unfinished replies."""
        self._tokenizer = tokenizer
        self._model = model
        self._context_tokens = context_tokens
        self._key = key
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serve, on the same port as before; whatever was loaded is forgotten."""
        self.adapters.clear()
        app = web.Application(middlewares=[self._front_door])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving, and drop connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def reads_like(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Serve a model with another tokenizer from now on."""
        self._tokenizer = tokenizer

    def asked(self, path: str) -> list[Body]:
        """Return the bodies of the calls to a path."""
        return [body for where, body in self.calls if where == path]

    def next_token(self, model: str, ids: Sequence[int], seed: int | None) -> int:
        """Return the next token; never an end, so that a reply is as long as it may be."""
        digest = hashlib.sha256(json.dumps([model, list(ids), seed]).encode()).digest()
        letters = range(40, 100)  # whole characters of the tiny vocabulary
        return letters[int.from_bytes(digest[:4], "big") % len(letters)]

    @web.middleware
    async def _front_door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.calls.append((request.path, body))
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        await self.hold.wait()
        if self.status != 200:
            return _error(self.status, "EngineCore encountered an issue.")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        base = {"id": self._model, "parent": None, "max_model_len": self._context_tokens}
        loras = [{"id": name, "parent": self._model} for name in self.adapters]
        return web.json_response({"object": "list", "data": [base, *loras]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        tokens = self._tokenizer.encode((await request.json())["prompt"], add_special_tokens=False)
        found = {"count": len(tokens), "max_model_len": self._context_tokens, "tokens": tokens}
        return web.json_response(found)

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if self.load_status != 200:
            return _error(self.load_status, f"LoRA rank of {name} is greater than max_lora_rank")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        self.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model, ids, room = body["model"], list(body["prompt"]), body["max_tokens"]
        if model != self._model and model not in self.adapters:
            return _error(404, f"The model `{model}` does not exist.")
        if len(ids) + room > self._context_tokens:
            return _error(400, f"max_tokens={room} cannot be greater than what is left.")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        self.open += 1
        try:
            for place in range(room):
                await self.hold.wait()
                if self.breaks_after is not None and place >= self.breaks_after:
                    self.breaks_after = None
                    if self.breaks_with is not None:
                        await _send(answer, self.breaks_with)
                        await answer.write(b"data: [DONE]\n\n")
                        return answer
                    assert request.transport is not None
                    request.transport.close()
                    return answer
                ids.append(self.next_token(model, ids, body["seed"]))
                end = "length" if place + 1 == room else None
                await _send(answer, {"choices": [choice(ids[-1:], end)]})
                await asyncio.sleep(0)
            await answer.write(b"data: [DONE]\n\n")
        finally:
            self.open -= 1
        return answer


def choice(tokens: Sequence[int], end: str | None) -> Body:
    """Return a piece of a reply; its text holds a character that some split lines at."""
    return {"index": 0, "text": "a\u2028b", "token_ids": list(tokens), "finish_reason": end}


async def _send(answer: web.StreamResponse, event: Body) -> None:
    await answer.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
