"""Effect of a swap on people who are talking: `python -m benchmarks.swap`.

Eight chats talk without a pause while one version after another is loaded and made the active one.
In fp32 every reply is compared with the reply of its version alone; in bf16, as people are
answered, rounding depends on the other rows of the batch. Stretches with and without swaps
alternate, so that changes in the machine's speed affect both.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.results import keep, show, spread
from benchmarks.serve import make_adapter
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine, Weights, load_weights
from examples.scratch import scratch_settings
from store.domain import Adapter, Message
from store.settings import load_settings

CHATS = 8
VERSIONS = 5
"""Number of versions: more than an engine keeps, so that every swap loads its version anew."""

SWAPS = 10
PATIENCE_SECONDS = 300
STRETCHES = 5
"""Number of stretches of either kind."""

PROMPTS = tuple(
    (Message(role="user", content=f"Tell me something interesting about {topic}."),)
    for topic in ("tea", "salt", "bridges", "whales", "honey", "trains", "chess", "the moon")
)
SAMPLING = SamplingParams(max_new_tokens=32)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A reply as it came, and the seconds between its pieces."""

    adapter: str | None
    prompt: int
    text: str
    whole: bool
    """True if the completion's text is that of the pieces, and its adapter the requested one."""
    gaps: tuple[float, ...]
    finished: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """Results of all stretches in one precision."""

    calm: tuple[float, ...]
    """Longest gap in seconds between two pieces of a reply, in each stretch without swaps."""
    swapped: tuple[float, ...]
    waits: tuple[float, ...]
    replies: int
    lost: int
    truncated: int
    mixed: int | None

    def rows(self) -> dict[str, str]:
        """Return the results in words, for the table."""
        calm, swapped = ([1000 * each for each in gaps] for gaps in (self.calm, self.swapped))
        ratio = statistics.median(swapped) / statistics.median(calm)
        return {
            "longest gap between two pieces without swaps, ms": spread(calm, 0),
            "the same with swaps, ms": spread(swapped, 0),
            "the one as a multiple of the other": f"{ratio:.2f}",
            "from loading to the first reply on the new version, s": spread(self.waits),
            "swaps, replies": f"{len(self.waits)}, {self.replies}",
            "lost, truncated": f"{self.lost}, {self.truncated}",
            "mixed": "–" if self.mixed is None else str(self.mixed),
        }


@dataclass(kw_only=True)
class Talk:
    """Chats that go on until they are told to stop."""

    engine: LocalEngine
    active: str | None = None
    going: bool = True
    spoken: list[Spoken] = field(default_factory=list)
    lost: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after every reply."""

    async def chat(self, number: int) -> None:
        """Ask as one person, each question after the last answer."""
        turn = number
        while self.going:
            try:
                self.spoken.append(await self.ask(turn % len(PROMPTS), self.active))
            except Exception as error:  # counted and printed: none may be lost
                self.lost += 1
                print(f"a reply was lost: {error!r}", file=sys.stderr)
            turn += 1
            self.news.set()

    async def ask(self, prompt: int, adapter: str | None) -> Spoken:
        """Ask, and return the reply."""
        stream = self.engine.stream(PROMPTS[prompt], SAMPLING, adapter=adapter)
        gaps, text, last, completion = [], "", 0.0, None
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                if isinstance(piece, Completion):
                    completion = piece
                    break
                if last:
                    gaps.append(now - last)
                text, last = text + piece, now
        assert completion is not None
        return Spoken(
            adapter=completion.adapter,
            prompt=prompt,
            text=completion.text,
            whole=completion.text == text and completion.adapter == adapter,
            gaps=tuple(gaps),
            finished=time.perf_counter(),
        )


@asynccontextmanager
async def talking(engine: LocalEngine) -> AsyncIterator[Talk]:
    """Run eight chats during the block; at its end wait for their last replies."""
    talk = Talk(engine=engine)
    chats = [asyncio.create_task(talk.chat(number)) for number in range(CHATS)]
    await asyncio.sleep(1)
    try:
        yield talk
    finally:
        talk.going = False
        await asyncio.gather(*chats)


async def swap(talk: Talk, version: Adapter) -> float:
    """Load a version, make it active; return the seconds until its first reply has come."""
    started, before = time.perf_counter(), len(talk.spoken)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await talk.engine.load_adapter(version)
        talk.active = version.name
        while not (new := [e for e in talk.spoken[before:] if e.adapter == version.name]):
            talk.news.clear()
            await talk.news.wait()
    return new[0].finished - started


async def measure(weights: Weights, versions: Sequence[Adapter], *, exact: bool) -> Found:
    """Measure stretches with swaps and, for as many seconds each, without."""
    drafts = load_settings().engine.draft_tokens
    engine = LocalEngine(weights, batch_size=CHATS, draft_tokens=drafts)
    calm, swapped, waits = [], [], []
    for _ in range(STRETCHES):
        started = time.perf_counter()
        async with talking(engine) as talk:
            waits += [await swap(talk, versions[n % len(versions)]) for n in range(SWAPS)]
        swapped.append(talk)
        seconds = time.perf_counter() - started
        async with talking(engine) as talk:
            await asyncio.sleep(seconds)
        calm.append(talk)
    spoken = [each for talk in (*calm, *swapped) for each in talk.spoken]
    mixed = await _mixed(engine, versions, spoken) if exact else None
    await engine.close()
    return Found(
        calm=tuple(_longest(talk) for talk in calm),
        swapped=tuple(_longest(talk) for talk in swapped),
        waits=tuple(waits),
        replies=len(spoken),
        lost=sum(talk.lost for talk in (*calm, *swapped)),
        truncated=sum(not each.whole for each in spoken),
        mixed=mixed,
    )


async def _mixed(engine: LocalEngine, versions: Sequence[Adapter], spoken: Sequence[Spoken]) -> int:
    """Count the replies that differ from those of their version alone."""
    alone = {}
    talk = Talk(engine=engine)
    for version in (None, *versions):
        if version is not None:
            await engine.load_adapter(version)
        name = version.name if version else None
        for number in range(len(PROMPTS)):
            alone[name, number] = (await talk.ask(number, name)).text
    return sum(each.text != alone[each.adapter, each.prompt] for each in spoken)


def _longest(talk: Talk) -> float:
    return max(gap for each in talk.spoken for gap in each.gaps)


def main() -> None:
    """Measure, print, write `measured/swap.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    options = parser.parse_args()
    found: dict[str, Found] = {}
    with scratch_settings() as settings, tempfile.TemporaryDirectory() as folder:

        def load(dtype: torch.dtype) -> Weights:
            return load_weights(
                settings.engine.model,
                models_folder=settings.storage.models_path,
                device=settings.engine.device,
                dtype=dtype,
            )

        versions = [
            make_adapter(load(torch.float32), Path(folder) / str(number), seed=number)
            for number in range(VERSIONS)
        ]
        for name in options.precisions:
            dtype = PRECISIONS[name]
            exact = dtype is torch.float32
            found[name] = asyncio.run(measure(load(dtype), versions, exact=exact))
    figures = {name: each.rows() for name, each in found.items()}
    show(
        ("under eight chats", *figures),
        [
            (what, *(rows[what] for rows in figures.values()))
            for what in next(iter(figures.values()))
        ],
    )
    keep("swap", [{"dtype": name, **asdict(each)} for name, each in found.items()])


if __name__ == "__main__":
    main()
