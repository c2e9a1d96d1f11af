"""Replies of a model as it is at the moment, with no engine around it."""

from collections.abc import Sequence
from dataclasses import replace

from bot.engine.base import SamplingParams
from bot.engine.local import Batch, Weights, prefill_shared_prefix
from store.domain import Message
from trainer.proving.drift import Reply
from trainer.proving.retention import RetentionCheck

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=64)
"""How fresh replies are drawn, whatever the bot is set to: versions are compared on them."""

ROWS = 64
"""Replies written side by side."""


def asked(system_prompt: str, question: str) -> tuple[Message, ...]:
    """A question as a conversation begins with it."""
    system = [Message(role="system", content=system_prompt)] if system_prompt else []
    return (*system, Message(role="user", content=question))


def seeded(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """The same sampling with seeds 0, 1, 2 …, so that versions are compared on the same dice."""
    return [replace(sampling, seed=seed) for seed in range(count)]


def answer(weights: Weights, checks: Sequence[RetentionCheck], system_prompt: str) -> list[Reply]:
    """Greedy replies to checks, asked as people's questions are.

    In the same order each time: in bf16 the company that a reply is written in decides near ties,
    which is worth a point or two of the retention suite.
    """
    prompts = [asked(system_prompt, check.question) for check in checks]
    samplings = [SamplingParams(max_new_tokens=check.max_new_tokens) for check in checks]
    return write(weights, prompts, samplings)


def write(
    weights: Weights,
    prompts: Sequence[Sequence[Message]],
    samplings: Sequence[SamplingParams],
) -> list[Reply]:
    """A reply to each prompt; up to `ROWS` are written at a time, and others join as they end.

    Prompts of similar length are read together, and what all begin with is read once.
    """
    if not prompts:
        return []
    ids = [weights.template.encode(prompt) for prompt in prompts]
    prefix = prefill_shared_prefix(weights.model, ids)
    batch = Batch(weights.model)
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    waiting = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    rows: list[int] = []
    while rows or waiting:
        if len(rows) <= ROWS // 2 and waiting:
            room = ROWS - len(rows)
            joining, waiting = waiting[:room], waiting[room:]
            batch.join(
                [ids[number] for number in joining],
                [samplings[number] for number in joining],
                prefix=prefix,
            )
            rows += joining
        going = []
        for place, [token] in enumerate(batch.step()):
            row = rows[place]
            if token in weights.end_tokens:
                finished[row] = True
                continue
            written[row].append(token)
            if len(written[row]) < samplings[row].max_new_tokens:
                going.append(place)
        if len(going) < len(rows):
            batch.keep(going)
            rows = [rows[place] for place in going]
    return [
        Reply(
            prompt=tuple(prompt),
            text=str(weights.tokenizer.decode(tokens, skip_special_tokens=True)),
            finished=end,
        )
        for prompt, tokens, end in zip(prompts, written, finished, strict=True)
    ]
