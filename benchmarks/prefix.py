"""Time that a cached conversation prefix saves: `python -m benchmarks.prefix`.

A conversation of ten turns of about a hundred tokens each: the time to the first token of every
turn, with the prefix kept and without, and the share of prompt tokens found in the cache. The two
take turns, so that changes in the machine's speed affect both; one engine runs at a time, as in a
bot.
"""

import asyncio
import statistics
import time
from contextlib import aclosing

from benchmarks.results import keep, show, spread
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine, Weights, load_weights
from examples.scratch import scratch_settings
from store.domain import Message

ROUNDS = 5
TURNS = 10
SAMPLING = SamplingParams(max_new_tokens=48)
SYSTEM = Message(role="system", content="You are a helpful assistant. Answer briefly and plainly.")


def question(round_: int, turn: int) -> Message:
    """Return about fifty tokens, different for each turn of each round."""
    text = f"This is question {turn} of talk {round_}. " + "Tell me more about the ship. " * 5
    return Message(role="user", content=text)


async def talk(engine: LocalEngine, round_: int) -> list[float]:
    """Hold a conversation; return the seconds to the first token of every turn."""
    messages, seconds = [SYSTEM], []
    for turn in range(TURNS):
        messages.append(question(round_, turn))
        started = time.perf_counter()
        first = None
        text = ""
        async with aclosing(engine.stream(messages, SAMPLING)) as pieces:
            async for piece in pieces:
                if first is None:
                    first = time.perf_counter() - started
                text = piece.text if isinstance(piece, Completion) else text
        assert first is not None
        seconds.append(first)
        messages.append(Message(role="assistant", content=text))
    return seconds


async def measure(
    weights: Weights, prefix_bytes: int
) -> tuple[dict[str, list[list[float]]], float]:
    """Return the seconds by cache setting, round and turn; and the share of tokens cached."""
    seconds: dict[str, list[list[float]]] = {"kept": [], "read anew": []}
    shares = []
    for round_ in range(ROUNDS + 1):
        for name, limit in (("kept", prefix_bytes), ("read anew", 0)):
            engine = LocalEngine(weights, prefix_bytes=limit)
            found = await talk(engine, round_)
            if round_:  # the first round is a warm-up
                seconds[name].append(found)
            if name == "kept":
                shares.append(engine.prefix_share)
            await engine.close()
    return seconds, statistics.mean(shares)


def main() -> None:
    """Measure, print, write `measured/prefix.json`."""
    with scratch_settings() as settings:
        weights = load_weights(
            settings.engine.model,
            models_folder=settings.storage.models_path,
            device=settings.engine.device,
        )
        seconds, share = asyncio.run(measure(weights, settings.engine.prefix_megabytes * 2**20))
    turns = range(TURNS)
    rows = [
        (
            str(turn + 1),
            *(spread([1000 * each[turn] for each in rounds], 0) for rounds in seconds.values()),
        )
        for turn in turns
    ]
    show(("turn", *(f"{name}, ms to the first token" for name in seconds)), rows)
    ratios = {
        name: statistics.median(each[TURNS - 1] / each[1] for each in rounds)
        for name, rounds in seconds.items()
    }
    print(f"{share:.0%} of the prompt tokens had been read before")
    for name, ratio in ratios.items():
        print(f"{name}: turn {TURNS} takes {ratio:.2f} times as long as turn 2")
    keep("prefix", [{"name": name, "seconds": each} for name, each in seconds.items()], share=share)


if __name__ == "__main__":
    main()
