"""The protocol of an engine, and the records that go in and come out.

Every implementation passes `tests/engine/test_contract.py`, and so does the fake.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from store.domain import Adapter, FinishReason, Message

SMOKE_PROMPT = (Message(role="user", content="Say hello."),)
"""Prompt that an adapter must answer before it is used."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Parameters of drawing tokens.

    With `temperature` 0 the likeliest token is always taken and `top_p` and `seed` do nothing.
    `top_p` keeps the smallest set of tokens whose probabilities add up to it (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration"). `repetition_penalty` divides the logits
    of tokens that the reply already holds (Keskar et al. 2019, "CTRL"); the prompt's tokens do not
    count, or a reply could not quote it; 1 is off. The same `seed` draws the same tokens on the
    same machine; None draws anew.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A finished reply. `seconds` run from the request and include waiting."""

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
        """Name of the base model; an adapter fits only the model it was trained on."""
        ...

    @property
    def context_tokens(self) -> int:
        """Most tokens that prompt and reply may have together."""
        ...

    @property
    def unmerged(self) -> frozenset[str]:
        """Adapters not merged into weights of their own for lack of memory; replies are slower."""
        ...

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Count the tokens of a prompt, chat template included. Safe in any thread."""
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
        """Load an adapter unless it is loaded already. Raises `AdapterRefused`."""
        ...

    async def close(self) -> None:
        """Stop the engine; replies in progress end with `EngineStopped`."""
        ...
