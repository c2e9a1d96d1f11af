"""Chunks: a document's text, cut into pieces small enough for the embedder.

Every chunk is a slice of one section's text, exactly as it stands there, without white space at
its ends. Invariant: the slices of a section, in order, cover it but for white space between two
of them; where a section is cut, a slice may begin a few whole sentences before the end of the one
before it (the overlap), so that a pronoun more often has the word it stands for in its chunk.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from store.documents.parser import ParsedDocument

_PARAGRAPH_END = re.compile(r"\n(?:[^\S\n]*\n)+")
_SENTENCE_END = re.compile(
    r"""[.!?…]["'”’»)\]]{0,3}\s+"""  # as most scripts end one
    r"""|[。！？｡．]+[」』”’）]{0,3}"""  # as Chinese and Japanese do, without a space
    r"""|[।۔።]"""  # Hindi, Urdu and Amharic too, with or without
    r"""|\n(?=[ \t]*(?:[-*+•|]|\d{1,3}[.)])\s)"""  # a list item or table row stands by itself
)
_WORD_END = re.compile(r"\s+")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘])([^\W\d_](?:[^\W_]|\.)*)\Z")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}\Z")
_LOOK_BACK = 16  # characters: longer than any abbreviation below
_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "hon", "gen", "col", "capt", "lt"),
    *("vs", "cf", "e.g", "i.e", "approx", "dept", "est", "inc", "ltd", "corp", "z.b", "d.h"),
    *("bzw", "ca", "mme", "mlle", "т.е", "т.д", "г", "ул"),
}
_BEFORE_A_NUMBER = {
    *("no", "nos", "nr", "fig", "figs", "vol", "ch", "sec", "art", "eq", "p", "pp", "jan", "feb"),
    *("mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
}
_JOINER = "\u200d"
_MAX_CLUSTER = 32  # code points; a letter under a taller pile of accents may be cut

_Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ChunkText:
    """One piece of a document; `ordinal` counts from 0, `section` is the heading's path."""

    ordinal: int
    section: str
    text: str


def chunk(
    document: ParsedDocument, *, max_chars: int = 700, overlap_chars: int = 120
) -> tuple[ChunkText, ...]:
    """Cut a document into chunks of 1 to `max_chars` characters, never across two sections.

    A section that fits is one chunk. A longer one is cut between paragraphs; where one of these
    does not fit, between its sentences, then its words, then anywhere but inside a character.
    Up to `overlap_chars` of whole sentences are repeated after a cut, where they fit.

    Raises ValueError unless 0 <= overlap_chars < max_chars.
    """
    if not 0 <= overlap_chars < max_chars:
        raise ValueError(f"an overlap of {overlap_chars} is not within chunks of {max_chars}")
    chunks: list[ChunkText] = []
    for section in document.sections:
        for start, end in _packed(section.text, max_chars, overlap_chars):
            text = section.text[start:end]
            chunks.append(ChunkText(ordinal=len(chunks), section=section.heading, text=text))
    return tuple(chunks)


def _packed(text: str, max_chars: int, overlap_chars: int) -> Iterator[_Span]:
    """Yield the spans of chunks, each of as many pieces as fit."""
    start = fresh = end = 0  # fresh: where the chunk's own text begins, behind its overlap
    for piece_start, piece_end in _pieces(text, max_chars):
        if end and piece_end - start > max_chars:
            yield start, end
            earliest = max(end - overlap_chars, fresh, start + 1, piece_end - max_chars)
            start = _sentence_start(text, (fresh, end), earliest, default=piece_start)
            fresh = piece_start
        elif not end:
            start = fresh = piece_start
        end = piece_end
    if end:
        yield start, end


def _sentence_start(text: str, span: _Span, earliest: int, *, default: int) -> int:
    """Return where the first sentence of the span begins that begins at `earliest` or later."""
    for paragraph in _between(text, span, _PARAGRAPH_END):
        for start, _ in _sentences(text, paragraph):
            if start >= earliest:
                return start
    return default


def _pieces(text: str, max_chars: int) -> Iterator[_Span]:
    """Yield spans of at most `max_chars`, the largest natural ones, without blank ends."""
    whole = _trimmed(text, (0, len(text)))
    if _fits(whole, max_chars):
        yield whole
        return
    for paragraph in _between(text, whole, _PARAGRAPH_END):
        if _fits(paragraph, max_chars):
            yield paragraph
            continue
        for sentence in _sentences(text, paragraph):
            if _fits(sentence, max_chars):
                yield sentence
                continue
            for word in _between(text, sentence, _WORD_END):
                yield from _slices(text, word, max_chars)


def _fits(span: _Span, max_chars: int) -> bool:
    return 0 < span[1] - span[0] <= max_chars


def _trimmed(text: str, span: _Span) -> _Span:
    """Return the span without white space at its ends; empty spans end where they start."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _cut(text: str, span: _Span, cuts: Iterator[int]) -> Iterator[_Span]:
    """Yield what lies between the cuts, trimmed, leaving out what is blank."""
    start, end = span
    for stop in (*cuts, end):
        piece = _trimmed(text, (start, stop))
        if piece[0] < piece[1]:
            yield piece
        start = stop


def _between(text: str, span: _Span, separator: re.Pattern[str]) -> Iterator[_Span]:
    return _cut(text, span, (match.end() for match in separator.finditer(text, *span)))


def _sentences(text: str, span: _Span) -> Iterator[_Span]:
    matches = _SENTENCE_END.finditer(text, *span)
    return _cut(text, span, (match.end() for match in matches if _ends_sentence(text, match)))


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Return whether a sentence ends here, and not an abbreviation, initial or list number."""
    if text[match.start()] != ".":
        return True
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    before = text[max(match.start() - _LOOK_BACK, 0) : match.start()]
    if _LIST_NUMBER.search(before):
        return False
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    if word[1].lower() in _BEFORE_A_NUMBER:
        return not following.isdigit()
    initial = len(word[1]) == 1 and word[1].isupper() and word[1] != "I"
    return not initial and word[1].lower() not in _ABBREVIATIONS


def _slices(text: str, span: _Span, max_chars: int) -> Iterator[_Span]:
    """Yield slices of a word that begin with a letter and not with its accents."""
    start, end = span
    while end - start > max_chars:
        stop = start + max_chars
        while stop > start and _continues(text, stop) and start + max_chars - stop < _MAX_CLUSTER:
            stop -= 1
        if stop == start or _continues(text, stop):
            stop = start + max_chars
        yield start, stop
        start = stop
    yield start, end


def _continues(text: str, index: int) -> bool:
    """Return whether the code point belongs to the character before it."""
    mark = text[index]
    return (
        unicodedata.category(mark).startswith("M")
        or _JOINER in (mark, text[index - 1])
        or "\U0001f3fb" <= mark <= "\U0001f3ff"  # skin tones
    )
