"""How fast are replies written, for one chat and for many? `python -m benchmarks.serve`.

Everybody writes as many tokens after the same prompts of 256 tokens, greedily, prefill included,
turn and turn about in one process, so that the machine's mood is the same for all: Ratchet's engine
and `transformers.generate`, each with an adapter (merged here, PEFT's there) and without. The floor
is what reading the weights once a step would take, at the speed that memory is read at.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from benchmarks.results import keep, show, spread
from benchmarks.scratch import scratch_settings
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine
from bot.engine.weights import Weights, load_weights
from store.adapters import hash_adapter
from store.domain import Adapter, AdapterStatus, Message

ROUNDS = 5
CHATS = (1, 4, 8, 16)
PROMPT_TOKENS = 256
NEW_TOKENS = 64

Prompts = Sequence[Sequence[Message]]
Peer = Callable[[Prompts], Awaitable[int]]
"""Answers every prompt; how many tokens it wrote."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens a second of one peer, over all its chats."""

    peer: str
    chats: int
    speeds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.speeds)


def prompt_of(weights: Weights, number: int) -> list[Message]:
    """A prompt of about `PROMPT_TOKENS` tokens, another for each number."""
    text = f"This is story number {number}."
    while len(weights.template.encode([Message(role="user", content=text)])) < PROMPT_TOKENS:
        text += f" Then, on day {len(text)}, the ship sailed on towards the north."
    return [Message(role="user", content=f"{text} Continue the story.")]


def endless(weights: Weights) -> Weights:
    """The same weights, with replies that end at the token limit alone."""
    return replace(weights, end_tokens=frozenset())


def make_adapter(load: Callable[[], Weights], folder: Path, *, seed: int = 0) -> Adapter:
    """An adapter of rank 16 on every matrix, with small random weights."""
    torch.manual_seed(seed)
    weights = load()
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    adapted: Any = get_peft_model(weights.model, lora)
    with torch.no_grad():
        for name, each in adapted.named_parameters():
            if "lora_" in name:
                each.mul_(0.1)
    adapted.save_pretrained(folder)
    sha256 = hash_adapter(folder)
    return Adapter(
        name=f"a{seed}-{sha256[:8]}",
        sha256=sha256,
        base_model=weights.name,
        path=str(folder),
        run_id=None,
        status=AdapterStatus.CANDIDATE,
        metrics={},
        created_at=datetime.now(UTC),
    )


def by_engine(engine: LocalEngine, adapter: str | None) -> Peer:
    """Ratchet's, its queue and streaming included."""

    async def one(prompt: Sequence[Message]) -> int:
        sampling = SamplingParams(max_new_tokens=NEW_TOKENS)
        async with aclosing(engine.stream(prompt, sampling, adapter=adapter)) as stream:
            async for piece in stream:
                if isinstance(piece, Completion):
                    return piece.completion_tokens
        raise AssertionError("a stream ends with its completion")

    async def answer(prompts: Prompts) -> int:
        return sum(await asyncio.gather(*(one(prompt) for prompt in prompts)))

    return answer


def by_generate(weights: Weights, model: Any) -> Peer:
    """`transformers.generate` over all prompts at once."""

    def generate(prompts: Prompts) -> int:
        rows = [weights.template.encode(prompt) for prompt in prompts]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
            )
        return int(len(rows) * (output.shape[1] - width))

    return lambda prompts: asyncio.to_thread(generate, prompts)


async def measure(peers: dict[str, Peer], weights: Weights, chats: Sequence[int]) -> list[Row]:
    """Every peer with every number of chats; each round has prompts of its own."""
    found = []
    for count in chats:
        speeds: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(ROUNDS + 1):
            prompts = [prompt_of(weights, 1000 * count + 100 * number + n) for n in range(count)]
            for name, peer in peers.items():
                started = time.perf_counter()
                written = await peer(prompts)
                if number:  # the first round warms everybody up
                    speeds[name].append(written / (time.perf_counter() - started))
        for name in peers:
            found.append(Row(peer=name, chats=count, speeds=tuple(speeds[name])))
            print(json.dumps({"peer": name, "chats": count, "speed": found[-1].median}), flush=True)
    return found


def bytes_a_second() -> float:
    """How fast memory is read: the best of a few sums over a gigabyte."""
    block = torch.ones(2**27, dtype=torch.int64)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - started))
    return best


async def run(load: Callable[[], Weights], chats: Sequence[int]) -> list[Row]:
    """All peers, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = make_adapter(load, Path(folder))
        weights, plain = load(), load()
        engine = LocalEngine(endless(weights))
        await engine.load_adapter(adapter)
        peers = {
            "engine, adapter": by_engine(engine, adapter.name),
            "engine": by_engine(engine, None),
            "generate, PEFT": by_generate(
                plain, PeftModel.from_pretrained(load().model, folder).eval()
            ),
            "generate": by_generate(plain, plain.model),
        }
        try:
            return await measure(peers, plain, chats)
        finally:
            await engine.close()


def main() -> None:
    """Measure, print a table, write `results/serve.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", nargs="+", type=int, default=list(CHATS))
    options = parser.parse_args()
    with scratch_settings() as settings:

        def load() -> Weights:
            return load_weights(
                settings.model, models_folder=settings.data_dir / "models", device=settings.device
            )

        rows = asyncio.run(run(load, options.chats))
        size = sum(each.nbytes for each in load().model.parameters())
    speed = bytes_a_second()
    names = dict.fromkeys(row.peer for row in rows)
    shown = [[name, *(spread(r.speeds, 0) for r in rows if r.peer == name)] for name in names]
    show(("tokens a second", *(f"{count} chats" for count in options.chats)), shown)
    print(
        f"median (least–most) of {ROUNDS} rounds; memory is read at {speed / 1e9:.0f} GB/s, so a "
        f"step takes {1000 * size / speed:.1f} ms at least"
    )
    kept = [{"peer": each.peer, "chats": each.chats, "speeds": each.speeds} for each in rows]
    keep("serve", kept, bytes_a_second=speed)


if __name__ == "__main__":
    main()
