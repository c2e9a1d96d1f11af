"""The words: frozen records and enums that the three packages share. Standard library only.

Times are aware UTC. Text is what people wrote; token ids never leave the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]

TERMINAL_PERSON_ID = 0
"""The id of the person in the terminal; Telegram gives it to nobody."""

TERMINAL_CHAT_ID = 0
"""The id of the terminal's chat; no Telegram chat has it."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a prompt, as chat templates take them."""

    role: Role
    content: str


class Access(StrEnum):
    """An admin's decision about a person; `UNDECIDED` follows `RATCHET_ACCESS`.

    An `INVITED` person may talk, but is not known to be trusted: a link can be passed on.
    """

    UNDECIDED = "undecided"
    INVITED = "invited"
    ALLOWED = "allowed"
    DENIED = "denied"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who talks to the bot. `id` is Telegram's user id, or `TERMINAL_PERSON_ID`."""

    id: int
    name: str
    username: str | None
    """Telegram's @name, without the @."""
    access: Access
    opted_out: bool
    """True if nothing they wrote or rated may be trained on."""
    consented_to: int | None
    """The version of the question that they said yes to; None if they did not, or not yet."""
    asked_at: datetime | None
    """The first time that they were asked for consent to training; None if they were not."""
    decided_at: datetime | None
    """The last time that they decided about training; None if they never did."""
    first_seen: datetime


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a conversation: a Telegram chat and, in a forum, its topic (0 elsewhere)."""

    chat_id: int
    thread_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A stretch of turns in one place that share a history; `/new` starts the next."""

    id: int
    place: Place
    started_at: datetime


class TurnState(StrEnum):
    """The state of a turn; only `FINAL` turns are history."""

    PENDING = "pending"
    FINAL = "final"
    CANCELLED = "cancelled"
    FAILED = "failed"


class FinishReason(StrEnum):
    """The reason why the engine stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


HEADING_SEPARATOR = " › "
"""The separator between a title and the headings under it, in a path."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A chunk that was retrieved for a question."""

    chunk_id: int | None
    """None once the chunk was replaced or removed."""
    document_id: int | None
    title: str
    section: str
    """The path of headings below the title; "" where there are none."""
    text: str
    score: float
    """Cosine similarity to the question, −1 to 1."""

    @property
    def source(self) -> str:
        """Title and section, as people are shown them."""
        return HEADING_SEPARATOR.join(filter(None, (self.title, self.section)))


class PartKind(StrEnum):
    """The role of a part in a prompt."""

    SYSTEM = "system"
    EXAMPLE = "example"
    """An earlier answer that people liked or corrected, shown as an exchange."""
    EXCHANGE = "exchange"
    """An earlier question and reply of the same conversation."""
    PASSAGE = "passage"
    QUESTION = "question"
    QUOTE = "quote"
    """A message that the person replied to or quoted."""
    PERSONA = "persona"
    """Instructions that a person or a place gave the bot."""


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """A part of a served prompt, where it stands, and the source of its words.

    A part is the characters `starts_at` to `ends_at` of one message. An exchange or an example is
    two whole messages instead, a question and its reply; both bounds are None then.
    """

    kind: PartKind
    message: int
    """The index of the message, or of the first of two."""
    starts_at: int | None = None
    ends_at: int | None = None
    turn_id: int | None = None
    """The turn that the exchange or example comes from."""
    correction_id: int | None = None
    """The correction that stands in place of that turn's reply."""
    chunk_id: int | None = None
    """The chunk that a passage comes from."""
    label: str = ""
    """The name of a passage's source, as people are shown it."""
    score: float | None = None
    """Cosine similarity to the question, of a passage or an example."""
    erased: bool = False
    """True once its words were taken out, because their source was erased."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The messages that a model is given, and the parts that they were made of."""

    messages: tuple[Message, ...]
    parts: tuple[PromptPart, ...]

    def kept(self, kind: PartKind) -> tuple[PromptPart, ...]:
        """Return the parts of one kind, in the order of the prompt."""
        return tuple(part for part in self.parts if part.kind is kind)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A finished question and reply of a conversation, the reply as it was corrected."""

    turn_id: int
    correction_id: int | None = None
    """The correction whose text `reply` is; None for the reply as it was written."""
    question: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question and its reply, with everything that went into the reply."""

    id: int
    conversation_id: int
    place: Place
    person_id: int
    state: TurnState
    question: str
    """The text that the person wrote."""
    messages: tuple[Message, ...]
    """The prompt exactly as the model was given it; empty until it is built."""
    parts: tuple[PromptPart, ...]
    """The sources of the prompt's words."""
    completion: str
    adapter: str | None
    """The adapter's content name; None is the base model."""
    model: str
    sampling: Mapping[str, object]
    passages: tuple[Passage, ...]
    memories: tuple["Memory", ...]
    """Earlier answers that were put in the prompt as examples."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    finish_reason: FinishReason | None
    regenerates_id: int | None
    """The turn whose question this one answers again."""
    update_id: int | None
    """The Telegram update that asked for it."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Something that changed the bot."""

    id: int
    person_id: int | None
    """The admin; None for the command line and for what the machine decides."""
    name: str
    action: str
    """The command or button as it was sent, as one line."""
    created_at: datetime

    @property
    def line(self) -> str:
        """The entry for people; the id says who it was, whatever they call themselves."""
        who = f"{self.name} ({self.person_id})" if self.person_id is not None else self.name
        return f"{self.created_at:%Y-%m-%d %H:%M} UTC {who}: {self.action}"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The use that a person made of the bot lately."""

    turns: int
    pending: int
    """The number of these turns that are being answered."""
    tokens: int
    """Tokens read and written for them."""


class Rating(IntEnum):
    """A thumb."""

    UP = 1
    DOWN = -1


class RatingSource(StrEnum):
    """The way in which a rating came."""

    BUTTON = "button"
    REACTION = "reaction"
    TERMINAL = "terminal"


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One person's last rating of one turn."""

    turn_id: int
    person_id: int
    rating: Rating
    source: RatingSource
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The number of people who rated a turn each way."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The reply that a turn should have had, by one person."""

    id: int
    turn_id: int
    person_id: int
    text: str
    created_at: datetime


class SentKind(StrEnum):
    """The role of a Telegram message of the bot in its turn."""

    REPLY = "reply"
    CORRECTION_PROMPT = "correction_prompt"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file in the knowledge base. `name` tells versions of one file from other files."""

    id: int
    name: str
    title: str
    media_type: str
    sha256: str
    size_bytes: int
    chunks: int
    indexed: bool
    """True if its chunks are in the index that is in use now."""
    added_by: int
    created_at: datetime


class AddOutcome(StrEnum):
    """The outcome of adding a document."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


class OriginKind(StrEnum):
    """The kind of thing that a training example was made of."""

    RATED = "rated"
    """A turn and the thumbs on it."""
    CORRECTED = "corrected"
    """A correction and the reply that it corrects, as a pair."""
    DEMONSTRATED = "demonstrated"
    """A correction by itself."""
    REGENERATED = "regenerated"
    """Two replies to one question, of which people liked one better."""
    IMPORTED = "imported"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The rows that a training example was made of."""

    kind: OriginKind
    turn_id: int | None = None
    """The turn whose reply it shows; the better one of two."""
    other_turn_id: int | None = None
    """The worse one of two."""
    correction_id: int | None = None
    imported_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """A reply and whether it was good: TRL's unpaired preference."""

    origin: Origin
    prompt: tuple[Message, ...]
    completion: str
    label: bool
    held_out: bool
    """True if it is measured on and never trained on; decided once, by a hash of the turn."""
    finished: bool = True
    """True if the model ended the reply; one that was cut must not teach when to stop."""
    raters: tuple[int, ...] = ()
    """The people whose thumb is the label; of an import that nobody vouches for, `Import.rater`;
    nobody for a trusted import."""
    outvoted: tuple[int, ...] = ()
    """The people whose thumb is the other one."""
    rated_at: tuple[datetime, ...] = ()
    """The time of each thumb, those of `raters` and then those of `outvoted`; empty if unknown."""
    copies: tuple[Origin, ...] = ()
    """Origins of equal examples that were merged into this one."""
    created_at: datetime

    @property
    def votes(self) -> tuple[tuple[int, bool, datetime], ...]:
        """Every thumb, as person, 👍 or not, and time; the example's own time if it is unknown."""
        people = (*self.raters, *self.outvoted)
        times = self.rated_at or (self.created_at,) * len(people)
        labels = [self.label] * len(self.raters) + [not self.label] * len(self.outvoted)
        return tuple(zip(people, labels, times, strict=True))


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two replies to one prompt, the better one known."""

    origin: Origin
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_finished: bool = True
    rejected_finished: bool = True
    """False for a reply that was cut: it must not teach when to stop."""
    held_out: bool
    raters: tuple[int, ...] = ()
    """The people who judged it, as of an `Example`."""
    outvoted: tuple[int, ...] = ()
    """The people who judged it otherwise."""
    copies: tuple[Origin, ...] = ()
    """Origins of equal examples that were merged into this one."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """The reply that a prompt should have had, with nothing to compare it to."""

    origin: Origin
    prompt: tuple[Message, ...]
    completion: str
    held_out: bool
    raters: tuple[int, ...] = ()
    """The people who judged it, as of an `Example`."""
    outvoted: tuple[int, ...] = ()
    """The people who judged it otherwise."""
    copies: tuple[Origin, ...] = ()
    """Origins of equal examples that were merged into this one."""
    created_at: datetime


AnyExample: TypeAlias = Example | PreferencePair | Demonstration


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """All examples that may be trained on or measured with, each kind oldest first."""

    unpaired: tuple[Example, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()

    @property
    def every(self) -> tuple[AnyExample, ...]:
        """The examples of all kinds, one kind after another."""
        return (*self.unpaired, *self.pairs, *self.demonstrations)


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The extent of an erasure, and the versions that cannot forget at once."""

    turns: int
    adapters: tuple[str, ...]
    """Versions that were trained on some of the erased words, oldest first."""


@dataclass(frozen=True, kw_only=True)
class SentSample:
    """A message in an admin's chat that shows samples of a run."""

    chat_id: int
    message_id: int


@dataclass(frozen=True, kw_only=True)
class GroupRules:
    """The rules for the bot in a group."""

    answers: bool = True
    teaches: bool = True
    """True if words said to it there may be trained on and recalled."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A person whose ratings teach nothing until an admin has looked."""

    person_id: int
    name: str
    reason: str
    held_at: datetime


@dataclass(frozen=True, kw_only=True)
class Memory:
    """An earlier answer that people liked or corrected, recalled for a question like it."""

    turn_id: int
    correction_id: int | None = None
    """The correction whose text the answer is; None if people liked the reply itself."""
    question: str
    answer: str
    score: float
    """Cosine similarity of the two questions, −1 to 1."""
    from_here: bool = True
    """False for an approved copy from another chat, whose words are not to be shown here."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A liked or corrected answer that waits for an admin to let it into every chat.

    Question and answer are masked; approving copies these words and no others.
    """

    turn_id: int
    correction_id: int | None
    question: str
    answer: str
    sha256: str
    """The hash of question and answer; it changes when the answer does."""


@dataclass(frozen=True, kw_only=True)
class ExampleCounts:
    """The numbers of examples in a run, by split and by kind."""

    train: int = 0
    held_out: int = 0
    positive: int = 0
    negative: int = 0
    pairs: int = 0
    demonstrations: int = 0


@dataclass(frozen=True, kw_only=True)
class AdapterNotes:
    """Facts about how a version was made, and how an engine serves it."""

    recipe: Mapping[str, object] = field(default_factory=dict)
    examples: ExampleCounts | None = None
    share: float | None = None
    """The part of the update that was kept, if not all of it."""
    instead_of: str | None = None
    """The version with the whole update, which went too far."""
    merged: bool | None = None
    """True if the engine has merged it into the weights; None until one has loaded it."""


class AdapterStatus(StrEnum):
    """The state of a version; at most one is active."""

    CANDIDATE = "candidate"
    ACTIVE = "active"
    RETIRED = "retired"
    REJECTED = "rejected"
    REMOVED = "removed"
    """The files are gone, to save room or by a crash; the row stays, since replies name it."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter, named by its content: `a<sequence>-<first 8 hex of sha256>`."""

    name: str
    sha256: str
    """The hash of its weights and configuration; checked at every load."""
    base_model: str
    path: str
    run_id: int | None
    status: AdapterStatus
    notes: AdapterNotes
    erased_at: datetime | None
    """The time since which it holds erased words; None if it holds none."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A change of the active adapter."""

    adapter: str | None
    """None is the base model."""
    reason: str
    person_id: int | None
    """The admin who asked for it; None for the gate and the command line."""
    created_at: datetime


class RunStatus(StrEnum):
    """The state of a training run."""

    QUEUED = "queued"
    RUNNING = "running"
    PASSED = "passed"
    """The gate passed it, and an admin decides (`RATCHET_PROMOTE=ask`)."""
    PROMOTED = "promoted"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """True if nothing more will happen to the run."""
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a running run."""

    stage: str = ""
    """The name of the stage, in a word or two."""
    step: int = 0
    steps: int = 0
    """Steps of the training itself; 0 before the number is known."""
    loss: float | None = None
    share: float = 0.0
    """The share of the whole run that is done, 0 to 1."""
    seconds_left: float | None = None
    examples: int = 0


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """Figures that a run reports while it goes on."""

    recipe: Mapping[str, object] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    """Pairs of a step and its training loss."""
    held_back: int = 0
    """People whose ratings were held back before the run."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A held-out prompt and the replies to it, before and after a run."""

    question: str
    before: str
    after: str


class Split(StrEnum):
    """The use that a run makes of an example."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run, from the queue to its outcome."""

    id: int
    status: RunStatus
    reason: str
    """The reason why it was queued."""
    outcome: str
    """The reason why it ended as it did, in a sentence; "" until it has ended."""
    requested_by: int | None
    examples: ExampleCounts | None
    """The numbers of its examples; None until they are chosen."""
    metrics: RunMetrics
    progress: Progress
    log: str
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def seconds(self) -> float:
        """The time from start to end; 0 until it has ended."""
        if self.started_at is None or self.finished_at is None:
            return 0.0
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of the gate: the measured value, the limit, and whether it passed."""

    name: str
    value: float | None
    """The measured value; None when it could not be measured."""
    limit: str
    """The allowed values, such as `≥ 0.5`."""
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The gate's decision on a candidate, with every reason for it."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True if the candidate may go live; False for a report without checks."""
        return bool(self.checks) and all(check.passed for check in self.checks)
