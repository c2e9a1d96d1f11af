"""Rendering: whatever a model writes, Telegram accepts it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from telegram import MessageEntity

from bot.telegram.render import MAX_ENTITIES, MOST_UNITS, Part, preview, render, sources_line
from loopback.text import utf16_length
from store.domain import Passage

PIECES = [
    *("**", "*", "_", "__", "~~", "||", "`", "```", "```python\n", "# ", "## ", "> ", "- ", "1. "),
    *("[", "](", ")", "![", "<", ">", "<b>", "</b>", "&amp;", "\\", "|", "|---|", "\n", "\n\n"),
    *(
        " ",
        "    ",
        "\t",
        "a",
        "word ",
        "😀",
        "👨‍👩‍👧",
        "e\u0301",
        "שלום",
        "https://x.org/a_b",
        "$x$",
    ),
    *("\u200b", "\u00a0", "x" * 100, "😀" * 500, "**b** " * 60, "\n" * 20),
]
markdown = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 6000)).map(lambda it: (it[0] * it[1])[:9000]),
)
quickly = settings(deadline=None, max_examples=80)


def passage(title: str, section: str = "") -> Passage:
    return Passage(chunk_id=1, document_id=1, title=title, section=section, text="x", score=1.0)


def covered(part: Part, entity: MessageEntity) -> str:
    """Return the text that an entity covers. Fails if it begins or ends inside a character."""
    units = part.text.encode("utf-16-le")
    return units[2 * entity.offset : 2 * (entity.offset + entity.length)].decode("utf-16-le")


def check(part: Part) -> None:
    """Check everything that Telegram requires of a message."""
    assert part.text.strip()
    assert utf16_length(part.text) <= MOST_UNITS
    assert len(part.entities) <= MAX_ENTITIES
    for entity in part.entities:
        assert entity.offset >= 0
        assert entity.length > 0
        assert entity.offset + entity.length <= utf16_length(part.text)
        covered(part, entity)


@quickly
@given(markdown)
@example("")
@example("```\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n```")
@example("`" + " " * 50 + "`")
@example("😀" * 5000)
@example("**" + "😀" * 5000 + "**")
@example("**b** " * 3000)
@example("\n" * 5000)
def test_any_text_makes_messages_that_telegram_takes(text: str) -> None:
    parts = render(text)

    assert parts
    for part in parts:
        check(part)


@quickly
@given(markdown, st.lists(st.text(max_size=80), min_size=1, max_size=20))
def test_any_sources_make_messages_that_telegram_takes(text: str, titles: list[str]) -> None:
    for part in render(text, [passage(title) for title in titles]):
        check(part)


@quickly
@given(markdown)
def test_any_beginning_of_a_reply_can_be_shown_as_one_message(text: str) -> None:
    check(preview(text))


@quickly
@given(st.lists(st.sampled_from(["word", "😀", "שלום", "naïve", "12"]), min_size=1, max_size=2000))
def test_splitting_loses_no_words(words: list[str]) -> None:
    parts = render(" ".join(words))

    assert [word for part in parts for word in part.text.split()] == words


@pytest.mark.parametrize(
    "code",
    [
        "`vector<int>`",
        "``vector<int>``",
        "```cpp\nvector<int>\n```",
        "~~~\nvector<int>\n~~~",
        "    vector<int>",
        "vector<int>",
        "**vector<int>**",
        "- vector<int>",
    ],
)
def test_angle_brackets_survive_however_they_are_written(code: str) -> None:
    (part,) = render(code)

    assert part.text.removeprefix("⦁ ") == "vector<int>"


def test_a_heading_is_bold_and_without_its_marks() -> None:
    (part,) = render("# Title\n\ntext")

    assert part.text == "Title\n\ntext"
    assert "bold" in [entity.type for entity in part.entities]


def test_code_keeps_its_language() -> None:
    (part,) = render("```python\nprint(1)\n```")

    assert [(entity.type, entity.language) for entity in part.entities] == [("pre", "python")]


def test_sources_are_named_once_each_best_first() -> None:
    passages = [passage("Tea", "Times"), passage("Cake"), passage("Tea", "Times")]

    assert sources_line(passages) == "Tea › Times · Cake"


def test_sources_stand_under_the_last_part_only() -> None:
    parts = render("word " * 2000, [passage("Tea")])

    assert ["📎" in part.text for part in parts] == [False] * (len(parts) - 1) + [True]


def test_the_preview_of_a_long_reply_shows_its_end() -> None:
    assert preview("word " * 2000 + "end").text.endswith("end")
