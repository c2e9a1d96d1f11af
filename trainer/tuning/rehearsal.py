"""Rehearsal: the base model's own answers to everyday questions, for the distillation penalty.

None of the questions is in the retention suite.
"""

import json
from functools import cache
from importlib.resources import files

from bot.engine.base import SamplingParams
from bot.engine.local import Weights
from trainer.passes.generation import generate_replies, prompt_for
from trainer.passes.reply import Reply

REHEARSAL_FILE = "rehearsal.jsonl"
ANSWER_TOKENS = 32
"""Token limit of an answer."""


@cache
def load_rehearsal() -> tuple[str, ...]:
    """Return the questions in their order; a recipe uses the first of them."""
    text = files("trainer.tuning").joinpath(REHEARSAL_FILE).read_text(encoding="utf-8")
    return tuple(json.loads(line)["question"] for line in text.splitlines())


def rehearse(weights: Weights, count: int, system_prompt: str) -> list[Reply]:
    """Answer the first `count` questions greedily with the current weights; drop empty answers."""
    prompts = [prompt_for(system_prompt, question) for question in load_rehearsal()[:count]]
    greedy = SamplingParams(max_new_tokens=ANSWER_TOKENS)
    replies = generate_replies(weights, prompts, [greedy] * len(prompts))
    return [reply for reply in replies if reply.text.strip()]
