"""What do people notice of a swap? `python -m benchmarks.swap`.

Eight chats talk without a pause while one version after another is loaded and made the active one,
in fp32, where a reply's words can be told by its version: every reply is compared with what its
version says when it is alone. Stretches with swaps and without take turns, so that the machine's
mood is the same for both.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.results import keep, show, spread
from benchmarks.scratch import scratch_settings
from benchmarks.serve import make_adapter
from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine
from bot.engine.weights import Weights, load_weights
from store.domain import Adapter, Message

CHATS = 8
VERSIONS = 5
"""More than an engine keeps, so that every swap loads its version anew."""

SWAPS = 10
STRETCHES = 5
"""Of either kind."""

PROMPTS = tuple(
    (Message(role="user", content=f"Tell me something interesting about {topic}."),)
    for topic in ("tea", "salt", "bridges", "whales", "honey", "trains", "chess", "the moon")
)
SAMPLING = SamplingParams(max_new_tokens=48)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A reply as it came, and the seconds between its pieces."""

    adapter: str | None
    prompt: int
    text: str
    whole: bool
    """Whether it ended as a reply ends, and its pieces are its text."""
    gaps: tuple[float, ...]
    finished: float


@dataclass(kw_only=True)
class Talk:
    """Chats that go on until they are told to stop."""

    engine: LocalEngine
    active: str | None = None
    going: bool = True
    spoken: list[Spoken] = field(default_factory=list)
    lost: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by every reply."""

    async def chat(self, number: int) -> None:
        """One person, who asks the next question when the last is answered."""
        turn = number
        while self.going:
            try:
                self.spoken.append(await self.ask(turn % len(PROMPTS), self.active))
            except Exception as error:  # counted, and shown: none must be lost
                self.lost += 1
                print(f"a reply was lost: {error!r}", file=sys.stderr)
            turn += 1
            self.news.set()

    async def ask(self, prompt: int, adapter: str | None) -> Spoken:
        """One reply."""
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


async def stretch(engine: LocalEngine, versions: Sequence[Adapter]) -> tuple[Talk, list[float]]:
    """Talk while these become active one after another, or, without any, for as many seconds.

    And the seconds from each activation to the first reply that the version has written.
    """
    talk = Talk(engine=engine)
    chats = [asyncio.create_task(talk.chat(number)) for number in range(CHATS)]
    await asyncio.sleep(1)
    waits = []
    for number in range(SWAPS):
        if not versions:
            await asyncio.sleep(1)
            continue
        version = versions[number % len(versions)]
        started, before = time.perf_counter(), len(talk.spoken)
        await engine.load_adapter(version)
        talk.active = version.name
        while not (new := [e for e in talk.spoken[before:] if e.adapter == version.name]):
            talk.news.clear()
            await talk.news.wait()
        waits.append(new[0].finished - started)
    talk.going = False
    await asyncio.gather(*chats)
    return talk, waits


async def run(load: Callable[[], Weights]) -> None:
    """Both kinds of stretches in turn; then what each version says alone."""
    with tempfile.TemporaryDirectory() as folder:
        versions = [make_adapter(load(), Path(folder) / str(n), seed=n) for n in range(VERSIONS)]
        engine = LocalEngine(load(), batch_size=CHATS)
        calm, swapped, waits = [], [], []
        for _ in range(STRETCHES):
            calm.append((await stretch(engine, ()))[0])
            talk, found = await stretch(engine, versions)
            swapped.append(talk)
            waits += found
        spoken = [each for talk in (*calm, *swapped) for each in talk.spoken]
        alone = {}
        talk = Talk(engine=engine)
        for version in (None, *versions):
            if version is not None:
                await engine.load_adapter(version)
            for number in range(len(PROMPTS)):
                name = version.name if version else None
                alone[name, number] = (await talk.ask(number, name)).text
        await engine.close()
    mixed = sum(each.text != alone[each.adapter, each.prompt] for each in spoken)
    cut = sum(not each.whole for each in spoken)
    lost = sum(talk.lost for talk in (*calm, *swapped))
    gaps = {
        "without swaps": [_longest(talk) for talk in calm],
        "with swaps": [_longest(talk) for talk in swapped],
    }
    ratio = statistics.median(gaps["with swaps"]) / statistics.median(gaps["without swaps"])
    rows = [
        (f"longest gap between two pieces, {name}, ms", spread([1000 * v for v in values], 0))
        for name, values in gaps.items()
    ]
    rows += [
        ("the one as a multiple of the other, of medians", f"{ratio:.2f}"),
        ("from activation to the first reply on the new version, s", spread(waits)),
        ("swaps", str(len(waits))),
        ("replies", str(len(spoken))),
        ("lost, truncated, mixed", f"{lost}, {cut}, {mixed}"),
    ]
    show(("under eight chats", "median (least–most)"), rows)
    keep(
        "swap",
        [{"name": name, "gaps": values} for name, values in gaps.items()],
        waits=waits,
        replies=len(spoken),
        lost=lost,
        cut=cut,
        mixed=mixed,
    )


def _longest(talk: Talk) -> float:
    return max(gap for each in talk.spoken for gap in each.gaps)


def main() -> None:
    """Measure, print, write `results/swap.json`."""
    with scratch_settings() as settings:

        def load() -> Weights:
            return load_weights(
                settings.model,
                models_folder=settings.data_dir / "models",
                device=settings.device,
                dtype=torch.float32,
            )

        asyncio.run(run(load))


if __name__ == "__main__":
    main()
