"""What an engine is: the protocol, and the records that go in and come out.

Every implementation passes `tests/engine/test_contract.py`, and so does the fake.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from store.domain import Adapter, FinishReason, Message

SMOKE_PROMPT = (Message(role="user", content="Say hello."),)
"""What an adapter has to have an answer to before it is used."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn.

    With `temperature` 0 the likeliest token is always taken and `top_p` and `seed` do nothing.
    `top_p` keeps the smallest set of tokens whose probabilities add up to it (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration"). `repetition_penalty` divides the score
    of tokens that the reply holds already (Keskar et al. 2019, "CTRL"; the prompt's do not count,
    or a reply could not quote it); 1 is off. The same `seed`
    draws the same tokens on the same machine; None draws anew.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A finished reply. `seconds` run from the request, waiting included."""

    text: str
    adapter: str | None
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    seconds: float


class Engine(Protocol):
    """Generates replies, with or without an adapter. Safe to call from one event loop."""

    @property
    def model(self) -> str:
        """The base model's name; an adapter fits only the model it was trained on."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and reply may have together."""
        ...

    @property
    def unmerged(self) -> frozenset[str]:
        """Adapters that are computed beside the weights, for want of memory: they cost time."""
        ...

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make, template included. Any thread."""
        ...

    def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """Yield the reply piece by piece, then one `Completion` whose text is all the pieces.

        Closing the generator stops the work (use `contextlib.aclosing`). Control tokens of the
        chat template inside a message's content are plain text to the model. A reply that would
        outgrow the context is cut there, with `FinishReason.LENGTH`.

        Raises `PromptTooLong`, `EngineBusy`, `AdapterNotLoaded` or `EngineStopped`.
        """
        ...

    async def load_adapter(self, adapter: Adapter) -> None:
        """Hold an adapter ready; nothing happens if it is held. Raises `AdapterRefused`."""
        ...

    async def close(self) -> None:
        """Stop; replies under way end with `EngineStopped`."""
        ...
