"""What the model is given: system prompt, memories, history, passages and question, in a budget.

Pure. What goes first when it gets tight: the oldest question-and-reply pairs, then the weakest
memories, then the weakest passages. The system prompt and the question stay whole; a question that
does not fit is refused.
"""

from collections.abc import Callable, Sequence

from bot.errors import QuestionTooLong
from store.domain import Memory, Message, Passage

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
    memories: Sequence[Memory] = (),
) -> tuple[tuple[Message, ...], tuple[Passage, ...], tuple[Memory, ...]]:
    """The messages to send, and the passages and memories that found room in them, best first.

    `history` is oldest first; the others are best first. The prompt keeps to `budget_tokens`
    unless the question alone is longer; `limit_tokens` is what the model can take at all.
    Raises `QuestionTooLong` beyond that.
    """

    def compose(
        pairs: History, kept: Sequence[Passage], recalled: Sequence[Memory]
    ) -> tuple[Message, ...]:
        told = with_memories(system_prompt, recalled)
        system = [Message(role="system", content=told)] if told else []
        past = [message for pair in pairs for message in pair]
        return (*system, *past, Message(role="user", content=with_passages(question, kept)))

    def fits(pairs: History, kept: Sequence[Passage], recalled: Sequence[Memory] = ()) -> bool:
        return count_tokens(compose(pairs, kept, recalled)) <= min(budget_tokens, limit_tokens)

    kept = len(passages)
    while kept and not fits((), passages[:kept]):
        kept -= 1
    chosen = tuple(passages[:kept])
    recalled = tuple(memories[: _most(len(memories), lambda n: fits((), chosen, memories[:n]))])
    turns = _most(
        len(history), lambda count: fits(history[len(history) - count :], chosen, recalled)
    )
    messages = compose(history[len(history) - turns :], chosen, recalled)
    if not turns and not kept and not recalled:
        tokens = count_tokens(messages)
        if tokens > limit_tokens:
            raise QuestionTooLong(tokens, limit_tokens)
    return messages, chosen, recalled


def with_memories(system_prompt: str, memories: Sequence[Memory]) -> str:
    """The system prompt, with earlier answers after it, marked as examples, the best one last."""
    shown = [
        f"Example of a good answer to a similar question:\n"
        f"Question: {each.question}\nAnswer: {each.answer}"
        for each in reversed(memories)
    ]
    return "\n\n".join(filter(None, (system_prompt, *shown)))


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
