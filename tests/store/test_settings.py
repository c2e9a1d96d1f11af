"""Settings: what is read, what is refused and how; `.env.example` lists each of them."""

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from store.env_example import env_example
from store.errors import SettingsError
from store.settings import NAMES, REMOVED, Settings, load_settings, make_settings, variable_of
from store.settings_slices import DEFAULT_CRON, DEFAULT_SYSTEM_PROMPT

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
SETTING = re.compile(r"^(?:# ?)?RATCHET_([A-Z_]+)=(.*)$")
MEANING = re.compile(r"^# .*\w")
EMPTY = (None, "", (), frozenset())
TOKEN = "123456:not-to-be-told"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder without a `.env` file, so that only the test's settings count."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(variable_of(name), raising=False)
    return tmp_path


def problem(**overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return str(caught.value)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()
    assert (settings.engine.model, settings.engine.device) == ("starter", "auto")
    assert settings.retrieval.embedder == "starter"
    assert settings.reply.system_prompt == DEFAULT_SYSTEM_PROMPT
    assert (settings.telegram.token, settings.storage.chroma_url) == (None, "")
    assert (settings.admission.admins, settings.admission.access) == (frozenset(), "open")
    assert settings.monitoring.log_level == "INFO"


def test_every_path_is_in_the_data_folder() -> None:
    storage = load_settings(data_dir="/srv").storage

    paths = (storage.adapters_path, storage.models_path, storage.chroma_path, storage.memory_path)

    assert [str(path) for path in paths] == [
        "/srv/adapters",
        "/srv/models",
        "/srv/chroma",
        "/srv/memory",
    ]


def test_files_come_from_the_api_server() -> None:
    assert load_settings().telegram.file_url == "https://api.telegram.org/file"
    own = load_settings(telegram_api_url="http://127.0.0.1:8081/")
    assert own.telegram.file_url == "http://127.0.0.1:8081/file"


def test_every_setting_says_what_it_means() -> None:
    for _, each in Settings().slices:
        for name, field in type(each).model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name
            assert "\n" not in field.description, name


def test_settings_are_set_by_name_and_read_by_concern() -> None:
    settings = load_settings(train_rank=5, quota_ratings=7, webhook_listen="0.0.0.0:80")
    assert (settings.train.rank, settings.quota.ratings) == (5, 7)
    assert settings.webhook.listen == "0.0.0.0:80"


def test_no_two_settings_have_one_name() -> None:
    assert len(NAMES) == sum(len(type(each).model_fields) for _, each in Settings().slices)


def test_values_alone_make_settings_whatever_is_around(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("RATCHET_PASSAGES=5\n")
    monkeypatch.setenv("RATCHET_DEVICE", "cpu")
    settings = make_settings(passages=4)
    assert (settings.retrieval.passages, settings.engine.device) == (4, "auto")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PASSAGES", "5")
    monkeypatch.setenv("ratchet_device", "cpu")
    settings = load_settings()
    assert (settings.retrieval.passages, settings.engine.device) == (5, "cpu")


def test_settings_are_read_from_a_file(folder: Path) -> None:
    (folder / ".env").write_text("# mine\nRATCHET_PASSAGES=5\nRATCHET_SYSTEM_PROMPT='Be kind.'\n")
    settings = load_settings()
    assert (settings.retrieval.passages, settings.reply.system_prompt) == (5, "Be kind.")


def test_the_environment_goes_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("RATCHET_PASSAGES=5\n")
    monkeypatch.setenv("RATCHET_PASSAGES", "6")
    assert load_settings().retrieval.passages == 6
    assert load_settings(passages=7).retrieval.passages == 7


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TELEGRAM_TOKEN", "PASSAGES", "ADMINS", "DATABASE_URL"):
        monkeypatch.setenv(f"RATCHET_{name}", "")
    assert load_settings() == Settings()


@pytest.mark.bad_input("a setting that is none")
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("QUEUE_SIZE", "many", "integer"),
        ("QUEUE_SIZE", "0", "greater than or equal to 1"),
        ("PROMPT_TOKENS", "10", "greater than or equal to 256"),
        ("MAX_NEW_TOKENS", "0", "greater than or equal to 1"),
        ("TEMPERATURE", "2.5", "less than or equal to 2"),
        ("TEMPERATURE", "nan", ""),
        ("TOP_P", "0", "greater than 0"),
        ("REPETITION_PENALTY", "0.5", "greater than or equal to 1"),
        ("CHUNK_CHARS", "79", "greater than or equal to 80"),
        ("PASSAGES", "21", "less than or equal to 20"),
        ("PASSAGE_FLOOR", "1.5", "less than or equal to 1"),
        ("DEVICE", "tpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("ACCESS", "closed", "'open' or 'allowlist'"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("ADMINS", "1, ada", "integer"),
        ("TRAIN_CRON", "0 3 31 2 *", "there is no such day"),
        ("CHROMA_URL", "127.0.0.1:8000", "must start with http:// or https://"),
        ("VLLM_URL", "http://gpu1:8000, gpu2:8000", "must start with http:// or https://"),
        ("VLLM_URL", "http://gpu1:80OO", "Port could not be cast"),
        ("VLLM_URL", "http://gpu1:8000/v1", "must be http://HOST:PORT and no more"),
        ("TELEGRAM_API_URL", "ftp://x", "must start with http:// or https://"),
        ("HEALTH_LISTEN", "9464", "must be HOST:PORT"),
        ("MEMORIES", "-1", "greater than or equal to 0"),
        ("FORGET_DAYS", "-1", "greater than or equal to 0"),
        ("QUOTA_STRANGER_SHARE", "0", "greater than 0"),
        ("WEBHOOK_URL", "x", "must start with http:// or https://"),
        ("WEBHOOK_LISTEN", "8443", "must be HOST:PORT"),
        ("WEBHOOK_LISTEN", "127.0.0.1:", "must be HOST:PORT"),
        ("WEBHOOK_LISTEN", "127.0.0.1:70000", "must be HOST:PORT"),
        ("WEBHOOK_URL", "https://example.com/hook", "RATCHET_WEBHOOK_SECRET must be set"),
    ],
)
def test_a_bad_value_is_named_in_one_line_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"RATCHET_{name}", value)
    told = problem()
    assert f"RATCHET_{name}" in told
    assert reason in told
    assert "\n" not in told


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PASSAGES", "many")
    monkeypatch.setenv("RATCHET_DEVICE", "tpu")
    told = problem()
    assert "RATCHET_PASSAGES" in told
    assert "RATCHET_DEVICE" in told


@pytest.mark.bad_input("a setting that is none")
def test_a_misspelt_variable_in_the_file_is_named(folder: Path) -> None:
    (folder / ".env").write_text("RATCHET_PASAGES=5\n")
    assert problem() == "RATCHET_PASAGES is not a setting; .env.example lists them all"


@pytest.mark.bad_input("a setting that is none")
@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_setting_that_went_is_refused_with_what_to_do(folder: Path, name: str) -> None:
    (folder / ".env").write_text(f"{variable_of(name)}=1\n")
    told = problem()
    assert told == f"{variable_of(name)} is no longer a setting: {REMOVED[name]}"
    instead = set(re.findall(r"RATCHET_([A-Z_]+)", REMOVED[name]))
    assert {each.lower() for each in instead} <= NAMES
    assert all((ROOT / path).is_file() for path in re.findall(r"\S+/\S+\.py", REMOVED[name]))


def test_a_name_is_no_setting_and_one_that_went_at_once() -> None:
    assert not NAMES & set(REMOVED)


def test_variables_of_other_programs_in_the_file_are_left_alone(folder: Path) -> None:
    (folder / ".env").write_text("POSTGRES_PASSWORD=x\nRATCHET_PASSAGES=5\n")
    assert load_settings().retrieval.passages == 5


@pytest.mark.parametrize(
    ("value", "admins"),
    [
        ("7", {7}),
        ("7,8", {7, 8}),
        (" 7, 8 ,9,", {7, 8, 9}),
        ("7 8\t9", {7, 8, 9}),
        ("7,7", {7}),
        ("5000000000", {5_000_000_000}),
        (" , ", set()),
    ],
)
def test_admins_are_ids_between_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, admins: set[int]
) -> None:
    monkeypatch.setenv("RATCHET_ADMINS", value)
    assert load_settings().admission.admins == admins


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_TELEGRAM_TOKEN", TOKEN)
    monkeypatch.setenv("RATCHET_WEBHOOK_SECRET", secret := TOKEN.replace(":", "_"))
    settings = load_settings()
    assert settings.telegram.token == SecretStr(TOKEN)
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump()}"
    assert TOKEN not in settings.model_dump_json()
    assert secret not in f"{settings!r} {settings.model_dump_json()}"
    assert not {"telegram_token", "webhook_secret", "database_url"} & set(settings.public)


def test_what_is_public_has_the_names_of_the_settings() -> None:
    public = load_settings(admins="7", train_rank=5).public
    assert (public["admins"], public["train_rank"], public["data_dir"]) == ([7], 5, "data")
    assert set(public) == NAMES - {"database_url"}


def test_the_password_of_the_database_is_not_shown() -> None:
    settings = load_settings(database_url="postgresql://ada:hunter2@db/ratchet")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("bad", [{"passages": "many"}, {"webhook_url": "https://example.com"}])
def test_secrets_are_not_shown_when_another_setting_is_bad(
    monkeypatch: pytest.MonkeyPatch, bad: dict[str, object]
) -> None:
    monkeypatch.setenv("RATCHET_TELEGRAM_TOKEN", TOKEN)
    with pytest.raises(SettingsError) as caught:
        load_settings(**bad)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_secret_under_a_misspelt_name_is_not_shown(folder: Path) -> None:
    (folder / ".env").write_text(f"RATCHET_TELEGRAM_TOKN={TOKEN}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_the_database_is_a_file_in_the_data_folder(folder: Path) -> None:
    assert load_settings().storage.database == f"sqlite:///{folder}/data/ratchet.db"
    assert load_settings(data_dir="/srv/r").storage.database == "sqlite:////srv/r/ratchet.db"


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("postgresql://ada@db/x?sslmode=require", "postgresql+psycopg://ada@db/x?sslmode=require"),
        ("postgres://ada@db/x", "postgresql+psycopg://ada@db/x"),
        ("postgresql+psycopg://ada@db/x", "postgresql+psycopg://ada@db/x"),
        ("sqlite:////srv/x.db", "sqlite:////srv/x.db"),
    ],
)
def test_postgres_goes_through_its_one_driver(url: str, used: str) -> None:
    assert load_settings(database_url=url).storage.database == used


def test_a_slash_at_the_end_of_a_url_does_not_matter() -> None:
    settings = load_settings(chroma_url="http://127.0.0.1:8000/")
    assert settings.storage.chroma_url == "http://127.0.0.1:8000"


def test_only_a_bot_api_server_of_ones_own_posts_to_http() -> None:
    mine = {"webhook_url": "http://127.0.0.1:8443/hook", "webhook_secret": "s"}

    with pytest.raises(SettingsError, match="RATCHET_WEBHOOK_URL must start with https://"):
        load_settings(**mine)
    load_settings(**mine, telegram_api_url="http://127.0.0.1:8081")


def test_a_webhook_with_a_secret_is_taken() -> None:
    settings = load_settings(webhook_url="https://example.com/hook", webhook_secret="s")
    assert settings.webhook.url == "https://example.com/hook"


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().retrieval.passages = 9  # type: ignore[misc]


def test_the_default_schedule_is_a_schedule() -> None:
    assert CronTrigger.from_crontab(DEFAULT_CRON, timezone="UTC")


def test_reading_the_settings_does_not_import_the_scheduler() -> None:
    code = (
        "import sys, bot.app, bot.cli.main; from store.settings import load_settings; "
        "load_settings(); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "apscheduler" not in loaded


def test_the_example_is_made_from_the_code() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == env_example(), (
        "run `python -m store.env_example > .env.example`"
    )


def example() -> dict[str, tuple[str, str]]:
    """Return each variable of `.env.example`, with its value and the line above it."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return {
        match[1].lower(): (match[2], above)
        for above, line in zip(["", *lines], lines, strict=False)
        if (match := SETTING.match(line))
    }


def test_the_example_lists_every_setting_and_no_other() -> None:
    assert set(example()) == NAMES


def test_the_example_gives_each_setting_a_line_of_meaning() -> None:
    for name, (_, above) in example().items():
        assert MEANING.match(above), name
        assert not SETTING.match(above), name


def test_the_example_gives_the_defaults(folder: Path) -> None:
    values = {name: value for name, (value, _) in example().items()}
    (folder / ".env").write_text(
        "".join(f"RATCHET_{name.upper()}={value}\n" for name, value in values.items())
    )
    assert load_settings() == Settings()
    for _, each in Settings().slices:
        for field, about in type(each).model_fields.items():
            name = f"{each.prefix}{field}"
            assert bool(values[name]) == (about.default not in EMPTY), name


def test_an_env_file_in_another_encoding_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes("RATCHET_MODEL=starter\n".encode("utf-16"))

    with pytest.raises(SettingsError, match=r"\.env is not UTF-8 text"):
        load_settings()


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ODD = ("0", "-1", "1e999", "nan", "true", "http://", "http://[", "https://x:1:2", "9" * 30, " ")


@given(name=st.sampled_from(sorted(NAMES)), value=VALUES | st.sampled_from(ODD))
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_taken_or_refused_in_one_line(folder: Path, name: str, value: str) -> None:
    variable, refused = variable_of(name), ""
    with patch.dict(os.environ, {variable: value}):
        try:
            load_settings()
        except SettingsError as error:
            refused = str(error)
    assert not refused or (variable in refused and "\n" not in refused)


@pytest.mark.parametrize(
    ("chosen", "access", "promote"),
    [
        ({}, "open", "auto"),
        ({"telegram_token": TOKEN}, "allowlist", "auto"),
        ({"telegram_token": TOKEN, "access": "open"}, "open", "ask"),
        ({"telegram_token": TOKEN, "access": "open", "promote": "auto"}, "open", "auto"),
        ({"telegram_token": TOKEN, "promote": "ask"}, "allowlist", "ask"),
    ],
)
def test_a_bot_in_telegram_is_closed_unless_it_is_opened(
    chosen: dict[str, str], access: str, promote: str
) -> None:
    settings = make_settings(**chosen)
    assert (settings.admission.access, settings.versions.promote) == (access, promote)


def test_names_and_passwords_in_urls_are_secrets() -> None:
    settings = make_settings(
        chroma_url="http://me:hidden@db.local:8000",
        telegram_api_url="https://hidden@api.local",
        vllm_url="http://gpu1:8000",
    )
    assert "hidden" not in str(settings.public)
    assert settings.public["chroma_url"] == "http://***@db.local:8000"
