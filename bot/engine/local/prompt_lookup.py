"""Prompt lookup: drafts of the next tokens, which the model checks several at a time.

Much of a reply stands in its prompt already: it quotes a document, or repeats the question. So the
tokens that followed the last few when they occurred before are fed to the model with them (prompt
lookup decoding, Saxena 2023), and tokens are drawn as ever, one after the other, for as long as
each equals the drafted one (speculative decoding, Leviathan et al. 2023). A wrong draft costs time
and changes nothing, so drafts are as long as earlier ones of the same rows have been worth.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice, zip_longest
from operator import mul

PRIOR_ACCEPTANCE = (0.25, 0.5, 0.75)
"""Probability that a drafted token is right before any was checked, after a match of one token,
of two, and of three or more (docs/experiments.md, 2026-11-23)."""

LONGEST_MATCH = len(PRIOR_ACCEPTANCE)
"""Most tokens at the end that are looked up; if they are not found, fewer are, down to one."""

LEARNING_RATE = 0.05
"""Weight of one more drafted token against those before it in the estimated probabilities."""

STEP_COST = 12
"""Cost of a step in drafted tokens, mostly of reading the weights (docs/experiments.md,
2026-11-23)."""

ROW_COST = 2
"""Cost of a row's own token in drafted tokens: its part of the cache is read for it."""

MIN_SPEEDUP = 1.2
"""Least expected speed-up by drafts where several rows are decoded, for those without drafts are
slowed down (docs/experiments.md, 2026-11-23)."""


class PromptLookup:
    """Tokens of one row, prompt and reply, and the drafts found in them."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._continuations: dict[tuple[int, ...], int] = {}
        """n-gram → index of the token after its latest occurrence."""
        self.draft: list[int] = []
        """Tokens proposed by the last `propose`; empty after `observe`."""
        self._match = 0  # tokens of the match that the draft continues
        self._acceptance = list(PRIOR_ACCEPTANCE)
        self._append(prompt)

    def propose(self, most: int) -> None:
        """Draft up to `most` next tokens."""
        end = len(self._tokens)
        for length in range(min(LONGEST_MATCH, end), 0, -1):
            start = self._continuations.get(tuple(self._tokens[end - length :]))
            if start is not None:
                continuation = self._tokens[start:]  # and then all of it once more
                self.draft, self._match = list(islice(cycle(continuation), most)), length
                return
        self.draft = []

    def acceptance_probabilities(self) -> Iterator[float]:
        """Yield for each drafted token the probability that the draft is right up to it."""
        each = (self._acceptance[self._match_class(n)] for n in range(len(self.draft)))
        return accumulate(each, mul)

    def observe(self, tokens: Sequence[int]) -> None:
        """Append the tokens that were drawn, and learn how far the draft was right."""
        for number, (drafted, token) in enumerate(zip(self.draft, tokens, strict=False)):
            match = self._match_class(number)
            self._acceptance[match] += LEARNING_RATE * (
                (drafted == token) - self._acceptance[match]
            )
            if drafted != token:
                break
        self.draft = []
        self._append(tokens)

    def _match_class(self, number: int) -> int:
        """Return the index in `_acceptance` of a drafted token: a right one lengthens the match."""
        return min(self._match + number, LONGEST_MATCH) - 1

    def _append(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            end = len(self._tokens)
            for length in range(1, min(LONGEST_MATCH, end) + 1):
                self._continuations[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)


def choose_draft_length(lookups: Sequence[PromptLookup]) -> int:
    """Return the number of tokens to draft for each row that promises most tokens a second.

    The model computes as many tokens for every row as the longest draft has.
    """
    rows = len(lookups)
    step = STEP_COST + rows * ROW_COST
    best, fastest = 0, rows / step * (MIN_SPEEDUP if rows > 1 else 1)
    expected = float(rows)
    probabilities = zip_longest(
        *(lookup.acceptance_probabilities() for lookup in lookups), fillvalue=0.0
    )
    for count, right in enumerate(probabilities, 1):
        expected += sum(right)
        speed = expected / (step + rows * count)
        if speed > fastest:
            best, fastest = count, speed
    return best
