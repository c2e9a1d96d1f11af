"""Settings by concern: each record holds those that one part of Ratchet needs.

A field is set by the variable `RATCHET_` + the record's `prefix` + the field's name, in capitals.
The first line of a record's docstring is its heading in `.env.example`.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)

TELEGRAM = "https://api.telegram.org"
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly and plainly."
DEFAULT_CRON = "0 3 * * *"


def _between_commas(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _is_a_url(value: str) -> str:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


def _has_a_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8443")
    return value


Url = Annotated[str, AfterValidator(_is_a_url)]
Address = Annotated[str, AfterValidator(_has_a_port)]
AddressOrNone = Annotated[str, AfterValidator(lambda value: value and _has_a_port(value))]


class Slice(BaseModel):
    """Settings of one concern."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    prefix: ClassVar[str] = ""


class StorageSettings(Slice):
    """Storage: the database, the search index and the folder for files."""

    data_dir: Path = Field(
        default=Path("data"),
        description="Folder for the database, the search index, models and adapters.",
    )
    database_url: str = Field(
        default="",
        repr=False,
        description="SQLAlchemy URL, such as postgresql://…; empty is SQLite in the data folder.",
    )
    chroma_url: Url = Field(
        default="",
        description="URL of a Chroma server, such as http://127.0.0.1:8000; "
        "empty is an index in the data folder.",
    )

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use; Postgres goes through psycopg 3."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.absolute() / 'ratchet.db'}"
        for prefix in ("postgresql://", "postgres://"):
            if self.database_url.startswith(prefix):
                return "postgresql+psycopg://" + self.database_url.removeprefix(prefix)
        return self.database_url

    @property
    def adapters_path(self) -> Path:
        """Folder of the adapters' files."""
        return self.data_dir / "adapters"

    @property
    def models_path(self) -> Path:
        """Folder of converted and downloaded models."""
        return self.data_dir / "models"

    @property
    def backup_key_path(self) -> Path:
        """File with the key that signs this installation's backups."""
        return self.data_dir / "backup.key"

    @property
    def chroma_path(self) -> Path:
        """Folder of the embedded index of documents."""
        return self.data_dir / "chroma"

    @property
    def memory_path(self) -> Path:
        """Folder of an index of earlier questions, which versions before 0.2 kept there."""
        return self.data_dir / "memory"


class EngineSettings(Slice):
    """Engine: the language model and where it runs."""

    model: str = Field(
        default="starter",
        description="starter, a Hugging Face id (NAME or NAME@COMMIT), or a folder with a causal "
        "chat model.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto",
        description="Device that runs the model; auto takes cuda, then mps, then cpu.",
    )
    vllm_url: Annotated[tuple[str, ...], BeforeValidator(_between_commas)] = Field(
        default=(), description="vLLM servers that run the model for the bot, separated by commas."
    )
    vllm_key: SecretStr | None = Field(
        default=None, description="The --api-key of the vLLM servers, if they have one."
    )
    queue_size: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Replies that may wait for the model; further ones are told to try later.",
    )
    batch_size: int = Field(
        default=16, ge=1, le=512, description="Replies that are written at the same time, at most."
    )
    prefix_megabytes: int = Field(
        default=256,
        ge=0,
        description="Megabytes of cache for prompts that were read before; 0 turns the cache off.",
    )
    draft_tokens: int = Field(
        default=8,
        ge=0,
        le=15,
        description="Tokens guessed at once from the prompt, then checked by the model; "
        "0 turns this off.",
    )

    @field_validator("vllm_url")
    @classmethod
    def _are_servers(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(_is_a_url(value) for value in values)
        for value in found:
            parts = urlsplit(value)  # raises ValueError for a bad port, in plain words
            if not parts.hostname or parts.port == 0 or parts.path:
                raise ValueError("must be http://HOST:PORT and no more, such as http://gpu1:8000")
        return found


class ReplySettings(Slice):
    """Replies: the prompt and the sampling."""

    system_prompt: str = Field(
        default=DEFAULT_SYSTEM_PROMPT,
        description="Instructions that the model gets with every question.",
    )
    prompt_tokens: int = Field(
        default=2048,
        ge=256,
        description="Tokens of history, passages and question; the oldest turns are dropped first.",
    )
    max_new_tokens: int = Field(default=400, ge=1, description="Tokens that a reply may have.")
    link_hosts: Annotated[tuple[str, ...], BeforeValidator(_between_commas)] = Field(
        default=(),
        description="Hosts that replies may link to, separated by commas; empty is any host.",
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Sampling temperature; 0 always takes the likeliest token.",
    )
    top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the probability that sampling draws from (top-p).",
    )
    repetition_penalty: float = Field(
        default=1.1,
        ge=1,
        le=2,
        description="Penalty for words that were used before; 1 turns it off. "
        "Replies that quote documents have none.",
    )
    answer_within: int = Field(
        default=720,
        ge=1,
        description="Minutes after which a message that was missed is not answered.",
    )


class RetrievalSettings(Slice):
    """Retrieval: passages of documents and earlier answers put into a prompt."""

    embedder: str = Field(
        default="starter", description="starter, or a sentence-transformers id or folder."
    )
    chunk_chars: int = Field(
        default=240,
        ge=80,
        le=8000,
        description="Characters of a passage at most; 800 suits models of 1B weights or more. "
        "Add documents again after a change.",
    )
    passages: int = Field(
        default=3, ge=0, le=20, description="Passages put into a prompt, at most."
    )
    passage_floor: float = Field(
        default=0.3,
        ge=-1,
        le=1,
        description="Least cosine similarity of a passage to the question.",
    )
    passage_margin: float = Field(
        default=0.1,
        ge=0,
        le=2,
        description="Largest difference between a passage's score and the best; 2 allows any.",
    )
    memories: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Liked or corrected answers to similar questions put into a prompt, at most; "
        "0 turns this off.",
    )
    memory_floor: float = Field(
        default=0.7,
        ge=-1,
        le=1,
        description="Least cosine similarity of two questions that are similar.",
    )


class TrainSettings(Slice):
    """Training: when a run starts and how it trains."""

    prefix: ClassVar[str] = "train_"

    cron: str = Field(
        default=DEFAULT_CRON,
        description="Time of training, in UTC: minute hour day month weekday (mon to sun); or off.",
    )
    min_ratings: int = Field(
        default=50, ge=1, description="New ratings needed before a scheduled run starts."
    )
    max_examples: int = Field(
        default=400, ge=10, description="Examples that a run trains on, at most."
    )
    objective: Literal["auto", "kto", "dpo", "sft"] = Field(
        default="auto",
        description="kto for thumbs, dpo for pairs, sft for corrections; auto uses all.",
    )
    method: Literal["lora", "qlora"] = Field(
        default="lora", description="qlora trains on a base of 4 bits, which needs CUDA."
    )
    rank: int = Field(default=16, ge=1, le=256, description="Rank of the adapter's matrices.")
    learning_rate: float = Field(
        default=1.2e-3,
        gt=0,
        le=1,
        description="Highest learning rate; it is reached early and then falls to 0.",
    )
    epochs: float = Field(
        default=1.0, gt=0, le=100, description="Number of times that each example is trained on."
    )
    batch_size: int = Field(
        default=8, ge=2, le=1024, description="Examples in one step of the optimizer."
    )
    max_length: int = Field(
        default=1024, ge=64, description="Tokens of prompt and reply; longer examples are left out."
    )
    rehearsal: int = Field(
        default=240,
        ge=0,
        le=1000,
        description="Everyday questions rehearsed in a run, so that they are not forgotten.",
    )
    drift_kl: float = Field(
        default=0.014,
        gt=0,
        description="Limit in training on KL(base || update) over the base's answers to "
        "development questions, in nats a token; a larger update is scaled down. Not comparable "
        "with RATCHET_GATE_DRIFT_KL.",
    )
    person_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of a run's examples that may come from one person who is no admin; "
        "if only few people rated, each may give the same.",
    )
    newcomer_days: int = Field(
        default=7,
        ge=0,
        description="Days for which a person counts as new, who must have rated on half as many "
        "different days, too; 0 treats everybody alike.",
    )
    newcomer_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of a run's examples that may come from all people together who are new "
        "or do not agree with others, and from corrections by people whom no admin let in.",
    )
    unvouched_share: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Share of a run's examples that may come from all people together whom no "
        "admin let in, once the others gave enough for a run.",
    )
    mask: bool = Field(
        default=True,
        description="Mask e-mail addresses, phone numbers, cards and keys in what is trained on.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of every random choice in a run.")
    processes: int = Field(
        default=1, ge=1, le=64, description="Processes of a run, started by accelerate launch."
    )

    @field_validator("cron")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        if value in ("off", DEFAULT_CRON):
            return value
        from apscheduler.triggers.cron import CronTrigger  # most commands do without

        schedule = CronTrigger.from_crontab(value, timezone="UTC")  # ValueError in plain words
        if schedule.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("there is no such day")
        return value


class PrivacySettings(Slice):
    """Privacy: whose words are learned from, and how long they are kept."""

    train_consent: bool = Field(
        default=False, description="Learn only from people who said yes at /start or /optin."
    )
    keep_days: int = Field(
        default=0,
        ge=0,
        le=36500,
        description="Days after which conversations and their ratings are deleted; "
        "0 keeps them forever.",
    )
    forget_days: int = Field(
        default=3,
        ge=0,
        le=36500,
        description="Days after an erasure until a version that learned from what was erased is "
        "replaced by the newest one that did not, or by the base model.",
    )


class GateSettings(Slice):
    """The gate: limits that a new version has to keep to go live."""

    prefix: ClassVar[str] = "gate_"

    min_ratings: int = Field(
        default=20, ge=4, description="Held-out ratings needed to judge a version at all."
    )
    preference: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Least lower bound of the AUC with which a version tells held-out 👍 from 👎; "
        "0.5 is chance.",
    )
    preference_gain: float = Field(
        default=0.0,
        description="Least gain over the active version, in that AUC and in the predicted share "
        "of 👍.",
    )
    retention_drop: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="Share of the retention checks that a version may lose.",
    )
    golden_drop: float = Field(
        default=0.1,
        ge=0,
        description="Nats a token by which golden answers may become less likely, on average.",
    )
    drift_kl: float = Field(
        default=0.5,
        gt=0,
        description="Limit at the gate on KL(candidate || base) over the candidate's answers to "
        "the retention suite, in nats a token. Not comparable with RATCHET_TRAIN_DRIFT_KL.",
    )
    nll_rise: float = Field(
        default=0.15,
        ge=0,
        description="Rise of the base's NLL of sampled replies, at most, in nats a token.",
    )
    degeneration_factor: float = Field(
        default=1.0,
        ge=0,
        description="Factor on the limits for replies that repeat themselves, are garbled, "
        "do not end or change language; 2 allows twice as many.",
    )


class VersionSettings(Slice):
    """Versions: what happens to trained versions."""

    promote: Literal["auto", "ask"] = Field(
        default="auto",
        description="auto: a version that passes the gate goes live; ask: an admin decides. "
        "In Telegram with RATCHET_ACCESS=open the default is ask.",
    )
    keep_adapters: int = Field(
        default=20,
        ge=0,
        description="Versions not in use whose files are kept; "
        "the one before the active version is always kept.",
    )


class TelegramSettings(Slice):
    """Telegram: the bot's account."""

    prefix: ClassVar[str] = "telegram_"

    token: SecretStr | None = Field(
        default=None, description="Token from @BotFather; without it Ratchet talks in the terminal."
    )
    api_url: Url = Field(
        default=TELEGRAM, description="URL of a Bot API server of your own, if any."
    )

    @property
    def file_url(self) -> str:
        """URL of files; every Bot API server has them under `/file`."""
        return f"{self.api_url}/file"


class WebhookSettings(Slice):
    """Webhook: how Telegram reaches the bot, if it does not ask for updates itself."""

    prefix: ClassVar[str] = "webhook_"

    url: Url = Field(
        default="", description="Public https URL that Telegram sends updates to; empty is polling."
    )
    listen: Address = Field(
        default="127.0.0.1:8443",
        description="HOST:PORT that the webhook listens on, behind your proxy.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="Secret shared with Telegram, so that nobody else can send updates.",
    )

    @field_validator("secret")
    @classmethod
    def _is_fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(
            r"[A-Za-z0-9_-]{1,256}", value.get_secret_value()
        ):
            raise ValueError("must be 1 to 256 of the characters A-Z a-z 0-9 _ and -")
        return value


class AdmissionSettings(Slice):
    """Admission: who may talk to the bot, and who runs it."""

    admins: Annotated[frozenset[int], BeforeValidator(_between_commas)] = Field(
        default=frozenset(), description="Telegram user ids of the admins, separated by commas."
    )
    access: Literal["open", "allowlist"] = Field(
        default="open",
        description="open: everybody may talk who is not denied; allowlist: only those allowed. "
        "With a Telegram token the default is allowlist.",
    )


class QuotaSettings(Slice):
    """Quotas: how much one person may ask for; admins have none."""

    prefix: ClassVar[str] = "quota_"

    messages: int = Field(
        default=20, ge=0, description="Messages that a person may send in a minute; 0 is no limit."
    )
    tokens: int = Field(
        default=200_000,
        ge=0,
        description="Tokens read and written for a person in a day; 0 is no limit.",
    )
    at_once: int = Field(
        default=4, ge=0, description="Replies that are written for a person at once; 0 is no limit."
    )
    ratings: int = Field(
        default=60, ge=0, description="Ratings of a person that count in an hour; 0 is no limit."
    )
    stranger_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of QUOTA_MESSAGES and QUOTA_TOKENS for people whom no admin allowed.",
    )


class MonitoringSettings(Slice):
    """Monitoring: logs, health and metrics."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least important messages that are logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of log lines; json suits programs that collect them."
    )
    health_listen: AddressOrNone = Field(
        default="", description="HOST:PORT of /healthz, /readyz and /metrics; empty turns them off."
    )
