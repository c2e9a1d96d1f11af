"""Preference files in TRL's formats: each is read, a bad line is named, what goes out comes in."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.database import Database
from store.domain import Message, Rating
from store.errors import PreferencesUnreadable
from store.examples import Examples
from store.imports import Preference
from store.preferences import MAX_LINE_CHARS, read_preferences, write_preferences
from tests.store.talk import correct, rate, take_in, talk

WHY = (Message(role="user", content="why?"),)
GOOD = {"prompt": "why?", "completion": "because", "label": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ratings.jsonl"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(path: Path, *rows: object) -> tuple[Preference, ...]:
    """Write rows as lines, and read them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_preferences(path)


FORMATS = [
    (
        {"prompt": "why?", "completion": "because", "label": True},
        Preference(prompt=WHY, completion="because", label=True),
    ),
    (
        {"prompt": "why?", "completion": "because", "label": False},
        Preference(prompt=WHY, completion="because", label=False),
    ),
    (
        {"prompt": "why?", "chosen": "because", "rejected": "so"},
        Preference(prompt=WHY, completion="because", rejected="so"),
    ),
    (
        {"prompt": "why?", "completion": "because"},
        Preference(prompt=WHY, completion="because"),
    ),
]


@pytest.mark.parametrize(("row", "expected"), FORMATS)
def test_each_format_is_read(path: Path, row: dict[str, Any], expected: Preference) -> None:
    assert read(path, row) == (expected,)


@pytest.mark.parametrize(("row", "expected"), FORMATS)
def test_messages_stand_for_strings(path: Path, row: dict[str, Any], expected: Preference) -> None:
    texts = ("completion", "chosen", "rejected")
    replies = {name: said(row[name]) for name in texts if name in row}
    assert read(path, {**row, **replies, "prompt": [user(row["prompt"])]}) == (expected,)


def test_a_prompt_may_be_a_whole_conversation(path: Path) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, user("Hi"), *said("Hello!"), user("why?")]
    [read_back] = read(path, {**GOOD, "prompt": prompt})
    assert read_back.prompt == tuple(Message(**each) for each in prompt)  # type: ignore[arg-type]


def test_the_lines_of_a_file_may_be_of_different_formats_and_keep_their_order(path: Path) -> None:
    assert read(path, *(row for row, _ in FORMATS)) == tuple(each for _, each in FORMATS)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(
    path: Path, end: str, encoding: str
) -> None:
    line = json.dumps({**GOOD, "prompt": "wóher?"}, ensure_ascii=False)
    path.write_bytes(end.join(["", line, "   ", line, "", ""]).encode(encoding))
    [first, second] = read_preferences(path)
    assert first == second
    assert first.prompt[0].content == "wóher?"


def test_what_only_looks_like_the_end_of_a_line_is_text(path: Path) -> None:
    text = "one\u2028two\x85three"
    line = json.dumps({**GOOD, "completion": text}, ensure_ascii=False)
    path.write_text(line, encoding="utf-8")
    assert read_preferences(path)[0].completion == text


BAD_LINES = [
    ('{"prompt": "why?"', "it is not valid JSON"),
    ("why?", "it is not valid JSON"),
    ("[1, 2]", "it is not a JSON object"),
    ("null", "it is not a JSON object"),
    ("{}", "prompt must be a text or a list of messages"),
    ({"completion": "because", "label": True}, "prompt must be a text or a list"),
    ({**GOOD, "prompt": 7}, "prompt must be a text or a list of messages"),
    ({**GOOD, "prompt": []}, "prompt must be a text or a list of messages"),
    ({**GOOD, "prompt": " \n"}, "prompt is empty"),
    ({**GOOD, "prompt": said("because")}, "must end with a message of the user"),
    ({**GOOD, "prompt": ["why?"]}, "prompt holds something that is not a message"),
    ({**GOOD, "prompt": [{"role": "tool", "content": "x"}]}, "not a message with role"),
    (
        {**GOOD, "prompt": [{"role": ["user"], "content": "x"}]},
        "not a message with role",
    ),
    (
        {**GOOD, "prompt": [{"role": "user", "content": None}]},
        "not a message with role",
    ),
    ({"prompt": "why?"}, "the keys must be .* these are prompt;"),
    ({**GOOD, "rejected": "so"}, "the keys must be .* completion, label, prompt, rejected"),
    ({**GOOD, "id": 7}, "the keys must be .* completion, id, label, prompt"),
    ({"prompt": "why?", "chosen": "because"}, "the keys must be .* these are chosen, prompt"),
    ({**GOOD, "label": 1}, "label must be true or false"),
    ({**GOOD, "label": "true"}, "label must be true or false"),
    ({**GOOD, "label": None}, "label must be true or false"),
    ({**GOOD, "completion": ""}, "completion is empty"),
    ({**GOOD, "completion": None}, "completion must be a text or a list of messages"),
    ({**GOOD, "completion": []}, "completion must be a text or a list of messages"),
    ({**GOOD, "completion": [user("why?")]}, "completion must be one message of the assistant"),
    ({**GOOD, "completion": said("a") * 2}, "completion must be one message of the assistant"),
    ({"prompt": "why?", "chosen": "so", "rejected": " "}, "rejected is empty"),
    (
        {"prompt": "why?", "chosen": "so", "rejected": said("so")},
        "chosen and rejected are the same",
    ),
    ("[" * 100_000, "recursion"),
    ({**GOOD, "completion": "x" * MAX_LINE_CHARS}, f"longer than {MAX_LINE_CHARS} characters"),
]


@pytest.mark.bad_input("a training file with a bad line")
@pytest.mark.parametrize(("bad", "why"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_by_number_and_nothing_of_the_file_is_taken(
    path: Path, bad: object, why: str
) -> None:
    good = json.dumps(GOOD)
    line = bad if isinstance(bad, str) else json.dumps(bad)
    path.write_text(f"{good}\n\n{line}\n{good}\nand bad again\n", encoding="utf-8")
    with pytest.raises(PreferencesUnreadable, match=why) as refused:
        read_preferences(path)
    assert str(refused.value).startswith(f"{path}, line 3: ")
    assert str(refused.value).endswith("; nothing was imported")


@pytest.mark.parametrize("text", ["", "\n \r\n", "\ufeff"])
def test_a_file_without_a_line_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PreferencesUnreadable, match="holds no preferences"):
        read_preferences(path)


def test_a_file_that_is_no_utf_8_is_refused(path: Path) -> None:
    path.write_bytes(json.dumps(GOOD).encode() + "\nwóher".encode("latin-1"))
    with pytest.raises(PreferencesUnreadable, match="not UTF-8 text: save it as UTF-8"):
        read_preferences(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(PreferencesUnreadable, match=f"cannot read {place}: "):
            read_preferences(place)


def test_what_is_exported_from_one_database_can_be_imported_into_another_and_is_the_same(
    sqlite: Database, postgres: Database, path: Path
) -> None:
    ours, theirs = (Examples(each) for each in (sqlite, postgres))
    turn_id = talk(sqlite, "who?", "nobody,\n“ever”\u2028")
    rate(sqlite, turn_id, Rating.DOWN)
    correct(sqlite, turn_id, "Åsa.")
    exported = list(write_preferences(ours.collect()))
    path.write_text("\n".join(exported), encoding="utf-8")
    assert take_in(postgres, read_preferences(path)) == 3
    assert list(write_preferences(theirs.collect())) == exported


def test_what_is_imported_is_exported_as_it_was(database: Database, path: Path) -> None:
    book = Examples(database)
    given = read(path, *(row for row, _ in FORMATS))
    take_in(database, given)
    path.write_text("\n".join(write_preferences(book.collect())), encoding="utf-8")
    assert set(read_preferences(path)) == set(given)
    assert take_in(database, read_preferences(path)) == 0


def test_an_export_has_a_line_of_messages_for_each_example(sqlite: Database) -> None:
    book = Examples(sqlite)
    turn_id = talk(sqlite, "why?", "because")
    rate(sqlite, turn_id, Rating.DOWN)
    correct(sqlite, turn_id, "It is so.")
    rows = [json.loads(line) for line in write_preferences(book.collect())]
    prompt = [user("why?")]
    assert rows == [
        {"prompt": prompt, "completion": said("because"), "label": False},
        {"prompt": prompt, "chosen": said("It is so."), "rejected": said("because")},
        {"prompt": prompt, "completion": said("It is so.")},
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("prompt", "completion", "label", "chosen", "rejected", "role", "content")
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
LINES = st.lists(JSON.map(json.dumps) | st.text(max_size=40), max_size=4).map("\n".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | LINES.map(lambda text: text.encode(errors="replace")))
def test_any_file_is_read_or_refused_with_its_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused = ""
    try:
        taken = read_preferences(path)
    except PreferencesUnreadable as error:
        taken, refused = (), str(error)
    assert taken or refused.startswith(str(path))
