"""Rows in a batch get the tokens they would get alone, whichever others join and leave."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from bot.engine.base import SamplingParams
from bot.engine.local import attention
from bot.engine.local.batch import Batch, Prefill, prefill_shared_prefix, split_by_size
from bot.engine.local.weights import Weights, load_weights

GREEDY = SamplingParams()
PROMPTS = [[5, 9, 14, 20, 33, 41], [7, 8], [11, 12, 13, 14], list(range(40, 75))]


@pytest.fixture(scope="module")
def exact_weights(tiny_model: object, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return the tiny model in fp32, where other rows change nothing that argmax could see."""
    folder = tmp_path_factory.mktemp("models")
    return load_weights(str(tiny_model), models_folder=folder, device="cpu", dtype=torch.float32)


def steps(batch: Batch, count: int) -> list[list[int]]:
    """Write so many tokens of each row, without drafts; return a list of rows for each step."""
    return [[token for [token] in batch.step()] for _ in range(count)]


def alone(weights: Weights, prompt: list[int], tokens: int) -> list[int]:
    batch = Batch(weights.model)
    batch.join([prompt], [GREEDY])
    return [token for [token] in steps(batch, tokens)]


def test_greedy_rows_are_the_same_alone_and_in_company(exact_weights: Weights) -> None:
    batch = Batch(exact_weights.model)
    batch.join(PROMPTS, [GREEDY] * 4)

    written = steps(batch, 10)

    for row, prompt in enumerate(PROMPTS):
        assert [step[row] for step in written] == alone(exact_weights, prompt, 10)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1] * 4], ids=["padded", "even"])
def test_many_tokens_are_attended_to_as_few_are(
    tiny_model: Path,
    tmp_path: Path,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = load_weights(
        str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.bfloat16
    )

    def scores() -> torch.Tensor:
        batch = Batch(weights.model)
        batch.join(prompts, [GREEDY] * 4)
        for _ in range(4):
            batch.step()
        return batch._logits

    few = scores()
    kernel = Mock(side_effect=attention.scaled_dot_product_attention)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", kernel)
    monkeypatch.setattr(attention, "MATMUL_MIN_KEYS", 1)
    monkeypatch.setattr(attention, "multiplies_bf16", lambda: True)  # whatever processor this is
    many = scores()

    kernel.assert_not_called()
    torch.testing.assert_close(many, few, rtol=0.02, atol=0.02)


def test_prompts_are_read_as_transformers_reads_them(tiny_model: Path, tmp_path: Path) -> None:
    weights = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu")
    with torch.inference_mode():
        [expected] = weights.model(input_ids=torch.tensor([PROMPTS[3]])).logits[:, -1]
    portions = (100, 12, 4)  # all at once; three of each row; one, padding alone for most of it
    for portion in portions:
        prefill = Prefill(weights.model, [*PROMPTS[1:], PROMPTS[1]], [GREEDY] * 4)
        while not prefill.advance(portion):
            pass

        assert torch.isfinite(prefill.logits).all()
        torch.testing.assert_close(prefill.logits[2], expected, rtol=0.02, atol=0.02)


def test_a_row_of_padding_so_far_is_made_of_numbers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu")
    monkeypatch.setattr(attention, "MATMUL_MIN_KEYS", 1)

    prefill = Prefill(weights.model, [PROMPTS[3], PROMPTS[1]], [GREEDY] * 2)
    while not prefill.advance(2):
        pass

    assert torch.isfinite(prefill.logits).all()


def test_a_row_that_joins_late_changes_nothing_for_the_others(exact_weights: Weights) -> None:
    batch = Batch(exact_weights.model)
    batch.join([PROMPTS[1]], [GREEDY])
    early = [token for [token] in steps(batch, 3)]

    batch.join([PROMPTS[3], PROMPTS[2]], [GREEDY] * 2)
    late = steps(batch, 6)

    assert early + [step[0] for step in late] == alone(exact_weights, PROMPTS[1], 9)
    assert [step[1] for step in late] == alone(exact_weights, PROMPTS[3], 6)
    assert [step[2] for step in late] == alone(exact_weights, PROMPTS[2], 6)


def test_a_row_that_leaves_changes_nothing_for_the_others(exact_weights: Weights) -> None:
    batch = Batch(exact_weights.model)
    batch.join(PROMPTS, [GREEDY] * 4)
    before = steps(batch, 4)

    batch.keep([1, 2])
    after = steps(batch, 4)

    assert len(batch) == 2
    for place, row in enumerate((1, 2)):
        written = [step[row] for step in before] + [step[place] for step in after]
        assert written == alone(exact_weights, PROMPTS[row], 8)


def test_a_batch_that_everybody_left_can_be_joined_again(exact_weights: Weights) -> None:
    batch = Batch(exact_weights.model)
    batch.join([PROMPTS[0]], [GREEDY])
    batch.step()
    batch.keep([])

    batch.join([PROMPTS[2]], [GREEDY])

    assert [token for [token] in steps(batch, 5)] == alone(exact_weights, PROMPTS[2], 5)


def test_a_seed_draws_the_same_tokens_in_any_company(exact_weights: Weights) -> None:
    seeded = SamplingParams(temperature=1.0, top_p=0.9, seed=3)
    crowd, single = Batch(exact_weights.model), Batch(exact_weights.model)
    crowd.join([PROMPTS[3], PROMPTS[0]], [SamplingParams(temperature=1.0), seeded])
    single.join([PROMPTS[0]], [seeded])

    assert [row[1] for row in steps(crowd, 8)] == [row[0] for row in steps(single, 8)]


def test_a_beginning_that_all_share_is_read_once_and_changes_nothing(
    exact_weights: Weights,
) -> None:
    beginning = list(range(30, 40))
    prompts = [beginning + prompt for prompt in PROMPTS]
    prefix = prefill_shared_prefix(exact_weights.model, prompts)
    assert prefix is not None
    assert prefix.tokens == len(beginning)
    batch = Batch(exact_weights.model)
    batch.join(prompts[:3], [GREEDY] * 3, prefix=prefix)
    written: dict[int, list[int]] = {row: [] for row in range(4)}

    for rows in ([0, 1, 2], [0, 2], [0, 2, 3]):  # one leaves, another joins
        if len(rows) < len(batch):
            batch.keep([0, 2])
        if len(rows) > len(batch):
            batch.join(prompts[3:], [GREEDY], prefix=prefix)
        for _ in range(4):
            for row, tokens in zip(rows, batch.step(), strict=True):
                written[row] += tokens

    for row, tokens in written.items():
        assert tokens == alone(exact_weights, prompts[row], len(tokens))


@pytest.mark.parametrize("prompts", [[[5, 6, 7], [5, 6, 7]], PROMPTS])
def test_little_or_nothing_in_common_is_not_read_apart(
    exact_weights: Weights, prompts: list[list[int]]
) -> None:
    assert prefill_shared_prefix(exact_weights.model, prompts) is None


def test_the_last_token_of_a_prompt_is_no_part_of_what_is_shared(exact_weights: Weights) -> None:
    prefix = prefill_shared_prefix(exact_weights.model, [PROMPTS[3], PROMPTS[3]])

    assert prefix is not None
    assert prefix.tokens == len(PROMPTS[3]) - 1


def test_long_prompts_are_read_in_portions_of_bounded_size() -> None:
    assert split_by_size([4000, 10, 10, 2000, 2000, 9000]) == [(0, 1), (1, 3), (3, 5), (5, 6)]
