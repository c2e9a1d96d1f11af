"""Draws turns one after another, and what people say of them.

The rows are those that the bot would have written: a prompt holds the exchanges before it word for
word, and the memories and passages that were found for it. Turns of all chats lie between each
other, in the order of their times.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import accumulate

from benchmarks.scale.drawing import (
    CHUNKS,
    DOCUMENTS,
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
from bot.prompt import with_memories, with_passages
from store.domain import FinishReason, Memory, Passage, RatingSource, SentKind, TurnState
from store.settings import DEFAULT_SYSTEM_PROMPT
from store.tables import (
    ApprovalRow,
    ConversationRow,
    CorrectionRow,
    FeedbackRow,
    SentMessageRow,
    TurnRow,
)

BATCH_TURNS = 2000
"""Turns that are drawn at a time."""

TURNS_A_CONVERSATION = 47.5
GROUP_SHARE = 20
"""One turn in so many is in the large group, and one in the small ones."""

HISTORY = 8
"""Exchanges that find room in a prompt."""


@dataclass(kw_only=True)
class _Chat:
    """A chat while it is drawn."""

    id: int
    people: range
    conversation_id: int = 0
    history: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    liked: deque[Memory] = field(default_factory=lambda: deque(maxlen=20))
    last: Row | None = None
    """The newest turn, if it may be answered again."""


class Talk:
    """Draws the turns of a store."""

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
        self._messages = 0

    def batches(self) -> Iterator[Rows]:
        """Draw the turns and all that hangs on them, oldest first."""
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
        finished = id % 97 != 0
        turn["state"] = TurnState.FINAL if finished else TurnState.FAILED
        turn["completion"] = self._drawing.text(100, 600) if finished else ""
        turn["finish_reason"] = FinishReason.STOP if finished else None
        rows[TurnRow].append(turn)
        self._messages += 1
        rows[SentMessageRow].append(
            {
                "chat_id": chat.id,
                "message_id": self._messages,
                "turn_id": id,
                "kind": SentKind.REPLY,
            }
        )
        chat.last = turn if finished and again is None else None
        if finished:
            chat.history.append((turn["question"], turn["completion"]))
            self._judge(turn, chat, rows)

    def _judge(self, turn: Row, chat: _Chat, rows: Rows) -> None:
        """Draw what people say of a turn: a rating of a third, a correction of a hundredth."""
        id, moment = turn["id"], turn["created_at"] + timedelta(minutes=1)
        answer = turn["completion"]
        liked = False
        if id % 3 == 0:
            rater = turn["person_id"] if chat.id > 0 else self._somebody(chat.people)
            rating = 1 if self._random.random() < 0.7 else -1
            given = {
                "turn_id": id,
                "person_id": rater,
                "rating": rating,
                "source": RatingSource.BUTTON,
                "created_at": moment,
                "replaced_at": None,
            }
            if self._random.random() < 0.05:  # they said the opposite before
                rows[FeedbackRow].append(given | {"rating": -rating, "replaced_at": moment})
            rows[FeedbackRow].append(given)
            liked = rating > 0
        if id % 100 == 7:
            answer, liked = self._drawing.text(100, 600), True
            rows[CorrectionRow].append(
                {
                    "turn_id": id,
                    "person_id": turn["person_id"],
                    "text": answer,
                    "created_at": moment,
                }
            )
        if not liked:
            return
        memory = Memory(turn_id=id, question=turn["question"], answer=answer, score=0.8)
        chat.liked.append(memory)
        if id % 1000 == 7:
            self._approved.append(memory)
            rows[ApprovalRow].append({"turn_id": id, "person_id": 1, "created_at": moment})

    def _asked(self, id: int, chat: _Chat, person_id: int) -> Row:
        question = self._drawing.text(40, 160)
        memories = self._memories(chat)
        passages = self._passages() if self._random.random() < 0.3 else []
        messages = [{"role": "system", "content": with_memories(DEFAULT_SYSTEM_PROMPT, memories)}]
        for asked, said in chat.history:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": said})
        messages.append({"role": "user", "content": with_passages(question, passages)})
        return {
            "id": id,
            "conversation_id": chat.conversation_id,
            "person_id": person_id,
            "update_id": id,
            "regenerates_id": None,
            "question": question,
            "messages": messages,
            "adapter": version(1 + id * (RUNS - 1) // self._drawing.turns),
            "model": MODEL,
            "sampling": {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 400, "seed": id},
            "passages": [asdict(each) for each in passages],
            "memories": [asdict(each) for each in memories],
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "seconds": 2.5,
            "created_at": self._drawing.time_of(id),
        }

    def _asked_again(self, id: int, turn: Row) -> Row:
        """Draw another answer to the same prompt."""
        first = turn["regenerates_id"] or turn["id"]
        return {
            **turn,
            "id": id,
            "update_id": id,
            "regenerates_id": first,
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
