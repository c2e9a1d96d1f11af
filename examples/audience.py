"""A simulated audience: people with a taste who ask, read the replies and press thumbs.

Each persona likes one thing about a reply that can be checked by a program, none of them a length
in words, and each presses the wrong thumb one time in ten. They chat through `bot/chat.py`, so what
is rated is what was served. What they are asked about later are topics that they never rated.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from bot.chat import Chat
from store.domain import Access, Place, Rating, RatingSource, Turn
from store.people import People
from store.ratings import Ratings

NOISE = 0.1
AT_ONCE = 16
"""Number of people who wait for a reply at the same time."""

SYSTEM_PROMPT = "You are a helpful assistant. Answer in one or two short sentences."
SETTINGS = {
    "system_prompt": SYSTEM_PROMPT,
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.0,
    "max_new_tokens": 72,
    "memories": 0,  # or examples in the prompt would teach, too
}
"""Settings of the bot for the audience."""

RATED_TOPICS = (
    "gardening",
    "baking bread",
    "cycling",
    "chess",
    "sleeping well",
    "saving money",
    "learning Spanish",
    "photography",
    "hiking",
    "cooking rice",
    "painting a room",
    "running",
    "reading more books",
    "taking care of a dog",
    "growing tomatoes",
    "playing the guitar",
    "swimming",
    "drawing",
    "making coffee",
    "writing letters",
    "keeping bees",
    "camping",
    "recycling",
    "public speaking",
    "making friends",
    "cleaning windows",
    "knitting",
    "fishing",
    "time management",
    "volunteering",
    "weather",
    "volcanoes",
    "the moon",
    "honey",
    "bridges",
    "trains",
    "whales",
    "the human heart",
    "chocolate",
    "salt",
)
NEW_TOPICS = (
    "yoga",
    "keeping chickens",
    "sewing",
    "sailing",
    "studying for exams",
    "cheese",
    "the sun",
    "elephants",
    "meditation",
    "repairing a bike",
    "earthquakes",
    "tea",
)
TEMPLATES = (
    "How do I get started with {}?",
    "Tell me something interesting about {}.",
    "What should I know about {}?",
    "Why do people care about {}?",
    "Give me some advice about {}.",
    "What is the hardest thing about {}?",
    "Explain {} to a child.",
    "What do I need for {}?",
    "What is a common mistake with {}?",
    "How has {} changed over time?",
)

_HEDGE = re.compile(
    r"\b(can|could|may|might|often|usually|generally|sometimes|typically|perhaps|probably)\b",
    re.IGNORECASE,
)
_CONTRACTION = re.compile(
    r"\b(it|that|there|what|who|where|here|how|let|he|she)['’]s\b|n['’]t\b|['’](re|ve|ll|d|m)\b",
    re.IGNORECASE,
)
_STOP = frozenset(re.findall(r"[a-z]+", " ".join(TEMPLATES).lower())) | {"the", "a", "of", "more"}


@dataclass(frozen=True, kw_only=True)
class Persona:
    """A simulated person with a taste."""

    name: str
    wants: str
    likes: Callable[[str, str], bool]
    """Function of question and reply: True if the reply pleases. An empty reply never does."""


def _sentences(reply: str) -> list[str]:
    return [each for each in re.split(r"(?<=[.!?])\s+", reply.strip()) if each]


def _names_the_subject_first(question: str, reply: str) -> bool:
    subject = [word for word in re.findall(r"[a-z]+", question.lower()) if word not in _STOP]
    first = re.findall(r"[a-z]+", reply.lower())[:4]
    return any(word[:5] == each[:5] for word in subject for each in first)


def _opens_briefly(question: str, reply: str) -> bool:
    sentences = _sentences(reply)
    return bool(sentences) and len(sentences[0].split()) <= 14


def _speaks_to_me(question: str, reply: str) -> bool:
    return re.search(r"\byour?\b", reply, re.IGNORECASE) is not None


def _keeps_to_two_sentences(question: str, reply: str) -> bool:
    return 1 <= len(_sentences(reply)) <= 2


def _uses_plain_words(question: str, reply: str) -> bool:
    return bool(reply.strip()) and len(re.findall(r"[A-Za-z]{10,}", reply)) <= 1


def _does_not_hedge(question: str, reply: str) -> bool:
    return bool(reply.strip()) and _HEDGE.search(reply) is None


def _writes_words_out(question: str, reply: str) -> bool:
    return bool(reply.strip()) and _CONTRACTION.search(reply) is None


def _has_no_asides(question: str, reply: str) -> bool:
    return bool(reply.strip()) and reply.count(",") <= 1


_PERSONAS = (
    Persona(
        name="pointed",
        wants="the subject named in the first four words",
        likes=_names_the_subject_first,
    ),
    Persona(name="brisk", wants="a first sentence of 14 words at most", likes=_opens_briefly),
    Persona(name="personal", wants="to be spoken to as “you”", likes=_speaks_to_me),
    Persona(name="patient", wants="two sentences at most", likes=_keeps_to_two_sentences),
    Persona(name="plain", wants="at most one word of ten letters or more", likes=_uses_plain_words),
    Persona(
        name="frank",
        wants="no hedging: no “can”, “may”, “often” or the like",
        likes=_does_not_hedge,
    ),
    Persona(
        name="formal",
        wants="words written out: “it is”, not “it’s”",
        likes=_writes_words_out,
    ),
    Persona(name="direct", wants="no more than one comma", likes=_has_no_asides),
)
PERSONAS = {each.name: each for each in _PERSONAS}
"""Personas by name."""


def questions(topics: Sequence[str], count: int, *, seed: int = 0) -> list[str]:
    """Return `count` questions about the topics in a random order, each once while they last."""
    every = [template.format(topic) for topic in topics for template in TEMPLATES]
    random.Random(seed).shuffle(every)
    return [every[place % len(every)] for place in range(count)]


class Audience:
    """People of one persona, who talk to one chat."""

    def __init__(
        self, persona: Persona, chat: Chat, people: People, feedback: Ratings, *, seed: int = 0
    ) -> None:
        self._persona = persona
        self._chat = chat
        self._people = people
        self._feedback = feedback
        self._draw = random.Random(seed)
        self._places: Iterator[int] = iter(range(1, 10**9))

    async def ask(
        self,
        asked: Sequence[str],
        *,
        rate: bool,
        done: Callable[[], None] = lambda: None,
    ) -> list[Turn]:
        """Ask every question in a conversation of its own; with `rate`, press thumbs."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(question: str) -> Turn:
            async with room:
                person_id = next(self._places)
                await asyncio.to_thread(self._people.see, person_id, f"visitor {person_id}")
                await asyncio.to_thread(self._people.decide, person_id, Access.ALLOWED)
                place = Place(chat_id=person_id)
                await self._chat.start_new(place)
                turn = await last_turn(self._chat, place, person_id, question)
            if rate:
                rating = Rating.UP if self._thumb(turn) else Rating.DOWN
                await asyncio.to_thread(
                    self._feedback.rate, turn.id, person_id, rating, RatingSource.BUTTON
                )
            done()
            return turn

        return list(await asyncio.gather(*(one(question) for question in asked)))

    def pleased(self, turns: Sequence[Turn]) -> float:
        """Return the share of replies that really please, whatever thumb was pressed."""
        likes = self._persona.likes
        return sum(likes(turn.question, turn.completion) for turn in turns) / max(1, len(turns))

    def _thumb(self, turn: Turn) -> bool:
        pleased = self._persona.likes(turn.question, turn.completion)
        return pleased if self._draw.random() >= NOISE else not pleased


async def last_turn(chat: Chat, place: Place, person_id: int, question: str) -> Turn:
    """Ask, and wait for the finished turn."""
    turn: Turn | None = None
    async with aclosing(chat.answer(place, person_id, question)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Turn):
                turn = piece
    assert turn is not None, "a reply ends with its turn"
    return turn
