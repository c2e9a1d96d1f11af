"""Every setting, read once at start-up from `RATCHET_*` variables or a `.env` file.

`.env.example` lists them all; `python -m store.env_example` writes it.
"""

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, model_validator

from store.errors import SettingsError
from store.settings_slices import (
    TELEGRAM,
    AdmissionSettings,
    EngineSettings,
    GateSettings,
    MonitoringSettings,
    PrivacySettings,
    QuotaSettings,
    ReplySettings,
    RetrievalSettings,
    Slice,
    StorageSettings,
    TelegramSettings,
    TrainSettings,
    VersionSettings,
    WebhookSettings,
)

PREFIX = "RATCHET_"
ENV_FILE = ".env"

_IN_THE_RECIPE = "remove it; trainer/recipe.py has the value"
_ONE_FACTOR = "use RATCHET_GATE_DEGENERATION_FACTOR"
_ONE_SHARE = "use RATCHET_QUOTA_STRANGER_SHARE"
_FIXED_REACTIONS = "remove it; bot/telegram/rating.py lists the reactions that count"
REMOVED = {
    "gate_degenerate_rise": _ONE_FACTOR,
    "gate_language_flips": _ONE_FACTOR,
    "gate_on_policy_gain": "use RATCHET_GATE_PREFERENCE_GAIN",
    "gate_predictor_auc": "remove it; trainer/proving/predictor.py has the value",
    "gate_repetition_rise": _ONE_FACTOR,
    "gate_runaway_rise": _ONE_FACTOR,
    "memory": "use RATCHET_MEMORIES=0",
    "negative_reactions": _FIXED_REACTIONS,
    "positive_reactions": _FIXED_REACTIONS,
    "stranger_messages": _ONE_SHARE,
    "stranger_tokens": _ONE_SHARE,
    "telegram_file_url": "remove it; files come from RATCHET_TELEGRAM_API_URL, under /file",
    "train_alpha": _IN_THE_RECIPE,
    "train_beta": _IN_THE_RECIPE,
    "train_checkpoints": _IN_THE_RECIPE,
    "train_layers": _IN_THE_RECIPE,
    "train_rehearsal_weight": _IN_THE_RECIPE,
    "train_replay": _IN_THE_RECIPE,
    "train_targets": _IN_THE_RECIPE,
}
"""Former names of settings, and what to do instead."""


class Settings(BaseModel):
    """All settings, one record for each concern."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    storage: StorageSettings = StorageSettings()
    engine: EngineSettings = EngineSettings()
    reply: ReplySettings = ReplySettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    train: TrainSettings = TrainSettings()
    privacy: PrivacySettings = PrivacySettings()
    gate: GateSettings = GateSettings()
    versions: VersionSettings = VersionSettings()
    telegram: TelegramSettings = TelegramSettings()
    webhook: WebhookSettings = WebhookSettings()
    admission: AdmissionSettings = AdmissionSettings()
    quota: QuotaSettings = QuotaSettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    @model_validator(mode="before")
    @classmethod
    def _is_closed_unless_opened(cls, given: Any) -> Any:
        """Let only those in whom an admin lets in, once the bot can be found in Telegram.

        Where everybody may talk, an admin decides about each version, unless it is set otherwise.
        """
        if not isinstance(given, dict) or not given.get("telegram", {}).get("token"):
            return given
        admission = {"access": "allowlist", **given.get("admission", {})}
        promote = "ask" if admission["access"] == "open" else "auto"
        versions = {"promote": promote, **given.get("versions", {})}
        return {**given, "admission": admission, "versions": versions}

    @model_validator(mode="after")
    def _webhook_has_a_secret(self) -> Self:
        if self.webhook.url and self.webhook.secret is None:
            raise ValueError("RATCHET_WEBHOOK_SECRET must be set when RATCHET_WEBHOOK_URL is")
        return self

    @model_validator(mode="after")
    def _webhook_is_one_that_telegram_posts_to(self) -> Self:
        if self.webhook.url.startswith("http://") and self.telegram.api_url == TELEGRAM:
            raise ValueError(
                "RATCHET_WEBHOOK_URL must start with https://: only a Bot API server of your own "
                "posts to http://"
            )
        return self

    @property
    def slices(self) -> Iterator[tuple[str, Slice]]:
        """The records with their names."""
        for name in type(self).model_fields:
            yield name, getattr(self, name)

    @property
    def public(self) -> dict[str, Any]:
        """Settings without secrets and URLs that may hold a password, as JSON values by name."""
        return {
            f"{each.prefix}{field}": _without_user_info(value)
            for _, each in self.slices
            for field, value in each.model_dump(mode="json").items()
            if field != "database_url" and not isinstance(getattr(each, field), SecretStr)
        }


def _without_user_info(value: Any) -> Any:
    """Return a value with `***` in place of the name and password of URLs in it."""
    if isinstance(value, list):
        return [_without_user_info(each) for each in value]
    return _USER_INFO.sub(r"\1***@", value) if isinstance(value, str) else value


_USER_INFO = re.compile(r"(\w+://)[^/?#\s]*@")


class _Place(NamedTuple):
    slice: str
    field: str


_PLACES = {
    f"{each.prefix}{field}": _Place(name, field)
    for name, each in Settings().slices
    for field in type(each).model_fields
}

NAMES = frozenset(_PLACES)
"""Names of all settings: their variables, in lower case and without `RATCHET_`."""


def load_settings(**overrides: object) -> Settings:
    """Read the settings, or raise `SettingsError` with one line that names the variable.

    `overrides` are settings by name (`train_rank=8`) and override the environment.
    """
    try:
        from_file = dotenv_values(ENV_FILE)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{ENV_FILE} is not UTF-8 text: save it as UTF-8 ({error})") from None
    given: dict[str, object] = {}
    for source in (from_file, os.environ):  # the environment overrides the file
        for variable, value in source.items():
            if variable.upper().startswith(PREFIX):
                name = variable.upper().removeprefix(PREFIX).lower()
                _refuse_unknown(name, variable)
                if value:  # an empty value counts as not set
                    given[name] = value
    return make_settings(**{**given, **overrides})


def make_settings(**values: object) -> Settings:
    """Return settings with these values by name, and defaults for the rest; reads nothing.

    Raises `SettingsError` like `load_settings`.
    """
    chosen: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        _refuse_unknown(name, variable_of(name))
        place = _PLACES[name]
        chosen.setdefault(place.slice, {})[place.field] = value
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        told = "; ".join(_in_words(each["loc"], each["msg"]) for each in error.errors())
        raise SettingsError(told) from error


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def _refuse_unknown(name: str, variable: str) -> None:
    # A misspelt name would be ignored silently, and its setting would keep the default.
    if name in REMOVED:
        raise SettingsError(f"{variable} is no longer a setting: {REMOVED[name]}")
    if name not in _PLACES:
        raise SettingsError(f"{variable} is not a setting; .env.example lists them all")


def _in_words(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    names = [name for name, place in _PLACES.items() if place == location[:2]]
    return f"{variable_of(names[0])}: {message}" if names else message
