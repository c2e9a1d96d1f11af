"""Drafts make replies faster and never other: what is said is what would be said without."""

from contextlib import aclosing
from dataclasses import replace

import pytest
import torch

from bot.engine import batch as batches
from bot.engine.base import Completion, SamplingParams
from bot.engine.batch import Batch
from bot.engine.drafts import Lookup, worthwhile
from bot.engine.local import LocalEngine
from bot.engine.weights import Weights, load_weights
from store.domain import FinishReason, Message

GREEDY = SamplingParams(max_new_tokens=60)
PROMPTS = [[5, 9, 14, 20, 33, 41], [7, 8], [11, 12, 13, 14], list(range(40, 75))]
DRAFTS = 4


@pytest.fixture(scope="module")
def exact_weights(tiny_model: object, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """In fp32, where neither company nor drafts change anything that argmax could see."""
    folder = tmp_path_factory.mktemp("models")
    return load_weights(str(tiny_model), models_folder=folder, device="cpu", dtype=torch.float32)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is drafted is checked, right or not."""
    monkeypatch.setattr(
        batches, "worthwhile", lambda lookups: max(len(each.draft) for each in lookups)
    )


@pytest.fixture
def mistaken(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other draft goes wrong after a token or two."""
    look = Lookup.look

    def look_badly(lookup: Lookup, most: int) -> None:
        look(lookup, most)
        right = len(lookup._tokens) % 3
        lookup.draft = [*lookup.draft[:right], 99, 98, 97][:most]

    monkeypatch.setattr(Lookup, "look", look_badly)


def write(batch: Batch, written: list[list[int]], steps: int) -> None:
    for _ in range(steps):
        for row, tokens in zip(written, batch.step(), strict=True):
            row += tokens


def alone(weights: Weights, prompt: list[int], tokens: int, sampling: SamplingParams) -> list[int]:
    batch = Batch(weights.model)
    batch.join([prompt], [sampling])
    return [token for _ in range(tokens) for [token] in batch.step()]


def test_what_followed_the_same_words_before_is_drafted() -> None:
    lookup = Lookup([1, 2, 3, 4, 9, 2, 3, 5, 6, 7, 1, 2, 3])

    lookup.look(3)
    assert lookup.draft == [4, 9, 2]  # after 1 2 3, not after the later 2 3

    lookup.said([5])
    lookup.look(9)
    assert lookup.draft == [6, 7, 1, 2, 3, 5]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3]])
def test_what_was_never_said_is_not_drafted(tokens: list[int]) -> None:
    lookup = Lookup(tokens)

    lookup.look(8)

    assert lookup.draft == []
    assert worthwhile([lookup]) == 0


def test_the_last_time_counts() -> None:
    lookup = Lookup([1, 5, 1, 6, 1])

    lookup.look(1)

    assert lookup.draft == [6]


def drafting(rights: list[bool]) -> Lookup:
    """One whose drafts have been right and wrong so, and that has another."""
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 8] * 3)
    for right in rights:
        lookup.look(8)
        lookup.said([lookup.draft[0] if right else 99])
        lookup.look(0)
        lookup.said([1, 2, 3, 4, 5, 6, 7, 8] * 3)
    lookup.look(8)
    assert len(lookup.draft) == 8
    return lookup


def test_more_is_drafted_where_drafts_have_been_right() -> None:
    counts = [
        worthwhile([drafting([right] * 60) for _ in range(rows)])
        for right in (False, True)
        for rows in (1, 16)
    ]

    assert counts[0] <= 1
    assert counts[1] == 0
    assert counts[2] == counts[3] == 8


def test_chances_fall_with_each_token() -> None:
    chances = list(drafting([True, False, True]).chances())

    assert chances == sorted(chances, reverse=True)
    assert 0 < chances[-1] < chances[0] < 1


@pytest.mark.usefixtures("eager")
def test_greedy_rows_are_the_same_with_drafts_and_are_written_faster(
    exact_weights: Weights,
) -> None:
    batch = Batch(exact_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS, [GREEDY] * 4)
    written: list[list[int]] = [[] for _ in PROMPTS]

    write(batch, written, 20)

    for row, prompt in zip(written, PROMPTS, strict=True):
        assert row == alone(exact_weights, prompt, len(row), GREEDY)
    assert sum(map(len, written)) > 20 * len(PROMPTS)


@pytest.mark.usefixtures("mistaken")
@pytest.mark.parametrize("most_padding", [0.0, 10.0], ids=["gaps closed", "gaps left"])
def test_wrong_drafts_leave_nothing_behind(
    exact_weights: Weights, most_padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_PADDING", most_padding)
    batch = Batch(exact_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS[:2], [GREEDY] * 2)
    written: list[list[int]] = [[] for _ in PROMPTS]

    write(batch, written[:2], 8)
    batch.join(PROMPTS[2:], [GREEDY] * 2)  # two join
    write(batch, written, 8)
    batch.keep([1, 2])  # two leave
    write(batch, written[1:3], 8)

    for row, prompt in zip(written, PROMPTS, strict=True):
        assert row == alone(exact_weights, prompt, len(row), GREEDY)
    layers = batch.read(0, 5)
    again = Batch(exact_weights.model)
    again.join([[*PROMPTS[1], *written[1]][:5]], [GREEDY])
    for (keys, values), (its_keys, its_values) in zip(layers, again.read(0, 5), strict=True):
        torch.testing.assert_close(keys, its_keys)
        torch.testing.assert_close(values, its_values)


@pytest.mark.usefixtures("eager")
def test_a_seed_draws_the_same_tokens_with_drafts(exact_weights: Weights) -> None:
    seeded = SamplingParams(
        temperature=0.7, top_p=0.9, repetition_penalty=1.1, seed=3, max_new_tokens=60
    )
    batch = Batch(exact_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS[3:], [seeded])
    written: list[list[int]] = [[]]

    write(batch, written, 12)

    assert written[0] == alone(exact_weights, PROMPTS[3], len(written[0]), seeded)


@pytest.mark.usefixtures("eager")
def test_nothing_is_drafted_beyond_what_a_row_may_say(exact_weights: Weights) -> None:
    batch = Batch(exact_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS[3:], [replace(GREEDY, max_new_tokens=7)])
    written: list[list[int]] = [[]]

    while len(written[0]) < 7:
        write(batch, written, 1)

    assert len(written[0]) == 7


async def reply(engine: LocalEngine, text: str, sampling: SamplingParams) -> Completion:
    said = ""
    async with aclosing(engine.stream([Message(role="user", content=text)], sampling)) as stream:
        async for piece in stream:
            if isinstance(piece, Completion):
                assert piece.text == said
                return piece
            said += piece
    raise AssertionError


@pytest.mark.usefixtures("eager")
async def test_an_engine_that_drafts_says_the_same(exact_weights: Weights) -> None:
    completions = []
    for drafts in (0, DRAFTS):
        engine = LocalEngine(exact_weights, draft_tokens=drafts, prefix_bytes=10_000_000)
        try:
            first = await reply(engine, "one two one two one two one", GREEDY)
            second = await reply(engine, f"one two one two one two one{first.text}", GREEDY)
        finally:
            await engine.close()
        completions.append([replace(each, seconds=0) for each in (first, second)])

    assert completions[0] == completions[1]


@pytest.mark.usefixtures("eager")
async def test_a_reply_ends_where_it_would_in_the_middle_of_a_draft(
    exact_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = replace(GREEDY, temperature=2.0, seed=1)
    prompt = exact_weights.template.encode([Message(role="user", content="one two")])
    tokens = alone(exact_weights, prompt, 12, warm)
    end = 7  # two steps of all five tokens would write ten
    assert tokens[end] not in tokens[:end]

    def look_ahead(lookup: Lookup, most: int) -> None:
        written = len(lookup._tokens) - len(prompt)
        lookup.draft = tokens[written : written + most]

    monkeypatch.setattr(Lookup, "look", look_ahead)
    ending = replace(exact_weights, end_tokens=frozenset({tokens[end]}))
    engine = LocalEngine(ending, draft_tokens=DRAFTS)
    try:
        completion = await reply(engine, "one two", warm)
    finally:
        await engine.close()

    assert completion.finish_reason is FinishReason.STOP
    assert completion.completion_tokens == end


@pytest.mark.usefixtures("eager")
async def test_the_end_of_the_context_is_not_drafted_over(exact_weights: Weights) -> None:
    text = "one two " * 3
    asked = len(exact_weights.template.encode([Message(role="user", content=text)]))
    narrow = replace(exact_weights, context_tokens=asked + 9)
    engine = LocalEngine(narrow, draft_tokens=DRAFTS)

    try:
        completion = await reply(engine, text, GREEDY)
    finally:
        await engine.close()

    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.completion_tokens == 9
