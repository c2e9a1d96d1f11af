"""Tells how an answer came about."""

from store.domain import Turn


def why(turn: Turn, *, sampling: bool = False) -> str:
    """Return how an answer came about; `sampling` adds the parameters of sampling."""
    lines = [
        f"Turn {turn.id} · {turn.created_at:%Y-%m-%d %H:%M} UTC",
        f"Model: {turn.model}",
        f"Adapter: {turn.adapter or 'none (the base model)'}",
        f"Tokens: {turn.prompt_tokens} read, {turn.completion_tokens} written "
        f"in {turn.seconds:.1f} s",
    ]
    if sampling:
        values = ", ".join(f"{name} {value}" for name, value in turn.sampling.items())
        lines.append(f"Sampling: {values}")
    if not turn.passages:
        lines.append("Passages: none was close enough to the question.")
    for passage in turn.passages:
        lines.append(f"Passage {passage.score:.2f}: {passage.source}")
    lines.append(f"Examples from earlier answers: {len(turn.memories)}")
    for memory in turn.memories:
        short = " ".join(memory.question.split())[:80]
        what = f"turn {memory.turn_id}, {short}" if memory.from_here else "approved for every chat"
        lines.append(f"Example {memory.score:.2f}: {what}")
    return "\n".join(lines)
