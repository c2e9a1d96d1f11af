"""Drafts of what comes next, for the model to check several tokens at a time.

Much of an answer stands in its prompt: it quotes a document, or says again what was asked. So what
followed the last few tokens when they came before is put into the model with them (prompt lookup
decoding, Saxena 2023), and the tokens are drawn as ever, one after the other, for as long as each
is the one that was drafted (speculative decoding, Leviathan et al. 2023). A wrong draft costs time
and changes nothing, so rows are drafted for as far as their drafts have been worth it.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice, zip_longest
from operator import mul

HOPES = (0.25, 0.5, 0.75)
"""How likely a drafted token is thought to be right before any has been seen, after one token that
was the same before it, two, and three or more (docs/experiments.md)."""

LONGEST_TAIL = len(HOPES)
"""Tokens at the end that are looked for, and then fewer, down to one."""

LEARNING_RATE = 0.05
"""How much one more drafted token counts against those before it."""

STEP_COST = 12
"""What a step takes, in drafted tokens: mostly reading the weights (docs/experiments.md)."""

ROW_COST = 2
"""What a row's own token takes, in drafted tokens: its part of the cache is read for it."""

LEAST_GAIN = 1.2
"""How many times as fast several rows must be expected to be with drafts: those that have none are
slowed down for the others."""


class PromptLookup:
    """One row's prompt and what has been written since: where its drafts come from."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        """Where what follows these tokens is, the last time that something does."""
        self.draft: list[int] = []
        """What may come next, as much as `look` was asked for; until something comes."""
        self._tail = 0  # how many tokens before it were the same there
        self._trust = list(HOPES)
        self._add(prompt)

    def look(self, most: int) -> None:
        """Draft anew what comes next."""
        end = len(self._tokens)
        for length in range(min(LONGEST_TAIL, end), 0, -1):
            place = self._follows.get(tuple(self._tokens[end - length :]))
            if place is not None:
                said = self._tokens[place:]  # and then all of it once more
                self.draft, self._tail = list(islice(cycle(said), most)), length
                return
        self.draft = []

    def chances(self) -> Iterator[float]:
        """How likely the draft is right up to each of its tokens."""
        return accumulate((self._trust[self._kind(n)] for n in range(len(self.draft))), mul)

    def said(self, tokens: Sequence[int]) -> None:
        """What came next indeed, and how far it was as drafted."""
        for number, (drafted, token) in enumerate(zip(self.draft, tokens, strict=False)):
            kind = self._kind(number)
            self._trust[kind] += LEARNING_RATE * ((drafted == token) - self._trust[kind])
            if drafted != token:
                break
        self.draft = []
        self._add(tokens)

    def _kind(self, number: int) -> int:
        """Of a drafted token: each that is right makes the tail longer for the next."""
        return min(self._tail + number, LONGEST_TAIL) - 1

    def _add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            end = len(self._tokens)
            for length in range(1, min(LONGEST_TAIL, end) + 1):
                self._follows[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)


def worthwhile(lookups: Sequence[PromptLookup]) -> int:
    """How many tokens to draft for each row, so that the most are written in a second.

    The model takes every row as far as the longest draft.
    """
    rows = len(lookups)
    step = STEP_COST + rows * ROW_COST
    best, fastest = 0, rows / step * (LEAST_GAIN if rows > 1 else 1)
    expected = float(rows)
    chances = zip_longest(*(lookup.chances() for lookup in lookups), fillvalue=0.0)
    for count, right in enumerate(chances, 1):
        expected += sum(right)
        speed = expected / (step + rows * count)
        if speed > fastest:
            best, fastest = count, speed
    return best
