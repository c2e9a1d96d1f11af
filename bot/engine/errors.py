"""What can go wrong in an engine.

EngineError
├── ModelNotFound       nothing under that name, or nothing in that folder
├── ModelUnusable       found, but not a causal chat model that can be served
├── AdapterNotLoaded    a reply was asked of an adapter that the engine does not hold
├── AdapterRefused      an adapter that does not fit the model, or cannot be read
│   └── AdapterUnusable what it holds shows that it never will
├── NotNumbers          the model's scores are none: nothing can be chosen by them
├── ServerLost          a server of several failed; another may do better
├── PromptTooLong       more tokens than the model's context
├── EngineBusy          the queue is full
├── EngineUnreachable   no server answers that the model could run on
└── EngineStopped       it was closed, or its thread died
"""

from collections.abc import Sequence


class EngineError(Exception):
    """Base of everything an engine raises on purpose."""


class ModelNotFound(EngineError):
    """Nothing under that name, or nothing in that folder."""


class ModelUnusable(EngineError):
    """Found, but not a causal chat model that can be served."""


class AdapterNotLoaded(EngineError):
    """A reply was asked of an adapter that the engine does not hold."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the adapter {name} is not loaded")


class AdapterRefused(EngineError):
    """An adapter that does not fit the model, or cannot be read."""


class AdapterUnusable(AdapterRefused):
    """What it holds shows that it never will be served."""


class NotNumbers(EngineError):
    """The model's scores are no numbers: nothing can be chosen by them."""

    def __init__(self) -> None:
        super().__init__("the model answers with what is no number")


class ServerLost(EngineError):
    """A server of several is down, too slow, broken, or broke off; another may do better."""


class PromptTooLong(EngineError):
    """More tokens than the model's context."""

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and the model takes {limit}: shorten it"
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class EngineBusy(EngineError):
    """The queue is full."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} replies are waiting already: try again in a moment")
        self.waiting = waiting


class EngineUnreachable(EngineError):
    """No server answers that the model could run on."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(f"no vLLM server answers at {', '.join(urls)}: check RATCHET_VLLM_URL")


class EngineStopped(EngineError):
    """It was closed, or its thread died."""

    def __init__(self) -> None:
        super().__init__("the engine has stopped")
