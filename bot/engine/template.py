"""Rendering messages to token ids by the model's own chat template.

Invariant: control tokens come from the template alone. Where a message imitates one, a zero-width
space is put into it, so that the tokenizer reads plain text and a person still reads the same.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from bot.engine.errors import ModelUnusable
from store.domain import Message

_MARKER = re.compile(r"<\|[^<>|\s]+\|>|\[/?[A-Z_]+\]|<</?[A-Z]+>>")
"""Role markers in templates that are not special tokens: <|user|>, [INST], <<SYS>>."""

ZERO_WIDTH_SPACE = "\u200b"
"""Character that breaks up an imitated control token."""


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, model: str) -> None:
        if not tokenizer.chat_template:
            raise ModelUnusable(
                f"{model} has no chat template, so it is not a chat model: "
                "set RATCHET_MODEL to its instruct version"
            )
        self._tokenizer = tokenizer
        special = {each.content for each in tokenizer.added_tokens_decoder.values() if each.special}
        markers = set(_MARKER.findall(str(tokenizer.chat_template)))
        self._control_tokens = sorted(special | markers, key=len, reverse=True)
        self._supports_system = self._can_render(
            Message(role="system", content="a"), Message(role="user", content="b")
        )
        if not self._supports_system and not self._can_render(Message(role="user", content="a")):
            raise ModelUnusable(
                f"the chat template of {model} cannot be rendered: "
                "set RATCHET_MODEL to another model"
            )
        self.end_token = self._find_end_token()
        """Token that ends a reply in the template, or else the tokenizer's; None without both."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids, ending where the assistant's reply begins."""
        ids: list[int] = self._tokenizer.encode(self.render(messages), add_special_tokens=False)
        return ids

    def encode_reply(self, text: str, *, finished: bool = True) -> list[int]:
        """Return a reply's token ids, with the end token if it is `finished`."""
        ids: list[int] = self._tokenizer.encode(self._escape(text), add_special_tokens=False)
        return [*ids, self.end_token] if finished and self.end_token is not None else ids

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt as text."""
        plain = [replace(message, content=self._escape(message.content)) for message in messages]
        return self._apply(plain if self._supports_system else _without_system(plain))

    def _escape(self, text: str) -> str:
        """Break up control tokens in a text."""
        for token in self._control_tokens:
            text = text.replace(token, token[0] + ZERO_WIDTH_SPACE + token[1:])
        return text

    def _find_end_token(self) -> int | None:
        """Return the first special token that the template writes after a reply."""
        asked, reply = Message(role="user", content="a"), Message(role="assistant", content="b")
        try:
            rendered = self._apply([asked, reply], add_generation_prompt=False)
        except TemplateError:
            rendered = ""
        after = rendered.rpartition(reply.content)[2]
        ids = self._tokenizer.encode(after, add_special_tokens=False)
        added = self._tokenizer.added_tokens_decoder
        special = {each for each, token in added.items() if token.special}
        end = next((each for each in ids if each in special), self._tokenizer.eos_token_id)
        return end if isinstance(end, int) else None

    def _apply(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        rendered = self._tokenizer.apply_chat_template(
            [asdict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        assert isinstance(rendered, str)
        return rendered

    def _can_render(self, *messages: Message) -> bool:
        try:
            self._apply(messages)
        except TemplateError:
            return False
        return True


def _without_system(messages: Sequence[Message]) -> list[Message]:
    # Some templates (Gemma's) have no system role: its text goes before the first question.
    system = "\n\n".join(each.content for each in messages if each.role == "system")
    rest = [each for each in messages if each.role != "system"]
    if system and rest:
        rest[0] = replace(rest[0], content=f"{system}\n\n{rest[0].content}")
    return rest
