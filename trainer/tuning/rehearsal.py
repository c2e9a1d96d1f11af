"""Rehearsal: the base model's own answers to everyday questions, which training holds on to.

None of the questions is in the retention suite.
"""

import json
from functools import cache
from importlib.resources import files

from bot.engine.base import SamplingParams
from bot.engine.local import Weights
from trainer.passes.generation import asked, write
from trainer.proving.drift import Reply

REHEARSAL_FILE = "rehearsal.jsonl"
REHEARSED_TOKENS = 32
"""Of each answer; the answers are short."""


@cache
def load_rehearsal() -> tuple[str, ...]:
    """The questions, in the order in which the first so many are used."""
    text = files("trainer.tuning").joinpath(REHEARSAL_FILE).read_text(encoding="utf-8")
    return tuple(json.loads(line)["question"] for line in text.splitlines())


def rehearse(weights: Weights, count: int, system_prompt: str) -> list[Reply]:
    """What the model as it is now answers to the first `count` questions, silence left out."""
    prompts = [asked(system_prompt, question) for question in load_rehearsal()[:count]]
    greedy = SamplingParams(max_new_tokens=REHEARSED_TOKENS)
    replies = write(weights, prompts, [greedy] * len(prompts))
    return [reply for reply in replies if reply.text.strip()]
