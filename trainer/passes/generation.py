"""Generation of replies with the model's current weights, without an engine."""

from collections.abc import Sequence
from dataclasses import replace

from bot.engine.base import SamplingParams
from bot.engine.local import Batch, Weights, prefill_shared_prefix
from store.domain import Message
from trainer.passes.reply import Reply

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=64)
"""Sampling of fresh replies: fixed, whatever the bot uses, so that versions can be compared."""

BATCH_ROWS = 64
"""Largest number of replies that are generated side by side."""


def prompt_for(system_prompt: str, question: str) -> tuple[Message, ...]:
    """Return the prompt of a conversation that begins with `question`."""
    system = [Message(role="system", content=system_prompt)] if system_prompt else []
    return (*system, Message(role="user", content=question))


def with_seeds(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """Return `count` copies of the sampling with seeds 0, 1, 2 …, alike for every version."""
    return [replace(sampling, seed=seed) for seed in range(count)]


def generate_replies(
    weights: Weights,
    prompts: Sequence[Sequence[Message]],
    samplings: Sequence[SamplingParams],
) -> list[Reply]:
    """Generate a reply to each prompt, in their order.

    Up to `BATCH_ROWS` are generated together; waiting prompts join once half of the rows are free.
    Prompts of similar length are prefilled together, and their common prefix once for all.
    """
    if not prompts:
        return []
    ids = [weights.template.encode(prompt) for prompt in prompts]
    prefix = prefill_shared_prefix(weights.model, ids)
    batch = Batch(weights.model)
    generated: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    waiting = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    rows: list[int] = []  # the number of the prompt in each row of the batch
    while rows or waiting:
        if len(rows) <= BATCH_ROWS // 2 and waiting:
            room = BATCH_ROWS - len(rows)
            joining, waiting = waiting[:room], waiting[room:]
            batch.join(
                [ids[number] for number in joining],
                [samplings[number] for number in joining],
                prefix=prefix,
            )
            rows += joining
        unfinished = []
        for place, [token] in enumerate(batch.step()):
            number = rows[place]
            if token in weights.end_tokens:
                finished[number] = True
                continue
            generated[number].append(token)
            if len(generated[number]) < samplings[number].max_new_tokens:
                unfinished.append(place)
        if len(unfinished) < len(rows):
            batch.keep(unfinished)
            rows = [rows[place] for place in unfinished]
    return [
        Reply(
            prompt=tuple(prompt),
            text=str(weights.tokenizer.decode(tokens, skip_special_tokens=True)),
            finished=ended,
        )
        for prompt, tokens, ended in zip(prompts, generated, finished, strict=True)
    ]
