"""Checks that everything Ratchet needs is there, without loading the model."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from pydantic import SecretStr

from bot.app import make_adapters, open_database
from bot.engine.errors import EngineError
from bot.engine.source import hub_id, named_source
from bot.engine.starter import MODEL_NAME, find_gguf
from store.adapters import Adapters
from store.documents.sandbox import cuts_network
from store.domain import AdapterStatus
from store.embedder import STARTER_NAME, find_starter
from store.errors import IndexInUse, StoreError
from store.index import ChromaIndex
from store.settings import Settings
from store.settings_slices import EngineSettings, StorageSettings, TelegramSettings

MIN_FREE_BYTES = 2_000_000_000
"""Space for the converted model, the index and some adapters."""

TELEGRAM_SECONDS = 10.0
"""Timeout of the call to Telegram."""

MOST_SECONDS_OFF = 120.0
"""Largest difference from Telegram's clock; beyond it, schedules and message times are wrong."""

VLLM_SECONDS = 5.0
"""Timeout of the call to a vLLM server."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    fine: bool
    detail: str


def examine(settings: Settings, index: ChromaIndex) -> Iterator[Finding]:
    """Yield the result of every check; a check that fails does not raise."""
    database = _database(settings.storage)
    yield database
    if database.fine:
        yield _adapters(settings.storage)
    yield _model(settings.engine)
    yield _embedder(settings.retrieval.embedder)
    yield _index(index)
    yield _sandbox()
    yield _disk(settings.storage.data_dir)
    for url in settings.engine.vllm_url:
        yield _vllm(url, settings.engine.vllm_key)
    if settings.telegram.token is not None:
        yield _telegram(settings.telegram)


def _database(storage: StorageSettings) -> Finding:
    try:
        with open_database(storage) as database:
            database.check_at_head()
            shown = database.engine.url.render_as_string(hide_password=True)
    except StoreError as error:
        return Finding(name="database", fine=False, detail=str(error))
    return Finding(name="database", fine=True, detail=f"{shown}, schema at head")


def _adapters(storage: StorageSettings) -> Finding:
    """Check that the files of every version are there and unchanged."""
    try:
        with open_database(storage) as database:
            whole, damaged = _whole_and_damaged(make_adapters(storage, database))
    except StoreError as error:
        return Finding(name="adapters", fine=False, detail=str(error))
    if damaged:
        detail = f"damaged: {', '.join(damaged)}; use /rollback, or restore a backup"
        return Finding(name="adapters", fine=False, detail=detail)
    return Finding(name="adapters", fine=True, detail=f"{whole}, their hashes are right")


def _whole_and_damaged(adapters: Adapters) -> tuple[int, list[str]]:
    damaged, whole = [], 0
    for each in adapters.all():
        if each.status is AdapterStatus.REMOVED:
            continue
        try:
            adapters.get(each.name)
            whole += 1
        except StoreError:
            damaged.append(f"{each.name} ({each.status})")
    return whole, damaged


def _sandbox() -> Finding:
    detail = "files are read without a network"
    if not cuts_network():
        detail = "files are read in a process that could use the network: no namespaces here"
    return Finding(name="sandbox", fine=True, detail=detail)


def _model(engine: EngineSettings) -> Finding:
    try:
        if engine.model == "starter":
            find_gguf()
            detail = f"{MODEL_NAME} (embedded)"
        else:
            detail = f"{engine.model} ({_place(engine.model)})"
        if engine.device in ("cuda", "mps"):
            from bot.engine.local import choose_device  # brings torch

            choose_device(engine.device)
    except EngineError as error:
        return Finding(name="model", fine=False, detail=str(error))
    return Finding(name="model", fine=True, detail=detail)


def _place(model: str) -> str:
    if isinstance(named_source(model), Path):
        return "a folder"
    if hub_id(model)[1] is None:
        return "from the Hugging Face Hub, whatever is there; NAME@COMMIT names one version"
    return "from the Hugging Face Hub"


def _embedder(embedder: str) -> Finding:
    if embedder != "starter":
        return Finding(name="embedder", fine=True, detail=embedder)
    try:
        find_starter()
    except StoreError as error:
        return Finding(name="embedder", fine=False, detail=str(error))
    return Finding(name="embedder", fine=True, detail=f"{STARTER_NAME} (embedded)")


def _index(index: ChromaIndex) -> Finding:
    try:
        detail = f"{index.where}, {index.count()} passages"
    except IndexInUse:
        detail = f"{index.where}, in use by another process"
    except StoreError as error:
        return Finding(name="index", fine=False, detail=str(error))
    finally:
        index.close()
    return Finding(name="index", fine=True, detail=detail)


def _disk(data_dir: Path) -> Finding:
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        name="disk",
        fine=free >= MIN_FREE_BYTES,
        detail=f"{free / 1e9:.1f} GB free for {data_dir}, {MIN_FREE_BYTES / 1e9:.0f} GB needed",
    )


def _vllm(url: str, key: SecretStr | None) -> Finding:
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(f"{url}/v1/models", headers=headers, timeout=VLLM_SECONDS)
    except httpx.HTTPError as error:
        detail = f"cannot reach {url} ({type(error).__name__}): check RATCHET_VLLM_URL"
        return Finding(name="vllm", fine=False, detail=detail)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        detail = f"{url} refuses the key: check RATCHET_VLLM_KEY"
    else:
        detail = url if answer.is_success else f"{url} answers with {answer.status_code}"
    return Finding(name="vllm", fine=answer.is_success, detail=detail)


def _telegram(telegram: TelegramSettings) -> Finding:
    assert telegram.token is not None
    token = telegram.token.get_secret_value()
    try:
        answer = httpx.get(f"{telegram.api_url}/bot{token}/getMe", timeout=TELEGRAM_SECONDS)
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        # The text of the error is not shown: it may hold the URL, which holds the token.
        detail = f"cannot reach {telegram.api_url} ({type(error).__name__})"
        return Finding(name="telegram", fine=False, detail=detail)
    if not body.get("ok"):
        detail = f"{body.get('description')}: check RATCHET_TELEGRAM_TOKEN"
        return Finding(name="telegram", fine=False, detail=detail)
    seconds = _seconds_off(answer.headers.get("date"))
    if seconds > MOST_SECONDS_OFF:
        detail = f"this machine's clock is {seconds:.0f} seconds away from Telegram's: set it"
        return Finding(name="telegram", fine=False, detail=detail)
    return Finding(name="telegram", fine=True, detail=f"@{body['result']['username']}, clock right")


def _seconds_off(date: str | None) -> float:
    """Return the seconds between this machine's clock and a Date header; 0 without a header."""
    if date is None:
        return 0.0
    return abs((datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds())
