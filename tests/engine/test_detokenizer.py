"""Decoding of tokens into text while they are generated."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tiny_models import make_tiny_tokenizer
from bot.engine.detokenizer import Detokenizer

TOKENIZER = make_tiny_tokenizer()


def stream(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*(detokenizer.add(each) for each in ids), detokenizer.finish()]


@given(text=st.text(max_size=60))
def test_the_pieces_of_any_text_join_to_it(text: str) -> None:
    assert "".join(stream(TOKENIZER.encode(text))) == text


@given(ids=st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_the_pieces_of_any_tokens_join_to_what_they_decode_to(ids: list[int]) -> None:
    assert "".join(stream(ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_comes_whole() -> None:
    pieces = stream(TOKENIZER.encode("🙂"))

    assert [piece for piece in pieces if piece] == ["🙂"]
