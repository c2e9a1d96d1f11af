"""Errors that an engine raises.

EngineError
├── ModelNotFound       there is no model of that name, or none in that folder
├── ModelUnusable       the model exists, but is not a causal chat model that can be served
├── AdapterNotLoaded    a reply was asked of an adapter that is not loaded
├── AdapterRefused      the adapter does not fit the model, or cannot be read
│   └── AdapterUnusable the adapter's content shows that it can never be served
├── NonFiniteLogits     the model produced NaN or infinite logits
├── ServerLost          one of several servers failed; another may do better
├── PromptTooLong       the prompt has more tokens than the model's context
├── EngineBusy          the queue is full
├── EngineUnreachable   no server of the model answers
└── EngineStopped       the engine was closed, or its thread died
"""

from collections.abc import Sequence


class EngineError(Exception):
    """Base of everything that an engine raises on purpose."""


class ModelNotFound(EngineError):
    """There is no model of that name, or none in that folder."""


class ModelUnusable(EngineError):
    """The model exists, but is not a causal chat model that can be served."""


class AdapterNotLoaded(EngineError):
    """A reply was asked of an adapter that is not loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the adapter {name} is not loaded")


class AdapterRefused(EngineError):
    """The adapter does not fit the model, or cannot be read."""


class AdapterUnusable(AdapterRefused):
    """The adapter's content shows that it can never be served."""


class NonFiniteLogits(EngineError):
    """The model produced NaN or infinite logits, so that no token can be drawn."""

    def __init__(self) -> None:
        super().__init__("the model produced NaN or infinite logits")


class ServerLost(EngineError):
    """One of several servers is down, too slow or broken, or broke off; another may do better."""


class PromptTooLong(EngineError):
    """The prompt has more tokens than the model's context."""

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, but the model takes {limit}: shorten it"
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class EngineBusy(EngineError):
    """The queue is full."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} replies are waiting already: try again in a moment")
        self.waiting = waiting


class EngineUnreachable(EngineError):
    """No server of the model answers."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(f"no vLLM server answers at {', '.join(urls)}: check RATCHET_VLLM_URL")


class EngineStopped(EngineError):
    """The engine was closed, or its thread died."""

    def __init__(self) -> None:
        super().__init__("the engine has stopped")
