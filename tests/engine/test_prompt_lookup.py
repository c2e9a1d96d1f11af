"""Drafts make replies faster and never change their text."""

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import make_tiny_model
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import batch as batches
from bot.engine.local.batch import Batch
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.prompt_lookup import PromptLookup, choose_draft_length
from bot.engine.local.weights import Weights, load_weights
from store.domain import FinishReason, Message

GREEDY = SamplingParams(max_new_tokens=60)
PROMPTS = [[5, 9, 14, 20, 33, 41], [7, 8], [11, 12, 13, 14], list(range(40, 75))]
DRAFTS = 4


@pytest.fixture
def mistaken(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make drafts go wrong after up to two tokens."""
    propose = PromptLookup.propose

    def propose_badly(lookup: PromptLookup, most: int) -> None:
        propose(lookup, most)
        right = len(lookup._tokens) % 3
        lookup.draft = [*lookup.draft[:right], 99, 98, 97][:most]

    monkeypatch.setattr(PromptLookup, "propose", propose_badly)


def write(batch: Batch, written: list[list[int]], steps: int) -> None:
    for _ in range(steps):
        for row, tokens in zip(written, batch.step(), strict=True):
            row += tokens


def alone(weights: Weights, prompt: list[int], tokens: int, sampling: SamplingParams) -> list[int]:
    batch = Batch(weights.model)
    batch.join([prompt], [sampling])
    return [token for _ in range(tokens) for [token] in batch.step()]


def test_what_followed_the_same_words_before_is_drafted() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 9, 2, 3, 5, 6, 7, 1, 2, 3])

    lookup.propose(3)
    assert lookup.draft == [4, 9, 2]  # after 1 2 3, not after the later 2 3

    lookup.observe([5])
    lookup.propose(8)
    assert lookup.draft == [6, 7, 1, 2, 3, 5, 6, 7]  # and so on, round and round


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3]])
def test_what_was_never_said_is_not_drafted(tokens: list[int]) -> None:
    lookup = PromptLookup(tokens)

    lookup.propose(8)

    assert lookup.draft == []
    assert choose_draft_length([lookup]) == 0


def test_the_last_time_counts() -> None:
    lookup = PromptLookup([1, 5, 1, 6, 1])

    lookup.propose(1)

    assert lookup.draft == [6]


def drafting(rights: list[bool]) -> PromptLookup:
    """Return a lookup whose drafts were right and wrong in this order, and that has another."""
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 8] * 3)
    for right in rights:
        lookup.propose(8)
        lookup.observe([lookup.draft[0] if right else 99])
        lookup.propose(0)
        lookup.observe([1, 2, 3, 4, 5, 6, 7, 8] * 3)
    lookup.propose(8)
    assert len(lookup.draft) == 8
    return lookup


def test_more_is_drafted_where_drafts_have_been_right() -> None:
    counts = [
        choose_draft_length([drafting([right] * 60) for _ in range(rows)])
        for right in (False, True)
        for rows in (1, 16)
    ]

    assert counts[0] <= 1
    assert counts[1] == 0
    assert counts[2] == counts[3] == 8


def test_chances_fall_with_each_token() -> None:
    probabilities = list(drafting([True, False, True]).acceptance_probabilities())

    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < probabilities[-1] < probabilities[0] < 1


def test_greedy_rows_are_the_same_with_drafts_and_are_written_faster(
    tiny_weights: Weights,
) -> None:
    batch = Batch(tiny_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS, [GREEDY] * 4)
    written: list[list[int]] = [[] for _ in PROMPTS]

    write(batch, written, 10)

    for row, prompt in zip(written, PROMPTS, strict=True):
        assert row == alone(tiny_weights, prompt, len(row), GREEDY)
    assert sum(map(len, written)) > 10 * len(PROMPTS)


@pytest.mark.usefixtures("mistaken")
@pytest.mark.parametrize("most_padding", [0.0, 10.0], ids=["gaps closed", "gaps left"])
def test_wrong_drafts_leave_nothing_behind(
    tiny_weights: Weights, most_padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_PADDING", most_padding)
    batch = Batch(tiny_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS[:2], [GREEDY] * 2)
    written: list[list[int]] = [[] for _ in PROMPTS]

    write(batch, written[:2], 8)
    batch.join(PROMPTS[2:], [GREEDY] * 2)  # two join
    write(batch, written, 8)
    batch.keep([1, 2])  # two leave
    write(batch, written[1:3], 8)
    longest = int(batch._mask.sum(dim=1).max())
    assert batch._mask.shape[1] <= (1 + most_padding) * longest + 1 + DRAFTS

    for row, prompt in zip(written, PROMPTS, strict=True):
        assert row == alone(tiny_weights, prompt, len(row), GREEDY)
    layers = batch.copy_prefix(0, 5)
    again = Batch(tiny_weights.model)
    again.join([[*PROMPTS[1], *written[1]][:5]], [GREEDY])
    for (keys, values), (its_keys, its_values) in zip(layers, again.copy_prefix(0, 5), strict=True):
        torch.testing.assert_close(keys, its_keys)
        torch.testing.assert_close(values, its_values)


def foresee(monkeypatch: pytest.MonkeyPatch, prompt: list[int], tokens: list[int]) -> None:
    """Draft `tokens`, which really follow `prompt`; draft nothing after other prompts."""

    def propose(lookup: PromptLookup, most: int) -> None:
        written = len(lookup._tokens) - len(prompt)
        ours = lookup._tokens[: len(prompt)] == prompt
        lookup.draft = tokens[written : written + most] if ours else []

    monkeypatch.setattr(PromptLookup, "propose", propose)


@pytest.mark.usefixtures("eager")
def test_a_seed_draws_the_same_tokens_with_drafts(
    tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = SamplingParams(
        temperature=0.7, top_p=0.9, repetition_penalty=1.3, seed=3, max_new_tokens=60
    )
    expected = alone(tiny_weights, PROMPTS[3], 40, seeded)
    foresee(monkeypatch, PROMPTS[3], expected)
    batch = Batch(tiny_weights.model, draft_tokens=DRAFTS)
    batch.join(PROMPTS[2:], [GREEDY, seeded])
    written: list[list[int]] = [[], []]

    write(batch, written, 7)

    assert len(written[1]) == 1 + 6 * (1 + DRAFTS)  # each is drafted right
    assert written[1] == expected[: len(written[1])]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("ahead", [0, 1], ids=["at its end", "beside it"])
def test_nothing_is_drafted_or_placed_beyond_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """The last usable position is the last row of GPT-2's table of positions."""
    model = make_tiny_model(tmp_path / "model", architecture="gpt2", context_tokens=40)
    weights = load_weights(str(model), models_folder=tmp_path, device="cpu", dtype=torch.float32)
    long, short = list(range(50, 86)), list(range(20, 30))
    samplings = [replace(GREEDY, max_new_tokens=40 - len(prompt)) for prompt in (long, short)]
    expected = [
        alone(weights, prompt, sampling.max_new_tokens, sampling)
        for prompt, sampling in zip((long, short), samplings, strict=True)
    ]
    foresee(monkeypatch, [long, short][ahead], expected[ahead])
    batch = Batch(weights.model, draft_tokens=8)
    batch.join([long, short], samplings)
    written: list[list[int]] = [[], []]

    while len(written[0]) < samplings[0].max_new_tokens:
        write(batch, written, 1)

    for tokens, its in zip(written, expected, strict=True):
        assert tokens == its[: len(tokens)]


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
async def test_an_engine_that_drafts_says_the_same(tiny_weights: Weights) -> None:
    completions = []
    for drafts in (0, DRAFTS):
        engine = LocalEngine(tiny_weights, draft_tokens=drafts, prefix_bytes=10_000_000)
        try:
            first = await reply(engine, "one two one two one two one", GREEDY)
            second = await reply(engine, f"one two one two one two one{first.text}", GREEDY)
        finally:
            await engine.close()
        completions.append([replace(each, seconds=0) for each in (first, second)])

    assert completions[0] == completions[1]


@pytest.mark.usefixtures("eager")
async def test_a_reply_ends_where_it_would_in_the_middle_of_a_draft(
    tiny_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = replace(GREEDY, temperature=2.0, seed=1)
    prompt = tiny_weights.template.encode([Message(role="user", content="one two")])
    tokens = alone(tiny_weights, prompt, 12, warm)
    foresee(monkeypatch, prompt, tokens)
    end = 7  # a token, and then five at a time: the second of the second five
    assert tokens[end] not in tokens[:end]
    ending = replace(tiny_weights, end_tokens=frozenset({tokens[end]}))
    engine = LocalEngine(ending, draft_tokens=DRAFTS)
    try:
        completion = await reply(engine, "one two", warm)
    finally:
        await engine.close()

    assert completion.finish_reason is FinishReason.STOP
    assert completion.completion_tokens == end
