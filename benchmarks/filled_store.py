"""Fills an empty store with drawn talk of any size: people, turns, ratings, versions, runs.

The rows are those that the bot would have written: a prompt holds the exchanges before it word for
word, and the memories and passages that were found for it. Turns of all chats lie between each
other, in the order of their times. Everything is drawn from a seed.
"""

import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, TypeAlias

from sqlalchemy import Engine, event, insert, text

from bot.prompt import with_memories, with_passages
from store.database import Database, create_database_engine
from store.domain import (
    Access,
    AdapterStatus,
    FinishReason,
    Memory,
    Passage,
    RatingSource,
    RunStatus,
    SentKind,
    TurnState,
)
from store.settings import DEFAULT_SYSTEM_PROMPT
from store.tables import (
    AdapterRow,
    ApprovalRow,
    Base,
    ChunkRow,
    ConversationRow,
    CorrectionRow,
    DocumentRow,
    FeedbackRow,
    GroupRulesRow,
    PersonRow,
    QuarantineRow,
    RunRow,
    SentMessageRow,
    TurnRow,
    UpdateRow,
)

BATCH_TURNS = 2000
"""Turns that are drawn and inserted at a time."""

YEAR = timedelta(days=365)
"""Time over which the turns are spread, up to now."""

TURNS_A_PERSON = 200
TURNS_A_CONVERSATION = 47.5
GROUP_SHARE = 20
"""One turn in so many is in the large group, and one in the small ones."""

LARGE_GROUP = -1
"""Chat id of the group in which a tenth of the people talk in one conversation."""

SMALL_GROUPS = range(-101, -1)
SILENT_GROUPS = range(-5, -1)
"""Groups whose admins said that nothing is to be learned in them."""

FIRST_PERSON = 1000
HISTORY = 8
"""Exchanges that find room in a prompt."""

RUNS = 50
EXAMPLES = 400
"""Examples of a run, and a fifth of that held out."""

DOCUMENTS = 20
CHUNKS = 50
"""Chunks of a document."""

MODEL = "starter"

ORDER: tuple[type[Base], ...] = (
    PersonRow,
    QuarantineRow,
    GroupRulesRow,
    DocumentRow,
    ChunkRow,
    RunRow,
    AdapterRow,
    ConversationRow,
    TurnRow,
    SentMessageRow,
    FeedbackRow,
    CorrectionRow,
    ApprovalRow,
    UpdateRow,
)
"""Tables that are filled, so that what is referred to comes first."""

COUNTED: tuple[type[Base], ...] = (
    ConversationRow,
    TurnRow,
    DocumentRow,
    ChunkRow,
    RunRow,
    AdapterRow,
)
"""Tables whose ids are inserted."""

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[type[Base], list[Row]]


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
    """Draws the rows of a store with so many turns, up to a moment."""

    def __init__(self, turns: int, now: datetime, seed: int = 0) -> None:
        self.turns = turns
        self._now = now
        self._draw = random.Random(seed)
        self._words = _random_words(self._draw)
        count = max(50, turns // TURNS_A_PERSON)
        self.people = range(FIRST_PERSON, FIRST_PERSON + count)
        self._weights = [self._draw.lognormvariate(0, 0.7) for _ in self.people]
        self._totals = list(accumulate(self._weights))
        members = self.people[: max(10, count // 10)]
        self._chats = {
            LARGE_GROUP: _Chat(id=LARGE_GROUP, people=members),
            **{id: _Chat(id=id, people=members[:10]) for id in SMALL_GROUPS},
        }
        self._approved: deque[Memory] = deque(maxlen=1000)
        self._conversations = 0
        self._messages = 0

    def before(self) -> Rows:
        """Draw everything that turns refer to."""
        return {
            PersonRow: [self._person(id) for id in self.people],
            QuarantineRow: [self._suspect(id) for id in self.people[::250]],
            GroupRulesRow: [
                {"chat_id": id, "answers": True, "teaches": False, "decided_at": self._time(0)}
                for id in SILENT_GROUPS
            ],
            DocumentRow: [self._document(id) for id in range(1, DOCUMENTS + 1)],
            ChunkRow: [self._chunk(id) for id in range(1, DOCUMENTS * CHUNKS + 1)],
            RunRow: [self._run(id) for id in range(1, RUNS + 1)],
            AdapterRow: [self._adapter(id) for id in range(1, RUNS + 1)],
            UpdateRow: [self._update(id) for id in range(self.turns * 99 // 100, self.turns + 1)],
        }

    def batches(self) -> Iterator[Rows]:
        """Draw the turns and all that hangs on them, oldest first."""
        for start in range(1, self.turns + 1, BATCH_TURNS):
            rows: Rows = defaultdict(list)
            for id in range(start, min(start + BATCH_TURNS, self.turns + 1)):
                self._turn(id, rows)
            yield rows

    def _turn(self, id: int, rows: Rows) -> None:
        chat, person_id = self._chat()
        again = chat.last if chat.last is not None and self._draw.random() < 0.03 else None
        starts = chat.id != LARGE_GROUP and self._draw.random() * TURNS_A_CONVERSATION < 1
        if not chat.conversation_id or (starts and again is None):
            rows[ConversationRow].append(self._conversation(chat, id))
        if again is not None and again["regenerates_id"] is None:
            chat.history.pop()
        turn = self._asked(id, chat, person_id) if again is None else self._asked_again(id, again)
        finished = id % 97 != 0
        turn["state"] = TurnState.FINAL if finished else TurnState.FAILED
        turn["completion"] = self._text(100, 600) if finished else ""
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
            if again is None:
                chat.history.append((turn["question"], turn["completion"]))
            self._judge(turn, chat, rows)

    def _judge(self, turn: Row, chat: _Chat, rows: Rows) -> None:
        """Draw what people say of a turn: a rating of a third, a correction of a hundredth."""
        id, moment = turn["id"], turn["created_at"] + timedelta(minutes=1)
        answer = turn["completion"]
        liked = False
        if id % 3 == 0:
            rater = turn["person_id"] if chat.id > 0 else self._somebody(chat.people)
            rating = 1 if self._draw.random() < 0.7 else -1
            given = {
                "turn_id": id,
                "person_id": rater,
                "rating": rating,
                "source": RatingSource.BUTTON,
                "created_at": moment,
                "replaced_at": None,
            }
            if self._draw.random() < 0.05:  # they said the opposite before
                rows[FeedbackRow].append(given | {"rating": -rating, "replaced_at": moment})
            rows[FeedbackRow].append(given)
            liked = rating > 0
        if id % 100 == 7:
            answer, liked = self._text(100, 600), True
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
        question = self._text(40, 160)
        memories = self._memories(chat)
        passages = self._passages() if self._draw.random() < 0.3 else []
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
            "adapter": self._version(1 + id * (RUNS - 1) // self.turns),
            "model": MODEL,
            "sampling": {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 400, "seed": id},
            "passages": [asdict(each) for each in passages],
            "memories": [asdict(each) for each in memories],
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "seconds": 2.5,
            "created_at": self._time(id),
        }

    def _asked_again(self, id: int, turn: Row) -> Row:
        """Draw another answer to the same prompt."""
        first = turn["regenerates_id"] or turn["id"]
        return {
            **turn,
            "id": id,
            "update_id": id,
            "regenerates_id": first,
            "created_at": self._time(id),
        }

    def _chat(self) -> tuple[_Chat, int]:
        draw = self._draw.randrange(GROUP_SHARE)
        if draw > 1:
            person_id = self._somebody(self.people)
            if person_id not in self._chats:
                self._chats[person_id] = _Chat(id=person_id, people=range(person_id, person_id + 1))
            return self._chats[person_id], person_id
        chat = self._chats[LARGE_GROUP if draw else self._draw.choice(SMALL_GROUPS)]
        return chat, self._somebody(chat.people)

    def _somebody(self, people: range) -> int:
        totals = self._totals[: len(people)]
        return self._draw.choices(people, cum_weights=totals)[0]

    def _conversation(self, chat: _Chat, turn_id: int) -> Row:
        self._conversations += 1
        chat.conversation_id = self._conversations
        chat.history.clear()
        chat.last = None
        return {
            "id": chat.conversation_id,
            "chat_id": chat.id,
            "thread_id": 0,
            "started_at": self._time(turn_id),
        }

    def _memories(self, chat: _Chat) -> list[Memory]:
        known = [*chat.liked, *([self._draw.choice(self._approved)] if self._approved else [])]
        if self._draw.random() >= 0.2 or len(known) < 2:
            return []
        return self._draw.sample(known, 2)

    def _passages(self) -> list[Passage]:
        chunks = self._draw.sample(range(1, DOCUMENTS * CHUNKS + 1), 3)
        return [
            Passage(
                chunk_id=id,
                document_id=1 + (id - 1) // CHUNKS,
                title=f"Document {1 + (id - 1) // CHUNKS}",
                section="",
                text=self._chunk(id)["text"],
                score=0.5,
            )
            for id in chunks
        ]

    def _person(self, id: int) -> Row:
        opted_out = id % 50 == 3
        return {
            "id": id,
            "name": f"Person {id}",
            "access": (Access.UNDECIDED, Access.INVITED, Access.ALLOWED)[id % 3]
            if id % 500
            else Access.DENIED,
            "opted_out": opted_out,
            "consented_to": 1 if id % 2 and not opted_out else None,
            "decided_at": self._time(0),
            "first_seen": self._now - (timedelta(days=2) if id % 50 == 7 else YEAR),
        }

    def _update(self, id: int) -> Row:
        moment = self._time(id)
        return {
            "id": id,
            "person_id": None,
            "body": {},
            "received_at": moment,
            "holder": "filled",
            "held_until": moment,
            "attempts": 1,
            "handled_at": moment,
        }

    def _suspect(self, id: int) -> Row:
        return {
            "person_id": id,
            "reason": "30 of 40 ratings are the opposite of what others' say",
            "held_at": self._time(0),
            "released_at": None,
        }

    def _document(self, id: int) -> Row:
        return {
            "id": id,
            "name": f"document{id}.md",
            "title": f"Document {id}",
            "media_type": "text/markdown",
            "sha256": f"{id:064}",
            "size_bytes": 240 * CHUNKS,
            "chunk_chars": 240,
            "indexed_in": "filled",
            "added_by": 1,
            "created_at": self._time(0),
        }

    def _chunk(self, id: int) -> Row:
        return {
            "id": id,
            "document_id": 1 + (id - 1) // CHUNKS,
            "ordinal": (id - 1) % CHUNKS,
            "section": "",
            "text": self._words[id * 300 : id * 300 + 240],
        }

    def _run(self, id: int) -> Row:
        """Draw a run on some of the turns before it."""
        last = max(EXAMPLES * 2, id * self.turns // RUNS)
        first = max(1, last - 10 * EXAMPLES)
        chosen = [f"t{turn}" for turn in range(first, last, 3)][-EXAMPLES * 6 // 5 :]
        moment = self._time(id * self.turns // RUNS)
        samples = {name: self._text(40, 160) for name in ("question", "before", "after")}
        return {
            "id": id,
            "status": RunStatus.PROMOTED,
            "requested_by": None,
            "reason": "the schedule",
            "outcome": f"{self._version(id)} passed the gate and is live.",
            "examples": {"train": EXAMPLES, "held_out": EXAMPLES // 5},
            "snapshot": {"train": chosen[:EXAMPLES], "held_out": chosen[EXAMPLES:]},
            "metrics": {
                "samples": [samples] * 3,
                "curve": [(step, 0.6) for step in range(200)],
            },
            "progress": {},
            "log": self._words[:10_000],
            "cancel_requested": False,
            "announced": True,
            "created_at": moment,
            "started_at": moment,
            "heartbeat_at": moment,
            "finished_at": moment + timedelta(minutes=10),
        }

    def _adapter(self, id: int) -> Row:
        return {
            "id": id,
            "name": self._version(id),
            "sha256": f"{id:064}",
            "base_model": MODEL,
            "run_id": id,
            "status": AdapterStatus.ACTIVE if id == RUNS else AdapterStatus.RETIRED,
            "metrics": {"examples": {"train": EXAMPLES}},
            "created_at": self._time(id * self.turns // RUNS),
        }

    @staticmethod
    def _version(number: int) -> str:
        return f"a{number:04}-{number:08x}"

    def _time(self, turn_id: int) -> datetime:
        return self._now - YEAR * (1 - turn_id / self.turns)

    def _text(self, least: int, most: int) -> str:
        start = self._draw.randrange(len(self._words) - most)
        return self._words[start : start + self._draw.randint(least, most)].strip()


def fill(database: Database, turns: int) -> None:
    """Insert talk into a store that is empty and at head, as if it ended now."""
    talk = Talk(turns, database.now())
    engine = create_database_engine(database.url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _do_not_wait_for_the_disk)
    _insert(engine, talk.before())
    for rows in talk.batches():
        _insert(engine, rows)
    if engine.dialect.name == "postgresql":
        _settle(engine)
    engine.dispose()


def _insert(engine: Engine, rows: Rows) -> None:
    with engine.begin() as connection:
        for table in ORDER:
            if rows.get(table):
                connection.execute(insert(Base.metadata.tables[table.__tablename__]), rows[table])


def _do_not_wait_for_the_disk(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def _settle(engine: Engine) -> None:
    """Count on from the ids that were inserted, and do what Postgres would have done meanwhile."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in COUNTED:
            name = table.__tablename__
            connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}")
            )
        connection.execute(text("VACUUM ANALYZE"))


def _random_words(draw: random.Random) -> str:
    """Draw a few megabytes of made-up words; every text is a piece of it."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    return " ".join(draw.choices(words, k=500_000))
