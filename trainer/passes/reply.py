"""The record of a generated reply, which generation makes and every measure reads."""

from dataclasses import dataclass

from store.domain import Message


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A freshly generated reply."""

    prompt: tuple[Message, ...]
    text: str
    finished: bool
    """True if the model ended the reply itself; False if it was cut at the token limit."""
