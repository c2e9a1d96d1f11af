"""The SQL tables, and nothing else. Repositories beside this file turn rows into domain records.

Rows refer to each other by id with real foreign keys; deleting a person, a conversation or a
document deletes everything that depends on it.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NEVER_AGAIN = {"sqlite_autoincrement": True}
"""Option that gives the id of a deleted row to no other: buttons and vectors still carry it."""

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER keys


class UtcDateTime(TypeDecorator[datetime]):
    """A column of aware UTC times, also on SQLite, which does not store the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a naive time is a bug of ours."""
        if value is None:
            return None
        assert value.tzinfo is not None, "times are aware"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text that every database takes: no zero bytes (Postgres refuses them), no lone surrogates."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Remove characters that cannot be stored; a model may write anything."""
        return None if value is None else plain(value)


def plain(text: str) -> str:
    """Return a text as it is stored, and as a model can read it."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


class Base(DeclarativeBase):
    """The base of all tables; it names constraints, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        str: PlainText(),
        dict[str, Any]: JSON(),
        list[dict[str, Any]]: JSON(),
    }


def _id() -> Mapped[int]:
    return mapped_column(BigId, primary_key=True, autoincrement=True)


def _owner(target: str, *, nullable: bool = False, index: bool = True) -> Mapped[Any]:
    return mapped_column(
        ForeignKey(target, ondelete="CASCADE"), nullable=nullable, index=index, type_=BigId
    )


def _source(target: str) -> Mapped[int | None]:
    """Return a reference that is indexed by its target, and empty once that is gone."""
    return mapped_column(
        ForeignKey(target, ondelete="SET NULL"), nullable=True, index=True, type_=BigId
    )


class PersonRow(Base):
    """A person; `id` is given by Telegram, never counted up here."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    name: Mapped[str]
    username: Mapped[str | None]
    access: Mapped[str]
    opted_out: Mapped[bool]
    consented_to: Mapped[int | None]
    asked_at: Mapped[datetime | None]
    exported_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    first_seen: Mapped[datetime]


class ConversationRow(Base):
    """A conversation; the newest one in a place is the one that goes on."""

    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_place", "chat_id", "thread_id", "id"), NEVER_AGAIN)
    id: Mapped[int] = _id()
    chat_id: Mapped[int] = mapped_column(BigInteger)
    thread_id: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]


class UpdateRow(Base):
    """An update of Telegram; once it is handled, only its id is left, which Telegram gives.

    One that could not be handled keeps its body, and `failure` says why.
    """

    __tablename__ = "updates"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    person_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    body: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
    holder: Mapped[str]
    held_until: Mapped[datetime]
    attempts: Mapped[int]
    handled_at: Mapped[datetime | None] = mapped_column(index=True)
    failure: Mapped[str | None]


IS_UNFINISHED = text("state <> 'final'")
"""The condition of an index, spelled out: with a parameter no database would use the index."""


class TurnRow(Base):
    """A question and its reply. `messages` and `sampling` are as served, whatever changes later.

    `update_id` names the update that asked for it, so that it is not answered twice.
    """

    __tablename__ = "turns"
    __table_args__ = (
        Index("uq_turns_update_id", "update_id", unique=True),
        Index("ix_turns_usage", "person_id", "created_at"),
        Index("ix_turns_history", "conversation_id", "id"),
        Index("ix_turns_created_at", "created_at"),
        Index(
            "ix_turns_unfinished",
            "state",
            sqlite_where=IS_UNFINISHED,
            postgresql_where=IS_UNFINISHED,
        ),
        NEVER_AGAIN,
    )
    id: Mapped[int] = _id()
    conversation_id: Mapped[int] = _owner("conversations.id", index=False)
    person_id: Mapped[int] = _owner("people.id")
    update_id: Mapped[int | None] = mapped_column(BigInteger)
    regenerates_id: Mapped[int | None] = mapped_column(
        ForeignKey("turns.id", ondelete="SET NULL"), index=True, type_=BigId
    )
    state: Mapped[str]
    question: Mapped[str]
    messages: Mapped[list[dict[str, Any]]]
    completion: Mapped[str]
    adapter: Mapped[str | None]
    model: Mapped[str]
    sampling: Mapped[dict[str, Any]]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    seconds: Mapped[float]
    finish_reason: Mapped[str | None]
    created_at: Mapped[datetime]


class TurnPartRow(Base):
    """A part of the prompt that a turn was served with, and the source of its words.

    See `domain.PromptPart`. The words of an erased source are no longer in the prompt.
    """

    __tablename__ = "turn_parts"
    turn_id: Mapped[int] = mapped_column(
        ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True, type_=BigId
    )
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    message: Mapped[int]
    starts_at: Mapped[int | None]
    ends_at: Mapped[int | None]
    source_turn_id: Mapped[int | None] = _source("turns.id")
    correction_id: Mapped[int | None] = _source("corrections.id")
    chunk_id: Mapped[int | None] = _source("chunks.id")
    label: Mapped[str]
    score: Mapped[float | None]
    erased: Mapped[bool]


class SentMessageRow(Base):
    """A Telegram message that shows a turn, so that a reaction or a reply finds it."""

    __tablename__ = "sent_messages"
    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    turn_id: Mapped[int] = _owner("turns.id")
    kind: Mapped[str]


class FeedbackRow(Base):
    """A rating by a person; their last one has no `replaced_at`.

    `adapter` repeats that of the turn, so that versions are compared without reading turns.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index(
            "ix_feedback_versions",
            "adapter",
            "rating",
            sqlite_where=text("replaced_at IS NULL"),
            postgresql_where=text("replaced_at IS NULL"),
        ),
        Index("ix_feedback_given", "person_id", "created_at"),
        Index("ix_feedback_created_at", "created_at"),
        Index(
            "uq_feedback_last_word",
            "turn_id",
            "person_id",
            unique=True,
            sqlite_where=text("replaced_at IS NULL"),
            postgresql_where=text("replaced_at IS NULL"),
        ),
    )
    id: Mapped[int] = _id()
    turn_id: Mapped[int] = _owner("turns.id")
    person_id: Mapped[int] = _owner("people.id", index=False)
    rating: Mapped[int]
    adapter: Mapped[str | None]
    source: Mapped[str]
    created_at: Mapped[datetime]
    replaced_at: Mapped[datetime | None]


class CorrectionRow(Base):
    """A person's correction of a reply."""

    __tablename__ = "corrections"
    __table_args__ = (Index("ix_corrections_created_at", "created_at"), NEVER_AGAIN)
    id: Mapped[int] = _id()
    turn_id: Mapped[int] = _owner("turns.id")
    person_id: Mapped[int] = _owner("people.id")
    text: Mapped[str]
    created_at: Mapped[datetime]


class DocumentRow(Base):
    """A document; `indexed_in` names the index of its vectors. With any other it is pending."""

    __tablename__ = "documents"
    __table_args__ = NEVER_AGAIN
    id: Mapped[int] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    media_type: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True)
    size_bytes: Mapped[int]
    chunk_chars: Mapped[int]
    indexed_in: Mapped[str | None] = mapped_column(index=True)
    added_by: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class ChunkRow(Base):
    """A piece of a document; its id is its id in Chroma too, and is never given twice."""

    __tablename__ = "chunks"
    __table_args__ = (UniqueConstraint("document_id", "ordinal"), NEVER_AGAIN)
    id: Mapped[int] = _id()
    document_id: Mapped[int] = _owner("documents.id", index=False)
    ordinal: Mapped[int]
    section: Mapped[str]
    text: Mapped[str]


class RunRow(Base):
    """A training run, from the queue to its outcome."""

    __tablename__ = "training_runs"
    id: Mapped[int] = _id()
    status: Mapped[str] = mapped_column(index=True)
    requested_by: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str]
    outcome: Mapped[str] = mapped_column(server_default=text("''"))
    examples: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    log: Mapped[str]
    cancel_requested: Mapped[bool] = mapped_column(server_default=false())
    announced: Mapped[bool] = mapped_column(server_default=false())
    erased_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunExampleRow(Base):
    """An example of a run: its split, and the rows that it was made of (`domain.Origin`)."""

    __tablename__ = "run_examples"
    run_id: Mapped[int] = mapped_column(
        ForeignKey("training_runs.id", ondelete="CASCADE"), primary_key=True, type_=BigId
    )
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    split: Mapped[str]
    kind: Mapped[str]
    turn_id: Mapped[int | None] = _source("turns.id")
    other_turn_id: Mapped[int | None] = _source("turns.id")
    correction_id: Mapped[int | None] = _source("corrections.id")
    imported_id: Mapped[int | None] = _source("imported_examples.id")


class RunSampleRow(Base):
    """Replies before and after a run to a held-out prompt; deleted with the turn that asked."""

    __tablename__ = "run_samples"
    id: Mapped[int] = _id()
    run_id: Mapped[int] = _owner("training_runs.id")
    turn_id: Mapped[int | None] = _owner("turns.id", nullable=True)
    question: Mapped[str]
    before: Mapped[str]
    after: Mapped[str]


class SampleMessageRow(Base):
    """A message to an admin that shows samples of a run; `unwanted` when one of them was erased."""

    __tablename__ = "sample_messages"
    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[int] = _owner("training_runs.id")
    unwanted: Mapped[bool]


class AdapterRow(Base):
    """A version; the unique index makes two active ones impossible."""

    __tablename__ = "adapters"
    __table_args__ = (
        Index(
            "uq_adapters_one_active",
            "status",
            unique=True,
            sqlite_where=text("status = 'active'"),
            postgresql_where=text("status = 'active'"),
        ),
        NEVER_AGAIN,
    )
    id: Mapped[int] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str]
    base_model: Mapped[str]
    run_id: Mapped[int | None] = mapped_column(
        ForeignKey("training_runs.id", ondelete="SET NULL"), type_=BigId
    )
    status: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    erased_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class ActivationRow(Base):
    """Every change of the active adapter, oldest first; the way back for `rollback`."""

    __tablename__ = "activations"
    id: Mapped[int] = _id()
    adapter_id: Mapped[int | None] = _owner("adapters.id", nullable=True)
    person_id: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str]
    undone: Mapped[bool]
    created_at: Mapped[datetime]


class ImportRow(Base):
    """An import of a preference file; `imported_by` is the account that ran the command."""

    __tablename__ = "imports"
    __table_args__ = NEVER_AGAIN
    id: Mapped[int] = _id()
    source: Mapped[str]
    imported_by: Mapped[str]
    trusted: Mapped[bool]
    created_at: Mapped[datetime]


class ImportedRow(Base):
    """A preference that was collected elsewhere; `digest` keeps it from being imported twice."""

    __tablename__ = "imported_examples"
    id: Mapped[int] = _id()
    import_id: Mapped[int] = _owner("imports.id")
    digest: Mapped[str] = mapped_column(unique=True)
    prompt: Mapped[list[dict[str, Any]]]
    completion: Mapped[str]
    rejected: Mapped[str | None]
    label: Mapped[bool | None]
    created_at: Mapped[datetime]


class GoldenRow(Base):
    """An answer that every version must still know, as an admin chose it; a masked copy.

    It is deleted with the turn or the correction that it was copied from. `sha256` is the hash of
    its words.
    """

    __tablename__ = "golden_answers"
    __table_args__ = NEVER_AGAIN
    id: Mapped[int] = _id()
    turn_id: Mapped[int | None] = _owner("turns.id", nullable=True)
    correction_id: Mapped[int | None] = _owner("corrections.id", nullable=True)
    prompt: Mapped[list[dict[str, Any]]]
    answer: Mapped[str]
    worse: Mapped[str | None]
    source: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]


class SplitKeyRow(Base):
    """The key that decides which examples are held out, and the ids from which it decides.

    Tombstones are hashed with it, too.

    Examples of earlier turns and imports were already trained on or measured with; a hash without
    a key decides these.
    """

    __tablename__ = "split_key"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[bytes] = mapped_column(LargeBinary)
    first_turn_id: Mapped[int] = mapped_column(BigInteger)
    first_imported_id: Mapped[int] = mapped_column(BigInteger)


class MemoryRow(Base):
    """A turn that people like more than they dislike, or that somebody corrected.

    Every recall asks whether it may be recalled. `embedder` names the model that made `vector`;
    it is null while the vector is to be made, and empty while the answer must not be recalled.
    """

    __tablename__ = "memories"
    __table_args__ = (
        Index("ix_memories_place", "chat_id", "embedder", "turn_id"),
        Index("ix_memories_embedder", "embedder"),
    )
    turn_id: Mapped[int] = mapped_column(
        ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True, type_=BigId
    )
    chat_id: Mapped[int] = mapped_column(BigInteger)
    vector: Mapped[bytes | None] = mapped_column(LargeBinary)
    embedder: Mapped[str | None]


class ApprovalRow(Base):
    """An admin's decision on an answer that was proposed for every chat.

    An approved answer is served as it was shown: `question` and `answer` are masked copies, and
    `sha256` is their hash. Of a refused answer only the hash is kept.
    """

    __tablename__ = "approvals"
    __table_args__ = (UniqueConstraint("turn_id", "sha256"),)
    id: Mapped[int] = _id()
    turn_id: Mapped[int] = _owner("turns.id", index=False)
    correction_id: Mapped[int | None] = _owner("corrections.id", nullable=True)
    approved: Mapped[bool]
    question: Mapped[str]
    answer: Mapped[str]
    sha256: Mapped[str]
    person_id: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class ErasureRow(Base):
    """An erasure that is under way; nothing of the person is used from its first moment on."""

    __tablename__ = "erasures"
    person_id: Mapped[int] = mapped_column(
        ForeignKey("people.id", ondelete="CASCADE"), primary_key=True, type_=BigId
    )
    requested_at: Mapped[datetime]


class TombstoneRow(Base):
    """An erasure that was done: a keyed hash of the person's id, and nothing else of them."""

    __tablename__ = "tombstones"
    digest: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime]


class SpentRow(Base):
    """Use of a person's quotas that outlives an erasure for a day: numbers, and no words."""

    __tablename__ = "spent"
    __table_args__ = (Index("ix_spent_person", "person_id", "created_at"),)
    id: Mapped[int] = _id()
    person_id: Mapped[int] = mapped_column(BigInteger)
    turns: Mapped[int]
    tokens: Mapped[int]
    ratings: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(index=True)


class QuarantineRow(Base):
    """A person whose ratings are held back; with `released_at`, an admin has released them."""

    __tablename__ = "quarantine"
    person_id: Mapped[int] = mapped_column(
        ForeignKey("people.id", ondelete="CASCADE"), primary_key=True, type_=BigId
    )
    reason: Mapped[str]
    held_at: Mapped[datetime]
    released_at: Mapped[datetime | None]


class InvitationRow(Base):
    """A link that lets people in; only the hash of its token is kept."""

    __tablename__ = "invitations"
    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
    places: Mapped[int]


class GroupRulesRow(Base):
    """The rules for the bot in a group, as the group's admins decided."""

    __tablename__ = "group_rules"
    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    answers: Mapped[bool]
    teaches: Mapped[bool]
    decided_at: Mapped[datetime]


class AuditRow(Base):
    """Something that changed the bot; stays when the person is erased, for the record.

    `person_id` is None for the command line and for what the machine decides.
    """

    __tablename__ = "audit"
    id: Mapped[int] = _id()
    person_id: Mapped[int | None] = mapped_column(BigInteger)
    name: Mapped[str]
    action: Mapped[str]
    created_at: Mapped[datetime]
    hash_before: Mapped[str | None]
    hash: Mapped[str | None]


class EvaluationRow(Base):
    """The gate's report on an adapter, with what was measured."""

    __tablename__ = "evaluations"
    id: Mapped[int] = _id()
    adapter_id: Mapped[int] = _owner("adapters.id")
    run_id: Mapped[int | None] = mapped_column(
        ForeignKey("training_runs.id", ondelete="SET NULL"), type_=BigId
    )
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
