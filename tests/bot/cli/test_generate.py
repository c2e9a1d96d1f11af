"""Completion of a file of prompts: the same lines come out, with completions."""

import json
from pathlib import Path

import pytest

from bot.cli.generate import AT_ONCE, Line, generate, read_lines, write_rows
from bot.engine.base import SamplingParams
from bot.engine.errors import EngineError
from bot.errors import BotError, UsageError
from store.domain import Message
from tests.conftest import MakeAdapter
from tests.fakes import FakeEngine

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def read(path: Path, *rows: object, system_prompt: str = "") -> tuple[Line, ...]:
    """Write rows as lines, and read them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_lines(path, system_prompt=system_prompt)


def prompts(*texts: str) -> list[Line]:
    return [
        Line(
            number=number,
            row={"prompt": text},
            messages=(Message(role="user", content=text),),
        )
        for number, text in enumerate(texts, 1)
    ]


def test_a_prompt_is_asked_after_the_system_prompt(path: Path) -> None:
    [line] = read(path, {"prompt": "why?"}, system_prompt="Be brief.")

    assert line.messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="why?"),
    )


def test_a_prompt_is_asked_alone_where_there_is_no_system_prompt(path: Path) -> None:
    [line] = read(path, {"prompt": "why?"})

    assert line.messages == (Message(role="user", content="why?"),)


def test_messages_are_given_as_they_are(path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "why?"},
    ]

    [line] = read(path, {"messages": messages}, system_prompt="Be brief.")

    assert line.messages == tuple(Message(**each) for each in messages)  # type: ignore[arg-type]


def test_a_row_keeps_every_key_that_it_came_with(path: Path) -> None:
    row = {"id": 7, "prompt": "wóher?", "tags": ["a", None]}

    [line] = read(path, row)

    assert line.row == row


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(
    path: Path, end: str, encoding: str
) -> None:
    line = json.dumps({"prompt": "wóher?"}, ensure_ascii=False)
    path.write_bytes(end.join(["", line, "  ", line]).encode(encoding))

    lines = read_lines(path, system_prompt="")

    assert [each.row["prompt"] for each in lines] == ["wóher?", "wóher?"]


@pytest.mark.parametrize(
    "bad",
    [
        '{"prompt": "why?"',
        "why?",
        "[]",
        "null",
        "{}",
        '{"prompt": " "}',
        '{"prompt": 7}',
        '{"messages": []}',
        '{"messages": "why?"}',
        '{"messages": ["why?"]}',
        '{"messages": [{"role": "tool", "content": "x"}]}',
        '{"messages": [{"role": ["user"], "content": "x"}]}',
        '{"messages": [{"role": "user"}]}',
        '{"prompt": "half a pair: \\ud800"}',
        '{"messages": [{"role": "user", "content": "\\udfff"}]}',
        "[" * 100_000,
    ],
    ids=range(16),
)
def test_a_bad_line_is_named_by_number(path: Path, bad: str) -> None:
    path.write_text(f'{{"prompt": "fine"}}\n\n{bad}\nand bad again\n', encoding="utf-8")

    with pytest.raises(UsageError, match=r"prompts\.jsonl, line 3: "):
        read_lines(path, system_prompt="")


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_a_file_without_a_line_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match="has no prompts"):
        read_lines(path, system_prompt="")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "wóher?"}'.encode("latin-1"))

    for place in (tmp_path / "nowhere.jsonl", tmp_path, tmp_path / "latin.jsonl"):
        with pytest.raises(UsageError, match=f"cannot read {place}: "):
            read_lines(place, system_prompt="")


async def test_every_row_is_completed_in_its_place(path: Path) -> None:
    lines = read(path, *({"id": number, "prompt": f"number {number}"} for number in range(100)))
    done: list[None] = []

    rows = await generate(
        FakeEngine(queue_size=AT_ONCE),
        lines,
        GREEDY,
        adapter=None,
        done=lambda: done.append(None),
    )

    assert rows == [
        {
            "id": number,
            "prompt": f"number {number}",
            "completion": f"You said: number {number}",
            "completion_tokens": 4,
            "adapter": None,
        }
        for number in range(100)
    ]
    assert len(done) == 100


async def test_a_row_that_was_completed_before_is_completed_anew() -> None:
    line = Line(
        number=1,
        row={"prompt": "why?", "completion": "old", "adapter": "a1-00000000"},
        messages=(Message(role="user", content="why?"),),
    )

    [row] = await generate(FakeEngine(), [line], GREEDY, adapter=None)

    assert (row["completion"], row["adapter"]) == ("You said: why?", None)


async def test_a_row_names_the_adapter_that_completed_it(make_adapter: MakeAdapter) -> None:
    engine, adapter = FakeEngine(), make_adapter("fake")
    await engine.load_adapter(adapter)

    rows = await generate(engine, prompts("a", "b"), GREEDY, adapter=adapter.name)

    assert [row["adapter"] for row in rows] == [adapter.name] * 2


async def test_no_more_lines_wait_for_the_engine_than_it_has_room_for() -> None:
    lines = prompts(*(f"number {number}" for number in range(3 * AT_ONCE)))

    rows = await generate(FakeEngine(queue_size=AT_ONCE), lines, GREEDY, adapter=None)

    assert len(rows) == 3 * AT_ONCE


async def test_each_line_has_dice_of_its_own_that_follow_from_the_seed() -> None:
    engine = FakeEngine()
    sampling = SamplingParams(temperature=1.0, max_new_tokens=50, seed=40)

    await generate(engine, prompts("a", "b", "c"), sampling, adapter=None)

    asked = [prompt[-1].content for prompt in engine.prompts]
    seeds = [each.seed for each in engine.samplings]
    assert dict(zip(asked, seeds, strict=True)) == {"a": 40, "b": 41, "c": 42}


async def test_no_line_has_a_seed_where_none_was_asked_for() -> None:
    engine = FakeEngine()

    await generate(engine, prompts("a", "b"), GREEDY, adapter=None)

    assert engine.samplings == [GREEDY, GREEDY]


async def test_an_engine_that_fails_says_so() -> None:
    engine = FakeEngine()
    engine.failure = EngineError("the model failed")

    with pytest.raises(EngineError, match="the model failed"):
        await generate(engine, prompts("a", "b"), GREEDY, adapter=None)


def test_rows_are_written_one_a_line_as_people_can_read_them(tmp_path: Path) -> None:
    target = tmp_path / "replies.jsonl"

    write_rows(target, [{"completion": "wóher?\nda"}, {"completion": "so"}])

    assert target.read_text(encoding="utf-8").splitlines() == [
        '{"completion": "wóher?\\nda"}',
        '{"completion": "so"}',
    ]


def test_a_file_is_put_in_place_at_once_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "replies.jsonl"
    target.write_text("what was there before")

    with pytest.raises(TypeError):
        write_rows(target, [{"completion": "fine"}, {"completion": object()}])
    assert target.read_text() == "what was there before"

    write_rows(target, [{"completion": "fine"}])
    assert target.read_text() == '{"completion": "fine"}\n'


def test_nothing_is_left_beside_a_file_that_was_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "replies.jsonl", [{"completion": "fine"}])

    assert [each.name for each in tmp_path.iterdir()] == ["replies.jsonl"]


def test_the_prompts_may_be_overwritten_by_their_completions(path: Path) -> None:
    [line] = read(path, {"prompt": "why?"})

    write_rows(path, [{**line.row, "completion": "because"}])

    assert read_lines(path, system_prompt="")[0].row["completion"] == "because"


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    for place in (tmp_path / "nowhere" / "replies.jsonl", tmp_path / "folder"):
        with pytest.raises(BotError, match=f"cannot write {place}: "):
            write_rows(place, [{"completion": "fine"}])
