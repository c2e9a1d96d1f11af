"""Speed of replies, for one chat and for many: `python -m benchmarks.serve`.

Every peer writes the same number of tokens after the same prompts of 256 tokens, a text and a
question about it, greedily, prefill included. The order of peers is drawn anew each round, so that
changes in the machine's speed affect all alike. Each runs in a process of its own, after a second
of quiet, so that no peer's threads disturb another. The peers: Ratchet's engine, with and without
prompt lookup, each with and without an adapter; `transformers.generate` with and without PEFT's
adapter; transformers' continuous batching; where `xllamacpp` is installed and the model is the
embedded one, llama.cpp on its file of 4-bit weights; with `--vllm-url`, vLLM servers of the same
model, which end a reply where the model does. The floor is the time to read the weights once a
step, at the measured speed of memory.
"""

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from bisect import bisect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig

from benchmarks.results import keep, show, spread
from benchmarks.retrieval import HANDBOOK
from bot.engine.base import Completion, Engine, SamplingParams
from bot.engine.local import LocalEngine, Weights, load_weights
from bot.engine.starter import find_gguf
from bot.engine.vllm import VllmEngine
from bot.engine.vocabulary import Vocabulary, load_vocabulary
from examples.scratch import scratch_settings
from store.adapter_files import hash_adapter
from store.domain import Adapter, AdapterNotes, AdapterStatus, Message
from store.settings import load_settings

ROUNDS = 5
CHATS = (1, 4, 8, 16)
PROMPT_TOKENS = 256
QUESTION = "Use the text to answer this question: What should a new member know?"
NEW_TOKENS = 64
QUIET_SECONDS = 1.0
"""Pause between two peers, since some keep threads spinning for a while after their work."""
OURS = "engine, adapter"
LLAMA_CPP = "xllamacpp"  # llama.cpp as a wheel; not a dependency

Prompts = Sequence[Sequence[Message]]
Answer = Callable[[Prompts], Awaitable[int]]
"""Function that answers every prompt and returns the number of tokens written."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Speeds of one peer in tokens a second, over all its chats, one for each round."""

    peer: str
    chats: int
    speeds: tuple[float, ...]


def load() -> Weights:
    """Load the model that the settings name."""
    settings = load_settings()
    return load_weights(
        settings.engine.model,
        models_folder=settings.storage.models_path,
        device=settings.engine.device,
    )


def _vocabulary() -> Vocabulary:
    settings = load_settings()
    return load_vocabulary(settings.engine.model, models_folder=settings.storage.models_path)


def prompt_of(vocabulary: Vocabulary, number: int) -> list[Message]:
    """Return about `PROMPT_TOKENS` tokens of handbook and question, different for each number."""
    words = " ".join(each.read_text("utf-8") for each in sorted(HANDBOOK.glob("*.md"))).split()
    start = random.Random(number).randrange(len(words))
    words = words[start:] + words[:start]

    def asked(count: int) -> list[Message]:
        text = " ".join(words[:count])
        return [Message(role="user", content=f"Read this text:\n\n{text}\n\n{QUESTION}")]

    def tokens(count: int) -> int:
        return len(vocabulary.template.encode(asked(count)))

    return asked(bisect(range(PROMPT_TOKENS), PROMPT_TOKENS, key=tokens) - 1)


def endless(weights: Weights) -> Weights:
    """Return the same weights, with replies that end only at the token limit."""
    return replace(weights, end_tokens=frozenset())


def make_adapter(weights: Weights, folder: Path, *, seed: int = 0) -> Adapter:
    """Make an adapter of rank 16 on every matrix, with small random weights."""
    torch.manual_seed(seed)
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
        notes=AdapterNotes(),
        erased_at=None,
        created_at=datetime.now(UTC),
    )


def by_engine(engine: Engine, adapter: str | None) -> Answer:
    """Answer by an engine, its queue and streaming included."""

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


def by_generate(weights: Weights, model: Any) -> Answer:
    """Answer by `transformers.generate` over all prompts at once."""

    async def answer(prompts: Prompts) -> int:
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

    return answer


def by_continuous_batching(weights: Weights) -> Answer:
    """Answer by `generate_batch`, transformers' own continuous batching."""
    model: Any = weights.model

    async def answer(prompts: Prompts) -> int:
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1
        )
        rows = [weights.template.encode(prompt) for prompt in prompts]
        found = model.generate_batch(inputs=rows, generation_config=config, warmup=False)
        return sum(len(each.generated_tokens) for each in found.values())

    return answer


def by_llama_cpp(vocabulary: Vocabulary) -> Answer:
    """Answer by llama.cpp's server, on the embedded model's own file of 4-bit weights."""
    llama: Any = importlib.import_module(LLAMA_CPP)
    parameters = llama.CommonParams()
    parameters.model.path = str(find_gguf())
    parameters.n_ctx = max(CHATS) * (PROMPT_TOKENS + NEW_TOKENS + 64)  # shared by all slots
    parameters.n_parallel = max(CHATS)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    server = llama.Server(parameters)

    def one(prompt: Sequence[Message]) -> int:
        found = server.handle_completions(
            {
                "prompt": list(vocabulary.template.encode(prompt)),
                "n_predict": NEW_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        return int(found["usage"]["completion_tokens"])

    async def answer(prompts: Prompts) -> int:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(one, prompts))

    return answer


async def _make(name: str, adapter: Adapter) -> dict[str, Answer]:
    """Make the peers that run in the process of this name."""
    match name:
        case "engine" | "engine, no drafts":
            drafts = load_settings().engine.draft_tokens if name == "engine" else 0
            engine = LocalEngine(endless(load()), batch_size=64, draft_tokens=drafts)
            await engine.load_adapter(adapter)
            return {
                f"{name}, adapter": by_engine(engine, adapter.name),
                name: by_engine(engine, None),
            }
        case "generate, PEFT":
            weights = load()
            adapted = PeftModel.from_pretrained(weights.model, adapter.path)
            return {name: by_generate(weights, adapted)}
        case "generate":
            weights = load()
            return {name: by_generate(weights, weights.model)}
        case "continuous batching":
            return {name: by_continuous_batching(load())}
        case "llama.cpp, 4 bits":
            return {name: by_llama_cpp(_vocabulary())}
        case url:
            return {url: by_engine(await VllmEngine.connect(_vocabulary(), [url]), None)}


def _work(name: str, adapter: Adapter, pipe: Connection) -> None:
    """Serve a process's peers: prompts come in, tokens and seconds go out, until None comes."""

    async def work() -> None:
        peers = await _make(name, adapter)
        pipe.send(list(peers))
        while asked := await asyncio.to_thread(pipe.recv):
            peer, prompts = asked
            started = time.perf_counter()
            written = await peers[peer](prompts)
            pipe.send((written, time.perf_counter() - started))

    asyncio.run(work())


@contextmanager
def started(name: str, adapter: Adapter) -> Iterator[dict[str, Connection]]:
    """Start a process; yield its peers once they are ready."""
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_work, args=(name, adapter, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield dict.fromkeys(ours.recv(), ours)
    finally:
        with suppress(OSError):  # the process may have died
            ours.send(None)
        process.join(10)
        process.kill()


def measure(
    names: Sequence[str], adapter: Adapter, chats: Sequence[int], rounds: int = ROUNDS
) -> list[Row]:
    """Measure every peer with every number of chats; each round has prompts of its own."""
    vocabulary = _vocabulary()
    found = []
    with ExitStack() as stack:
        peers: dict[str, Connection] = {}
        for name in names:
            peers |= stack.enter_context(started(name, adapter))
        for count in chats:
            speeds: dict[str, list[float]] = {name: [] for name in peers}
            for number in range(rounds + 1):
                first = 1000 * count + 100 * number
                prompts = [prompt_of(vocabulary, first + place) for place in range(count)]
                in_turn = random.Random(first).sample(list(peers.items()), len(peers))
                for name, peer in in_turn:
                    time.sleep(QUIET_SECONDS)
                    peer.send((name, prompts))
                    written, seconds = peer.recv()
                    if number:  # the first round is a warm-up
                        speeds[name].append(written / seconds)
            for name in peers:
                found.append(Row(peer=name, chats=count, speeds=tuple(speeds[name])))
                median = statistics.median(speeds[name])
                print(json.dumps({"peer": name, "chats": count, "speed": median}), flush=True)
    return found


def _times(rows: Sequence[Row], name: str) -> Iterator[str]:
    """Yield Ratchet's speed with an adapter ÷ this peer's, for each number of chats, of medians."""
    speeds = {(row.peer, row.chats): statistics.median(row.speeds) for row in rows}
    for (peer, chats), speed in speeds.items():
        if peer == OURS:
            yield f"{speed / speeds[name, chats]:.2f}"


def bytes_a_second() -> float:
    """Return the speed of reading memory: the best of a few sums over a gigabyte."""
    block = torch.ones(2**27, dtype=torch.int64)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - started))
    return best


def main() -> None:
    """Measure, print a table, write `measured/serve.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", nargs="+", type=int, default=list(CHATS))
    parser.add_argument("--vllm-url", nargs="*", default=[], help="servers of the same model")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after one that warms up")
    options = parser.parse_args()
    names = ["engine", "engine, no drafts", "generate, PEFT", "generate", "continuous batching"]
    with scratch_settings() as settings, tempfile.TemporaryDirectory() as folder:
        if settings.engine.model == "starter" and importlib.util.find_spec(LLAMA_CPP):
            names.append("llama.cpp, 4 bits")
        weights = load()
        size = sum(each.nbytes for each in weights.model.parameters())
        adapter = make_adapter(weights, Path(folder))
        rows = measure([*names, *options.vllm_url], adapter, options.chats, options.rounds)
    speed = bytes_a_second()
    peers = dict.fromkeys(row.peer for row in rows)
    shown = [[name, *(spread(r.speeds, 0) for r in rows if r.peer == name)] for name in peers]
    shown += [[f"{OURS} ÷ {name}", *_times(rows, name)] for name in peers if name != OURS]
    show(("tokens a second, chats:", *map(str, options.chats)), shown)
    print(
        f"median (least–most) of {options.rounds} rounds; memory is read at {speed / 1e9:.0f} GB/s,"
        f" so a step takes {1000 * size / speed:.1f} ms at least"
    )
    kept = [{"peer": each.peer, "chats": each.chats, "speeds": each.speeds} for each in rows]
    keep("serve", kept, bytes_a_second=speed)


if __name__ == "__main__":
    main()
