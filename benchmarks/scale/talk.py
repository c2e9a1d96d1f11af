"""Made-up turns, one after another, and people's ratings and corrections of them.

The rows are those that the bot would have written: a prompt holds the exchanges before it word for
word, and the memories and passages that were found for it. Turns of all chats are mixed, in the
order of their times.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import accumulate

from benchmarks.scale.drawing import (
    CHUNKS,
    DOCUMENTS,
    EMBEDDER,
    LARGE_GROUP,
    MODEL,
    RUNS,
    SMALL_GROUPS,
    Drawing,
    Row,
    Rows,
    document_of,
    version,
)
from bot.prompt import render
from store.domain import (
    Exchange,
    FinishReason,
    Memory,
    Passage,
    PromptPart,
    RatingSource,
    SentKind,
    TurnState,
)
from store.memories import content_hash
from store.settings_slices import DEFAULT_SYSTEM_PROMPT
from store.tables import (
    ApprovalRow,
    ConversationRow,
    CorrectionRow,
    FeedbackRow,
    MemoryRow,
    SentMessageRow,
    TurnPartRow,
    TurnRow,
)

BATCH_TURNS = 2000
"""Turns that are drawn at a time."""

TURNS_A_CONVERSATION = 47.5
GROUP_SHARE = 20
"""One turn in so many is in the large group, and one in so many in the small ones."""

AFTERWARDS = timedelta(minutes=1)
"""Time from a turn to its rating or correction."""

HISTORY = 8
"""Exchanges that fit into a prompt."""


@dataclass(kw_only=True)
class _Chat:
    """A chat while its turns are drawn."""

    id: int
    people: range
    conversation_id: int = 0
    history: deque[Exchange] = field(default_factory=lambda: deque(maxlen=HISTORY))
    liked: deque[Memory] = field(default_factory=lambda: deque(maxlen=20))
    parts: list[Row] = field(default_factory=list)
    """The parts of its newest prompt."""
    last: Row | None = None
    """Newest turn, if it may be answered again."""


class Talk:
    """Turns of a store, drawn in the order of their times."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._random = drawing.random
        self._people = drawing.people
        shares = [self._random.lognormvariate(0, 0.7) for _ in self._people]
        self._totals = list(accumulate(shares))
        members = self._people[: max(10, len(self._people) // 10)]
        self._chats = {
            LARGE_GROUP: _Chat(id=LARGE_GROUP, people=members),
            **{id: _Chat(id=id, people=members[:10]) for id in SMALL_GROUPS},
        }
        self._approved: deque[Memory] = deque(maxlen=1000)
        self._conversations = 0
        self._corrections = 0

    def batches(self) -> Iterator[Rows]:
        """Draw the turns and all rows that refer to them, oldest first."""
        for start in range(1, self._drawing.turns + 1, BATCH_TURNS):
            rows: Rows = defaultdict(list)
            for id in range(start, min(start + BATCH_TURNS, self._drawing.turns + 1)):
                self._turn(id, rows)
            yield rows

    def _turn(self, id: int, rows: Rows) -> None:
        chat, person_id = self._chat()
        again = chat.last if chat.last is not None and self._random.random() < 0.03 else None
        starts = chat.id != LARGE_GROUP and self._random.random() * TURNS_A_CONVERSATION < 1
        if not chat.conversation_id or (starts and again is None):
            rows[ConversationRow].append(self._conversation(chat, id))
        if again is not None:
            chat.history.pop()
        turn = self._asked(id, chat, person_id) if again is None else self._asked_again(id, again)
        turn |= self._outcome(id)
        rows[TurnRow].append(turn)
        rows[TurnPartRow] += [{**part, "turn_id": id} for part in chat.parts]
        rows[SentMessageRow].append(
            {"chat_id": chat.id, "message_id": id, "turn_id": id, "kind": SentKind.REPLY}
        )
        finished = turn["state"] == TurnState.FINAL
        chat.last = turn if finished and again is None else None
        if finished:
            chat.history.append(self._judged(turn, chat, rows))

    def _outcome(self, id: int) -> Row:
        """Draw a reply; one in 97 fails."""
        if id % 97 == 0:
            return {"state": TurnState.FAILED, "completion": "", "finish_reason": None}
        return {
            "state": TurnState.FINAL,
            "completion": self._drawing.text(100, 600),
            "finish_reason": FinishReason.STOP,
        }

    def _judged(self, turn: Row, chat: _Chat, rows: Rows) -> Exchange:
        """Draw people's opinion of a turn; return the exchange as history, corrections included."""
        liked = turn["id"] % 3 == 0 and self._rated(turn, chat, rows)
        correction_id, answer = None, turn["completion"]
        if turn["id"] % 100 == 7:
            correction_id, answer = self._corrected(turn, rows)
        if liked or correction_id is not None:
            self._remember(turn, chat, correction_id, answer, rows)
        return Exchange(
            turn_id=turn["id"],
            correction_id=correction_id,
            question=turn["question"],
            reply=answer,
        )

    def _rated(self, turn: Row, chat: _Chat, rows: Rows) -> bool:
        """Draw a rating; return True if it is 👍."""
        rating = 1 if self._random.random() < 0.7 else -1
        given = {
            "turn_id": turn["id"],
            "person_id": turn["person_id"] if chat.id > 0 else self._somebody(chat.people),
            "rating": rating,
            "adapter": turn["adapter"],
            "source": RatingSource.BUTTON,
            "created_at": turn["created_at"] + AFTERWARDS,
            "replaced_at": None,
        }
        if self._random.random() < 0.05:  # the person changed their mind
            rows[FeedbackRow].append(
                given | {"rating": -rating, "replaced_at": given["created_at"]}
            )
        rows[FeedbackRow].append(given)
        return rating > 0

    def _corrected(self, turn: Row, rows: Rows) -> tuple[int, str]:
        """Draw a correction; return its id and its text."""
        self._corrections += 1
        answer = self._drawing.text(100, 600)
        rows[CorrectionRow].append(
            {
                "id": self._corrections,
                "turn_id": turn["id"],
                "person_id": turn["person_id"],
                "text": answer,
                "created_at": turn["created_at"] + AFTERWARDS,
            }
        )
        return self._corrections, answer

    def _remember(
        self, turn: Row, chat: _Chat, correction_id: int | None, answer: str, rows: Rows
    ) -> None:
        memory = Memory(
            turn_id=turn["id"],
            correction_id=correction_id,
            question=turn["question"],
            answer=answer,
            score=0.8,
        )
        chat.liked.append(memory)
        rows[MemoryRow].append(
            {
                "turn_id": turn["id"],
                "chat_id": chat.id,
                "vector": self._drawing.vector(),
                "embedder": EMBEDDER,
            }
        )
        if turn["id"] % 1000 != 7:
            return
        self._approved.append(replace(memory, from_here=False))
        rows[ApprovalRow].append(
            {
                "turn_id": turn["id"],
                "correction_id": correction_id,
                "approved": True,
                "question": memory.question,
                "answer": answer,
                "sha256": content_hash(memory.question, answer),
                "person_id": 1,
                "created_at": turn["created_at"] + AFTERWARDS,
            }
        )

    def _asked(self, id: int, chat: _Chat, person_id: int) -> Row:
        question = self._drawing.text(40, 160)
        passages = self._passages() if self._random.random() < 0.3 else []
        prompt = render(
            DEFAULT_SYSTEM_PROMPT, self._memories(chat), chat.history, passages, question
        )
        chat.parts = [_part(ordinal, part) for ordinal, part in enumerate(prompt.parts)]
        return {
            "id": id,
            "conversation_id": chat.conversation_id,
            "person_id": person_id,
            "update_id": id,
            "regenerates_id": None,
            "question": question,
            "messages": [{"role": each.role, "content": each.content} for each in prompt.messages],
            "adapter": version(1 + id * (RUNS - 1) // self._drawing.turns),
            "model": MODEL,
            "sampling": {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 400, "seed": id},
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "seconds": 2.5,
            "created_at": self._drawing.time_of(id),
        }

    def _asked_again(self, id: int, turn: Row) -> Row:
        """Draw another answer to the same prompt."""
        return {
            **turn,
            "id": id,
            "update_id": id,
            "regenerates_id": turn["id"],
            "created_at": self._drawing.time_of(id),
        }

    def _chat(self) -> tuple[_Chat, int]:
        draw = self._random.randrange(GROUP_SHARE)
        if draw > 1:
            person_id = self._somebody(self._people)
            if person_id not in self._chats:
                self._chats[person_id] = _Chat(id=person_id, people=range(person_id, person_id + 1))
            return self._chats[person_id], person_id
        chat = self._chats[LARGE_GROUP if draw else self._random.choice(SMALL_GROUPS)]
        return chat, self._somebody(chat.people)

    def _somebody(self, people: range) -> int:
        totals = self._totals[: len(people)]
        return self._random.choices(people, cum_weights=totals)[0]

    def _conversation(self, chat: _Chat, turn_id: int) -> Row:
        self._conversations += 1
        chat.conversation_id = self._conversations
        chat.history.clear()
        chat.last = None
        return {
            "id": chat.conversation_id,
            "chat_id": chat.id,
            "thread_id": 0,
            "started_at": self._drawing.time_of(turn_id),
        }

    def _memories(self, chat: _Chat) -> list[Memory]:
        known = [*chat.liked, *([self._random.choice(self._approved)] if self._approved else [])]
        if self._random.random() >= 0.2 or len(known) < 2:
            return []
        return self._random.sample(known, 2)

    def _passages(self) -> list[Passage]:
        chunks = self._random.sample(range(1, DOCUMENTS * CHUNKS + 1), 3)
        return [
            Passage(
                chunk_id=id,
                document_id=document_of(id),
                title=f"Document {document_of(id)}",
                section="",
                text=self._drawing.chunk_text(id),
                score=0.5,
            )
            for id in chunks
        ]


def _part(ordinal: int, part: PromptPart) -> Row:
    """Return the row of a prompt's part, without its turn."""
    return {
        "ordinal": ordinal,
        "kind": part.kind,
        "message": part.message,
        "starts_at": part.starts_at,
        "ends_at": part.ends_at,
        "source_turn_id": part.turn_id,
        "correction_id": part.correction_id,
        "chunk_id": part.chunk_id,
        "label": part.label,
        "score": part.score,
        "erased": part.erased,
    }
