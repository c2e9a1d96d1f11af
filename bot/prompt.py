"""What the model is given: system prompt, history, passages and question, within a token budget.

Pure. What goes first when it gets tight: the oldest question-and-reply pairs, then the weakest
passages. The system prompt and the question stay whole; a question that does not fit is refused.
"""

from collections.abc import Callable, Sequence

from bot.errors import QuestionTooLong
from store.domain import Message, Passage

History = Sequence[tuple[Message, Message]]
CountTokens = Callable[[Sequence[Message]], int]


def build_prompt(
    *,
    system_prompt: str,
    history: History,
    passages: Sequence[Passage],
    question: str,
    count_tokens: CountTokens,
    budget_tokens: int,
    limit_tokens: int,
) -> tuple[tuple[Message, ...], tuple[Passage, ...]]:
    """The messages to send, and the passages that found room in them, best first.

    `history` is oldest first; `passages` are best first. The prompt keeps to `budget_tokens`
    unless the question alone is longer; `limit_tokens` is what the model can take at all.
    Raises `QuestionTooLong` beyond that.
    """

    def compose(pairs: History, kept: Sequence[Passage]) -> tuple[Message, ...]:
        system = [Message(role="system", content=system_prompt)] if system_prompt else []
        past = [message for pair in pairs for message in pair]
        return (*system, *past, Message(role="user", content=with_passages(question, kept)))

    def fits(pairs: History, kept: Sequence[Passage]) -> bool:
        return count_tokens(compose(pairs, kept)) <= min(budget_tokens, limit_tokens)

    kept = len(passages)
    while kept and not fits((), passages[:kept]):
        kept -= 1
    chosen = tuple(passages[:kept])
    turns = _most(len(history), lambda count: fits(history[len(history) - count :], chosen))
    messages = compose(history[len(history) - turns :], chosen)
    if not turns and not kept and (tokens := count_tokens(messages)) > limit_tokens:
        raise QuestionTooLong(tokens, limit_tokens)
    return messages, chosen


def with_passages(question: str, passages: Sequence[Passage]) -> str:
    """The question as the model reads it, with the passages before it, the best one nearest."""
    if not passages:
        return question
    text = "\n\n".join(f"{each.source}: {each.text}" for each in reversed(passages))
    return f"Read this text:\n\n{text}\n\nUse the text to answer this question: {question}"


def _most(upper: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to `upper` that fits, given that fewer always fit too; 0 if none."""
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
