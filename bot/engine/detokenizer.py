"""Text out of token ids as they come.

A token is not a character: one character may take several tokens, and a word may be written with
another space when its neighbour is known. So a stretch is given out only when it decodes to whole
characters, and always as the difference between decoding with it and without it.
"""

from transformers import PreTrainedTokenizerBase

REPLACEMENT_CHARACTER = "\ufffd"


class Detokenizer:
    """Decodes one reply. The pieces joined are the text of all its tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # where the decoded window begins
        self._given = 0  # tokens before this are in pieces already given

    def add(self, token_id: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._ids.append(token_id)
        return self._advance(final=False)

    def finish(self) -> str:
        """What is left, unfinished characters included."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._given])
        now = self._decode(self._ids[self._start :])
        if not final and (now.endswith(REPLACEMENT_CHARACTER) or len(now) <= len(before)):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
