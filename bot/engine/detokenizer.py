"""Decoding token ids to text while they arrive.

A token is not a character: one character may take several tokens, and a word may be written with
another space once its neighbour is known. So text is returned only when it decodes to whole
characters, and always as the difference between decoding with it and without it.
"""

from transformers import PreTrainedTokenizerBase

REPLACEMENT_CHARACTER = "\ufffd"
"""Character that decoding puts in the place of an unfinished one."""


class Detokenizer:
    """Decodes one reply. The pieces joined are the text of all its tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # where the decoded window begins
        self._decoded = 0  # tokens before this are in pieces already returned

    def add(self, token_id: int) -> str:
        """Return the text that this token completes; "" while a character is unfinished."""
        self._ids.append(token_id)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return the remaining text, unfinished characters included."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._decoded])
        now = self._decode(self._ids[self._start :])
        if not final and (now.endswith(REPLACEMENT_CHARACTER) or len(now) <= len(before)):
            return ""
        self._start, self._decoded = self._decoded, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
