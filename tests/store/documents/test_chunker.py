"""Chunks are slices of their section: nothing is lost but white space, nothing is too long."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store.documents.chunker import ChunkText, chunk
from store.documents.parser import ParsedDocument, Section

SENTENCES = [f"This is sentence number {number} of the handbook." for number in range(60)]

# Few letters, so that a chunk's text occurs at many places; and what cuts are made at.
prose = st.lists(
    st.sampled_from(
        ["a", "bb", "word.", "e.g.", " ", "\n", "\n\n", "\n- ", "。", "x" * 30, "e\u0301"]
    )
    | st.text(max_size=5)
).map("".join)


def document(*sections: tuple[str, str]) -> ParsedDocument:
    return ParsedDocument(
        title="Handbook",
        media_type="text/plain",
        sections=tuple(Section(heading=heading, text=text) for heading, text in sections),
    )


def texts(text: str, max_chars: int, overlap_chars: int = 0) -> list[str]:
    made = chunk(document(("", text)), max_chars=max_chars, overlap_chars=overlap_chars)
    return [piece.text for piece in made]


def tiles(text: str, pieces: list[str], overlap_chars: int) -> bool:
    """Return whether the pieces, laid over the text in order, leave only white space bare.

    Follows every place that a piece may stand at, since a short one occurs more than once.
    """
    ends = {0}
    for piece in pieces:
        starts = [at for at in range(len(text)) if text.startswith(piece, at)]
        ends = {
            start + len(piece)
            for start in starts
            for end in ends
            if (start < end < start + len(piece) and end - start <= overlap_chars)
            or (start >= end and not text[end:start].strip())
        }
    return any(not text[end:].strip() for end in ends)


@given(text=prose, max_chars=st.integers(1, 40), share=st.floats(0, 0.99))
@example(text="\u0301" * 100, max_chars=3, share=0.5)
@example(text="👩‍👩‍👧‍👦" * 9, max_chars=8, share=0.0)
@example(text="\ud800\udc00 " * 9, max_chars=2, share=0.0)
def test_chunks_tile_their_section_and_fit(text: str, max_chars: int, share: float) -> None:
    overlap_chars = int(max_chars * share)
    pieces = texts(text, max_chars, overlap_chars)
    assert all(0 < len(piece) <= max_chars and piece == piece.strip() for piece in pieces)
    assert tiles(text, pieces, overlap_chars)


@given(text=prose, max_chars=st.integers(1, 40))
def test_without_overlap_every_word_occurs_once_and_in_order(text: str, max_chars: int) -> None:
    assert "".join("".join(texts(text, max_chars)).split()) == "".join(text.split())


@given(sections=st.lists(st.tuples(st.text(max_size=3), prose), max_size=4))
def test_ordinals_count_through_the_sections_and_the_same_text_gives_the_same_chunks(
    sections: list[tuple[str, str]],
) -> None:
    made = chunk(document(*sections), max_chars=20, overlap_chars=5)
    assert [piece.ordinal for piece in made] == list(range(len(made)))
    assert made == chunk(document(*sections), max_chars=20, overlap_chars=5)
    filled = [heading for heading, text in sections if text.strip()]
    assert list(dict.fromkeys(piece.section for piece in made)) == list(dict.fromkeys(filled))


def test_a_section_that_fits_is_one_chunk_as_written() -> None:
    text = "One.\n\n    code\n\nTwo."
    assert chunk(document(("A › B", text))) == (ChunkText(ordinal=0, section="A › B", text=text),)


def test_a_chunk_never_spans_two_sections() -> None:
    made = chunk(document(("A", "a"), ("B", "b")))
    assert [(piece.section, piece.text) for piece in made] == [("A", "a"), ("B", "b")]


def test_a_heading_without_text_gives_nothing() -> None:
    assert chunk(document(("A", ""), ("B", " \n"))) == ()


def test_paragraphs_are_packed_whole() -> None:
    assert texts("aaaa\n\nbbbb\n\ncccc\n\ndddd", 12) == ["aaaa\n\nbbbb", "cccc\n\ndddd"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    assert texts(" ".join(SENTENCES), 200) == [
        " ".join(SENTENCES[at : at + 4]) for at in range(0, 60, 4)
    ]


def test_a_long_sentence_is_cut_between_words_and_a_long_word_anywhere() -> None:
    assert texts("aa bb cc dd", 5) == ["aa bb", "cc dd"]
    assert texts("abcdefgh ij", 3) == ["abc", "def", "gh", "ij"]


def test_a_list_is_cut_between_its_items() -> None:
    assert texts("- one two\n- three\n- four five", 18) == ["- one two\n- three", "- four five"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Ann met J. Smith. They left.", ["Dr. Ann met J. Smith.", "They left."]),
        ("It costs 3.14 today. Or no. 5 does!", ["It costs 3.14 today.", "Or no. 5 does!"]),
        ("She said no. We left.", ["She said no.", "We left."]),
        ("Bring it, e.g. Monday. Ok? Yes…", ["Bring it, e.g. Monday.", "Ok?", "Yes…"]),
        ("He said “Go.” Then left.", ["He said “Go.”", "Then left."]),
        ("今日は晴れ。「はい！」明日は雨？", ["今日は晴れ。", "「はい！」", "明日は雨？"]),
        ("1. Press start. Wait.", ["1. Press start.", "Wait."]),
        ("Версия 2. Привет, мир! Да.", ["Версия 2.", "Привет, мир!", "Да."]),
    ],
)
def test_sentences_end_where_a_reader_would_say(text: str, sentences: list[str]) -> None:
    for first, second in pairwise(sentences):
        both = text[text.index(first) : text.index(second) + len(second)]
        longest = max(len(first), len(second), len(both) - 1)
        assert texts(both, longest) == [first, second]


def test_the_overlap_is_the_last_whole_sentences_that_fit() -> None:
    pieces = texts(" ".join(SENTENCES), 200, overlap_chars=100)
    assert pieces[0] == " ".join(SENTENCES[:4])
    assert pieces[1] == " ".join(SENTENCES[2:6])


def test_there_is_no_overlap_across_sections_or_where_no_sentence_fits() -> None:
    made = chunk(document(("A", "x" * 100), ("B", "y")), max_chars=60, overlap_chars=30)
    assert [piece.text for piece in made] == ["x" * 60, "x" * 40, "y"]
    assert texts(" ".join(SENTENCES[:5]), 200, overlap_chars=20)[1] == SENTENCES[4]


def test_a_word_is_cut_before_a_character_and_not_before_its_accent() -> None:
    assert texts("e\u0301" * 4, 3) == ["e\u0301"] * 4
    assert texts("👩‍👧" * 3, 4) == ["👩‍👧"] * 3


@pytest.mark.parametrize(("max_chars", "overlap_chars"), [(100, 100), (100, 120), (0, 0), (9, -1)])
def test_an_overlap_as_long_as_a_chunk_is_refused(max_chars: int, overlap_chars: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        chunk(document(("", "text")), max_chars=max_chars, overlap_chars=overlap_chars)
