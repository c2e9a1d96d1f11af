"""Every setting, read once at start-up from `RATCHET_*` variables or a `.env` file.

`.env.example` lists them with their defaults and one line of meaning; a test keeps the two equal.
"""

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from apscheduler.triggers.cron import CronTrigger
from dotenv import dotenv_values
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from store.errors import SettingsError

PREFIX = "RATCHET_"
ENV_FILE = ".env"
TELEGRAM = "https://api.telegram.org"
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly and plainly."


class Settings(BaseSettings):
    """Field names are the variables' names in lower case, without the prefix."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(
        Path("data"), description="Folder for the database, the index, models and adapters."
    )
    database_url: str = Field(
        "",
        repr=False,
        description="SQLAlchemy URL; empty is SQLite in the data folder. Postgres: postgresql://",
    )
    chroma_url: str = Field(
        "", description="A Chroma server, such as http://127.0.0.1:8000; empty is the embedded one."
    )

    model: str = Field(
        "starter", description="starter, a Hugging Face id, or a folder with a causal chat model."
    )
    embedder: str = Field(
        "starter", description="starter, or a sentence-transformers id or folder."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where the model runs; auto takes cuda, then mps, then cpu."
    )
    vllm_url: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="vLLM servers, separated by commas, that run the model for the bot."
    )
    vllm_key: SecretStr | None = Field(
        None, description="The --api-key of the vLLM servers, if they have one."
    )
    queue_size: int = Field(
        64, ge=1, le=10_000, description="Replies that may wait for the model before it is busy."
    )
    batch_size: int = Field(
        16, ge=1, le=512, description="Replies that are written side by side at most."
    )
    prefix_megabytes: int = Field(
        256, ge=0, description="Memory for what the model has read of conversations; 0 is off."
    )
    draft_tokens: int = Field(
        8,
        ge=0,
        le=15,
        description="Tokens of a reply that are drafted at a time from what was said; 0 is off.",
    )

    system_prompt: str = Field(
        DEFAULT_SYSTEM_PROMPT, description="What the model is told before every conversation."
    )
    prompt_tokens: int = Field(
        2048, ge=256, description="Tokens of history, passages and question; oldest turns go first."
    )
    max_new_tokens: int = Field(400, ge=1, description="Tokens that a reply may have.")
    temperature: float = Field(
        0.0, ge=0, le=2, description="Sampling temperature; 0 always takes the likeliest token."
    )
    top_p: float = Field(
        0.9, gt=0, le=1, description="Nucleus sampling: share of probability kept."
    )
    repetition_penalty: float = Field(
        1.1,
        ge=1,
        le=2,
        description="Above 1 makes a model repeat itself less, 1 is off; "
        "not applied to a reply from documents, which has to be free to quote them.",
    )

    chunk_chars: int = Field(
        240,
        ge=80,
        le=8000,
        description="Characters of a passage at most; 800 suits models of 1B weights or more. "
        "Add documents anew after a change.",
    )
    passages: int = Field(3, ge=0, le=20, description="Passages put in a prompt at most.")
    passage_floor: float = Field(
        0.3, ge=-1, le=1, description="Cosine similarity below which a passage does not fit."
    )

    passage_margin: float = Field(
        0.1, ge=0, le=2, description="How far a passage may score below the best one; 2 is off."
    )

    memory: bool = Field(
        True, description="Whether liked and corrected answers help with questions like theirs."
    )
    memories: int = Field(2, ge=1, le=10, description="Such answers put in a prompt at most.")
    memory_floor: float = Field(
        0.7, ge=-1, le=1, description="Cosine similarity of two questions that counts as close."
    )

    train_cron: str = Field(
        "0 3 * * *",
        description="When to train, in UTC: minute hour day month weekday (mon to sun); or off.",
    )
    train_min_ratings: int = Field(
        50, ge=1, description="New ratings without which the schedule does not train."
    )
    train_max_examples: int = Field(
        400, ge=10, description="Examples that a run trains on at most."
    )
    train_replay: float = Field(
        0.3, ge=0, le=1, description="Share of those drawn from older ratings, when there are more."
    )
    train_objective: Literal["auto", "kto", "dpo", "sft"] = Field(
        "auto", description="kto for thumbs, dpo for pairs, sft for corrections; auto takes all."
    )
    train_method: Literal["lora", "qlora"] = Field(
        "lora", description="qlora quantises the base to 4 bits while training; needs CUDA."
    )
    train_rank: int = Field(16, ge=1, le=256, description="Rank of the adapter's matrices.")
    train_alpha: int = Field(32, ge=1, description="LoRA's alpha: updates count alpha/rank times.")
    train_targets: str = Field(
        "all-linear", description="Modules that are adapted, separated by commas, or all-linear."
    )
    train_layers: float = Field(
        0.5, gt=0, le=1, description="Share of the layers that is adapted, from the last one."
    )
    train_learning_rate: float = Field(
        1.2e-3,
        gt=0,
        le=1,
        description="The highest learning rate; it rises to it, then falls to 0.",
    )
    train_beta: float = Field(
        0.2, gt=0, description="How strongly kto and dpo hold on to the base model."
    )
    train_epochs: float = Field(1.0, gt=0, le=100, description="How often each example is seen.")
    train_batch_size: int = Field(
        8, ge=2, le=1024, description="Examples of one step of the optimizer."
    )
    train_max_length: int = Field(
        1024, ge=64, description="Tokens of prompt and reply; longer examples are left out."
    )
    train_rehearsal: int = Field(
        240,
        ge=0,
        le=1000,
        description="Everyday questions rehearsed in a run, so that they are not forgotten.",
    )
    train_rehearsal_weight: float = Field(
        4.0, ge=0.0, le=100.0, description="How much rehearsal counts beside what is learned."
    )
    train_drift_kl: float = Field(
        0.014,
        gt=0,
        description="How far an update may go from the base on everyday questions, nats a token; "
        "one that goes further is walked back.",
    )
    train_checkpoints: int = Field(
        2, ge=1, le=50, description="Moments of a run at which the adapter is judged."
    )
    train_person_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Share of a run's examples that are one person's at most, admins' aside; "
        "of few people each may give as much as the others.",
    )
    train_newcomer_days: int = Field(
        7,
        ge=0,
        description="Days for which somebody is new, half as many for who agrees with others; "
        "0 lets everybody count alike.",
    )
    train_newcomer_share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of a run's examples that are new people's, all of them together.",
    )
    train_consent: bool = Field(
        False, description="Whether only those who said yes at /start or /optin are learned from."
    )
    train_mask: bool = Field(
        True, description="Whether what is private is masked in what is trained on."
    )
    train_seed: int = Field(0, ge=0, description="Seed of everything that is drawn in a run.")
    train_processes: int = Field(
        1, ge=1, le=64, description="Processes of a run, started by accelerate launch."
    )

    keep_days: int = Field(
        0,
        ge=0,
        le=36500,
        description="Days after which the trainer deletes turns, with their ratings; 0 keeps them.",
    )
    keep_adapters: int = Field(
        20,
        ge=0,
        description="Versions not in use whose files are kept; the one before the active always.",
    )
    promote: Literal["auto", "ask"] = Field(
        "auto", description="auto: what passes the gate goes live; ask: an admin decides."
    )
    gate_min_ratings: int = Field(
        20, ge=4, description="Held-out ratings below which nothing can be proven."
    )
    gate_preference: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="The candidate has to tell held-out 👍 from 👎: lower bound of its AUC.",
    )
    gate_preference_gain: float = Field(
        0.0, description="How much better than the active adapter it has to tell them apart."
    )
    gate_on_policy_gain: float = Field(
        0.0, description="How much better its fresh replies have to be rated by the predictor."
    )
    gate_predictor_auc: float = Field(
        0.6, ge=0.5, le=1, description="Below this the predictor cannot tell, and is not asked."
    )
    gate_retention_drop: float = Field(
        0.03, ge=0, le=1, description="Share of the retention suite that may be lost."
    )
    gate_drift_kl: float = Field(
        0.5, gt=0, description="KL divergence to the base on retention prompts, nats a token."
    )
    gate_nll_rise: float = Field(
        0.15, ge=0, description="Rise of the base's NLL of sampled replies, nats a token."
    )
    gate_repetition_rise: float = Field(
        0.05, ge=0, le=1, description="Rise of the share of repeated 4-grams in sampled replies."
    )
    gate_degenerate_rise: float = Field(
        0.05, ge=0, le=1, description="Rise of the share of empty or garbled replies."
    )
    gate_runaway_rise: float = Field(
        0.2, ge=0, le=1, description="Rise of the share of replies that do not end."
    )
    gate_language_flips: float = Field(
        0.05, ge=0, le=1, description="Rise of the share of replies in another script or language."
    )

    telegram_token: SecretStr | None = Field(
        None, description="From @BotFather; without it Ratchet talks in the terminal."
    )
    telegram_api_url: str = Field(
        TELEGRAM, description="A self-hosted Bot API server, if you run one."
    )
    telegram_file_url: str = Field(
        "", description="Where that server gives files; empty derives it from the API URL."
    )
    webhook_url: str = Field(
        "", description="Public https URL that Telegram posts updates to; empty is polling."
    )
    webhook_listen: str = Field(
        "127.0.0.1:8443", description="Address and port the webhook listens on, behind your proxy."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Shared with Telegram so that nobody else can post updates."
    )
    admins: Annotated[frozenset[int], NoDecode] = Field(
        frozenset(), description="Telegram user ids of the admins, separated by commas."
    )
    access: Literal["open", "allowlist"] = Field(
        "open", description="Who may talk: everybody not denied, or only those allowed."
    )
    positive_reactions: str = Field(
        "👍❤🔥🥰👏😁🎉🤩🙏👌😍💯🤣⚡🏆🤗🫡😘🆒", description="Reactions that count as 👍."
    )
    negative_reactions: str = Field(
        "👎🤬😢🤮💩🥱😡🤡💔🖕🤨😐🥴", description="Reactions that count as 👎."
    )

    quota_messages: int = Field(
        20, ge=0, description="Messages that somebody may send in a minute; 0 is no bound."
    )
    quota_tokens: int = Field(
        200_000,
        ge=0,
        description="Tokens read and written for somebody in a day; 0 is no bound.",
    )
    quota_at_once: int = Field(
        4, ge=0, description="Replies that are written for somebody at once; 0 is no bound."
    )
    quota_ratings: int = Field(
        60, ge=0, description="Ratings that count of somebody in an hour; 0 is no bound."
    )
    stranger_messages: int = Field(
        10, ge=0, description="The same as QUOTA_MESSAGES for those no admin has decided about."
    )
    stranger_tokens: int = Field(
        100_000, ge=0, description="The same as QUOTA_TOKENS for those no admin has decided about."
    )
    answer_within: int = Field(
        720, ge=1, description="Minutes after which a message that was missed is left unanswered."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="How much is logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How the bot's log lines look; json for programs that collect them."
    )
    health_listen: str = Field(
        "", description="HOST:PORT of /healthz, /readyz and /metrics; without one there are none."
    )

    @field_validator("admins", "vllm_url", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("train_cron")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        if value != "off":
            schedule = CronTrigger.from_crontab(value, timezone="UTC")  # ValueError, in words
            if schedule.get_next_fire_time(None, datetime.now(UTC)) is None:
                raise ValueError("there is no such day")
        return value

    @field_validator("webhook_listen", "health_listen")
    @classmethod
    def _has_a_port(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "health_listen":
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:8443")
        return value

    @field_validator("chroma_url", "telegram_api_url", "telegram_file_url", "webhook_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("vllm_url")
    @classmethod
    def _are_urls(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(cls._is_a_url(value) for value in values)
        for value in found:
            parts = urlsplit(value)  # its port raises ValueError, in words
            if not parts.hostname or parts.port == 0 or parts.path:
                raise ValueError("must be http://HOST:PORT and no more, such as http://gpu1:8000")
        return found

    @field_validator("webhook_secret")
    @classmethod
    def _is_fit_for_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(
            r"[A-Za-z0-9_-]{1,256}", value.get_secret_value()
        ):
            raise ValueError("must be 1 to 256 of the characters A-Z a-z 0-9 _ and -")
        return value

    @model_validator(mode="after")
    def _webhook_has_a_secret(self) -> "Settings":
        if self.webhook_url and self.webhook_secret is None:
            raise ValueError("RATCHET_WEBHOOK_SECRET must be set when RATCHET_WEBHOOK_URL is")
        return self

    @model_validator(mode="after")
    def _webhook_is_one_that_telegram_posts_to(self) -> "Settings":
        if self.webhook_url.startswith("http://") and self.telegram_api_url == TELEGRAM:
            raise ValueError(
                "RATCHET_WEBHOOK_URL must start with https://: only a Bot API server of your own "
                "posts to http://"
            )
        return self

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
    def public(self) -> dict[str, Any]:
        """Every setting but the secret ones, and URLs that may hold a password; JSON values."""
        plain = self.model_dump(mode="json")
        secret = {name for name in plain if isinstance(getattr(self, name), SecretStr)}
        return {n: v for n, v in plain.items() if n not in {*secret, "database_url"}}

    @property
    def chroma_path(self) -> Path:
        """Where the embedded index lies."""
        return self.data_dir / "chroma"


def load_settings(**overrides: object) -> Settings:
    """Read the settings, or raise `SettingsError` with one line that names the variable."""
    try:
        _refuse_unknown_names()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{ENV_FILE} is not UTF-8 text: save it as such ({error})") from None
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # values are checked by pydantic
    except ValidationError as error:
        raise SettingsError("; ".join(_in_words(problem) for problem in error.errors())) from error


def _refuse_unknown_names() -> None:
    # A misspelt name would be ignored without a word, and its setting stay at the default.
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in sorted({*os.environ, *dotenv_values(ENV_FILE)}):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name} is no setting; .env.example lists them")


def _in_words(problem: object) -> str:
    assert isinstance(problem, dict)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    return f"{PREFIX}{str(problem['loc'][0]).upper().removeprefix(PREFIX)}: {message}"
