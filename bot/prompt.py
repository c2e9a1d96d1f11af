"""The prompt: system text, examples, history, passages and question, within a budget of tokens.

Pure. A prompt is made of parts, each with its source, and the messages are the parts rendered. If
room is short, the oldest exchanges go first, then the weakest examples, then the weakest passages.
The system prompt and the question stay whole; a question that does not fit is refused.
"""

from collections.abc import Callable, Sequence

from bot.errors import QuestionTooLong
from store.domain import Exchange, Memory, Message, PartKind, Passage, Prompt, PromptPart

CountTokens = Callable[[Sequence[Message]], int]

SAME_QUESTION = 0.95
"""Cosine similarity from which an example answers the question itself, in other words at most."""

SURE_PASSAGE = 0.6
"""Score from which a passage is kept beside an example that answers the question itself."""

BEFORE_PASSAGES, AFTER_PASSAGES = (
    "Read this text:\n\n",
    "\n\nUse the text to answer this question: ",
)


def build_prompt(
    *,
    system_prompt: str,
    history: Sequence[Exchange],
    passages: Sequence[Passage],
    question: str,
    count_tokens: CountTokens,
    budget_tokens: int,
    limit_tokens: int,
    memories: Sequence[Memory] = (),
) -> Prompt:
    """Return the prompt for a question, with as much around it as fits.

    `history` is oldest first; passages and memories are best first. The prompt keeps to
    `budget_tokens` unless the question alone is longer; `limit_tokens` is the model's own limit.
    Where people have answered the same question, their answer goes before passages that are only
    near it. Raises `QuestionTooLong` for a question beyond `limit_tokens`.
    """
    if memories and memories[0].score >= SAME_QUESTION:
        passages = [passage for passage in passages if passage.score >= SURE_PASSAGE]

    def compose(exchanges: int, kept: int, examples: int) -> Prompt:
        return render(
            system_prompt,
            memories[:examples],
            history[len(history) - exchanges :],
            passages[:kept],
            question,
        )

    def fits(exchanges: int, kept: int, examples: int) -> bool:
        tokens = count_tokens(compose(exchanges, kept, examples).messages)
        return tokens <= min(budget_tokens, limit_tokens)

    kept = _most(len(passages), lambda count: fits(0, count, 0))
    examples = _most(len(memories), lambda count: fits(0, kept, count))
    exchanges = _most(len(history), lambda count: fits(count, kept, examples))
    prompt = compose(exchanges, kept, examples)
    if not (exchanges or kept or examples):
        tokens = count_tokens(prompt.messages)
        if tokens > limit_tokens:
            raise QuestionTooLong(tokens, limit_tokens)
    return prompt


def render(
    system_prompt: str,
    memories: Sequence[Memory],
    history: Sequence[Exchange],
    passages: Sequence[Passage],
    question: str,
) -> Prompt:
    """Return the messages of a prompt, and its parts.

    Examples stand as exchanges before the history, the best one last: they are data and no
    instructions. An example that the history holds anyway is left out.
    """
    messages: list[Message] = []
    parts: list[PromptPart] = []
    if system_prompt:
        parts.append(_part(PartKind.SYSTEM, 0, 0, len(system_prompt)))
        messages.append(Message(role="system", content=system_prompt))
    in_history = {exchange.turn_id for exchange in history}
    for memory in reversed(memories):
        if memory.turn_id not in in_history:
            parts.append(
                PromptPart(
                    kind=PartKind.EXAMPLE,
                    message=len(messages),
                    turn_id=memory.turn_id,
                    correction_id=memory.correction_id,
                    score=memory.score,
                )
            )
            messages += _exchange(memory.question, memory.answer)
    for exchange in history:
        parts.append(
            PromptPart(
                kind=PartKind.EXCHANGE,
                message=len(messages),
                turn_id=exchange.turn_id,
                correction_id=exchange.correction_id,
            )
        )
        messages += _exchange(exchange.question, exchange.reply)
    text, last_parts = _question(question, passages, len(messages))
    messages.append(Message(role="user", content=text))
    return Prompt(messages=tuple(messages), parts=(*parts, *last_parts))


def _question(
    question: str, passages: Sequence[Passage], message: int
) -> tuple[str, list[PromptPart]]:
    """The last message: the question, and the passages before it, the best one nearest."""
    text, parts = BEFORE_PASSAGES if passages else "", list[PromptPart]()
    for number, passage in enumerate(reversed(passages)):
        text += "\n\n" if number else ""
        start = len(text)
        text += f"{passage.source}: {passage.text}"
        parts.append(
            PromptPart(
                kind=PartKind.PASSAGE,
                message=message,
                starts_at=start,
                ends_at=len(text),
                chunk_id=passage.chunk_id,
                label=passage.source,
                score=passage.score,
            )
        )
    text += AFTER_PASSAGES if passages else ""
    parts.append(_part(PartKind.QUESTION, message, len(text), len(text) + len(question)))
    return text + question, parts


def _exchange(question: str, reply: str) -> tuple[Message, Message]:
    return Message(role="user", content=question), Message(role="assistant", content=reply)


def _part(kind: PartKind, message: int, start: int, end: int) -> PromptPart:
    return PromptPart(kind=kind, message=message, starts_at=start, ends_at=end)


def _most(upper: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to `upper` that fits, given that fewer always fit too; 0 if none."""
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
