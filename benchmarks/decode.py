"""One chat: is the engine's decoding as fast as `transformers.generate`?

Both write the same number of tokens after the same prompts of 256 tokens, greedily, turn and turn
about in one process, so that the machine's mood is the same for both.

    python -m benchmarks.decode
"""

import asyncio
import json
import statistics
import time
from contextlib import aclosing
from pathlib import Path

import torch

from benchmarks.scratch import scratch_settings
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine
from bot.engine.weights import Weights, load_weights
from store.domain import Message

ROUNDS = 5
PROMPT_TOKENS = 256
NEW_TOKENS = 64
RESULTS = Path(__file__).parent / "results" / "decode.json"


def prompt_of(weights: Weights, number: int) -> list[Message]:
    """A prompt of about `PROMPT_TOKENS` tokens, another for each number."""
    text = f"This is story number {number}."
    while len(weights.template.encode([Message(role="user", content=text)])) < PROMPT_TOKENS:
        text += f" Then, on day {len(text)}, the ship sailed on towards the north."
    return [Message(role="user", content=f"{text} Continue the story.")]


def by_transformers(weights: Weights, messages: list[Message]) -> float:
    """Tokens a second of `generate`, prefill included."""
    ids = torch.tensor([weights.template.encode(messages)], device=weights.model.device)
    started = time.perf_counter()
    with torch.inference_mode():
        output = weights.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
        )
    written: int = output.shape[1] - ids.shape[1]
    return written / (time.perf_counter() - started)


async def by_engine(engine: LocalEngine, messages: list[Message]) -> float:
    """Tokens a second of the engine, prefill, queue and streaming included."""
    started = time.perf_counter()
    async with aclosing(
        engine.stream(messages, SamplingParams(max_new_tokens=NEW_TOKENS))
    ) as stream:
        async for piece in stream:
            if isinstance(piece, Completion):
                return piece.completion_tokens / (time.perf_counter() - started)
    raise AssertionError("a stream ends with its completion")


async def measure(weights: Weights) -> dict[str, list[float]]:
    """Tokens a second of both, a figure a round."""
    engine = LocalEngine(endless(weights))
    figures: dict[str, list[float]] = {"transformers.generate": [], "engine": []}
    for number in range(ROUNDS + 1):
        messages = prompt_of(weights, number)
        speeds = {
            "transformers.generate": await asyncio.to_thread(by_transformers, weights, messages),
            "engine": await by_engine(engine, messages),
        }
        if number:  # the first round warms both up
            for name, speed in speeds.items():
                figures[name].append(speed)
    await engine.close()
    return figures


def endless(weights: Weights) -> Weights:
    """The same weights, with replies that end at the token limit alone."""
    return Weights(**{**vars(weights), "end_tokens": frozenset()})


def main() -> None:
    """Measure, print a table, write `results/decode.json`."""
    with scratch_settings() as settings:
        weights = load_weights(
            settings.model, models_folder=settings.data_dir / "models", device=settings.device
        )
        figures = asyncio.run(measure(weights))
    print(f"{'tokens a second, one chat':<28}{'median':>8}{'min':>8}{'max':>8}")
    for name, speeds in figures.items():
        row = (statistics.median(speeds), min(speeds), max(speeds))
        print(f"{name:<28}" + "".join(f"{value:8.1f}" for value in row))
    pairs = zip(figures["engine"], figures["transformers.generate"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"engine / transformers.generate, median of {ROUNDS} pairs: {ratio:.2f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**figures, "ratio": ratio}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
