"""Wire format of the loopback Bot API: parameters in, errors and faults out.

Telegram takes the same parameters as a query string, JSON, a form or multipart, and
python-telegram-bot uses two of them with nested values as JSON text. `read_params` makes
one typed dictionary of them all, so that methods and the call log never care which it was.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from aiohttp import web

JsonObject: TypeAlias = dict[str, Any]

NESTED = frozenset(
    {
        "allowed_updates",
        "caption_entities",
        "commands",
        "entities",
        "link_preview_options",
        "message_ids",
        "reply_markup",
        "reply_parameters",
        "scope",
    }
)
INTEGERS = frozenset(
    {
        "cache_time",
        "chat_id",
        "draft_id",
        "limit",
        "max_connections",
        "message_id",
        "message_thread_id",
        "offset",
        "timeout",
    }
)
BOOLEANS = frozenset(
    {"allow_sending_without_reply", "disable_notification", "drop_pending_updates", "show_alert"}
)


class ApiError(Exception):
    """A refusal as Telegram words it; becomes `{"ok": false, ...}` with this status."""

    def __init__(self, code: int, description: str, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.retry_after = retry_after

    def body(self) -> JsonObject:
        """Return the JSON body Telegram would send for this error."""
        body: JsonObject = {
            "ok": False,
            "error_code": self.code,
            "description": self.description,
        }
        if self.retry_after is not None:
            body["parameters"] = {"retry_after": self.retry_after}
        return body


def bad_request(reason: str) -> ApiError:
    """Return an error 400, which most refusals are."""
    return ApiError(400, f"Bad Request: {reason}")


def too_many_requests(retry_after: int) -> ApiError:
    """Return an error 429 with the `retry_after` (whole seconds) that a bot must honour."""
    return ApiError(429, f"Too Many Requests: retry after {retry_after}", retry_after)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file part of a multipart request."""

    name: str
    mime_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The parameters of one call, decoded; `uploads` are keyed by the part's name."""

    values: JsonObject
    uploads: Mapping[str, Upload] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """Return a string parameter; numbers are taken as their digits, as Telegram does."""
        value = self.values.get(name)
        return default if value is None else str(value)

    def integer(self, name: str, default: int = 0) -> int:
        """Return a whole number, or `default` when absent. Raises ApiError for anything else."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, int):
            return value
        raise bad_request(f"{name} must be an integer")

    def optional_integer(self, name: str) -> int | None:
        """Return a whole number, or None when absent."""
        return self.integer(name) if self.values.get(name) is not None else None

    def flag(self, name: str) -> bool:
        """Return a boolean parameter, False when absent."""
        return self.values.get(name) in (True, 1, "1", "true", "True")

    def record(self, name: str) -> JsonObject | None:
        """Return a nested object, or None when absent. Raises ApiError for anything else."""
        value = self.values.get(name)
        if value is None or isinstance(value, dict):
            return value
        raise bad_request(f"object expected as {name}")

    def records(self, name: str) -> list[JsonObject]:
        """Return a list of objects, empty when absent. Raises ApiError for anything else."""
        value = self.values.get(name)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return list(value)
        raise bad_request(f"list of objects expected as {name}")

    def integers(self, name: str) -> list[int]:
        """Return a list of whole numbers, empty when absent. Raises ApiError for anything else."""
        value = self.values.get(name)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, int) for item in value):
            return list(value)
        raise bad_request(f"list of integers expected as {name}")

    def names(self, name: str) -> list[str] | None:
        """Return a list of strings, or None when absent, which is not the same as empty."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, list):
            return [str(item) for item in value]
        raise bad_request(f"list of strings expected as {name}")

    def logged(self) -> JsonObject:
        """Return the values for the call log, with each upload as `<name, n bytes>`."""
        files = {
            key: f"<{upload.name}, {len(upload.data)} bytes>"
            for key, upload in self.uploads.items()
        }
        return {**self.values, **files}


def _decoded(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if name in NESTED:
        if not value:
            return None
        try:
            return json.loads(value)
        except ValueError:
            raise bad_request(f"can't parse {name} JSON object") from None
    if name in BOOLEANS:
        return value.lower() in ("1", "true")
    if name in INTEGERS and value.lstrip("-").isdigit():
        return int(value)
    return value


async def read_params(request: web.Request) -> Params:
    """Decode the query, then the body, whatever its content type.

    Raises:
        ApiError: 400 when JSON does not parse, 413 when the body is over 50 MB.
    """
    values: dict[str, object] = dict(request.query)
    uploads: dict[str, Upload] = {}
    try:
        if request.content_type == "application/json":
            body = await request.json() if request.can_read_body else {}
            if not isinstance(body, dict):
                raise bad_request("can't parse JSON object")
            values.update(body)
        else:
            for name, part in (await request.post()).items():
                if isinstance(part, web.FileField):
                    uploads[name] = Upload(
                        name=part.filename, mime_type=part.content_type, data=part.file.read()
                    )
                else:
                    values[name] = part if isinstance(part, str) else bytes(part).decode()
    except ValueError:
        raise bad_request("can't parse JSON object") from None
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(413, "Request Entity Too Large") from None
    return params_of(values, uploads)


def params_of(values: Mapping[str, object], uploads: Mapping[str, Upload] | None = None) -> Params:
    """Decode parameters that may be encoded as in a form."""
    decoded = {name: _decoded(name, value) for name, value in values.items()}
    return Params(values=decoded, uploads=uploads or {})


class FaultKind(StrEnum):
    """The ways a call can go wrong between a bot and Telegram."""

    FLOOD = "flood"
    SERVER_ERROR = "server error"
    TIMEOUT = "timeout"
    DROP_BEFORE = "drop before processing"
    DROP_AFTER = "drop after processing"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault to inject; `seconds` is the flood's retry_after or the timeout's hold."""

    kind: FaultKind
    seconds: float = 0


def flood(retry_after: int) -> Fault:
    """Refuse with 429 and this `retry_after`; nothing is done."""
    return Fault(kind=FaultKind.FLOOD, seconds=retry_after)


def server_error() -> Fault:
    """Answer 502 with a page of HTML instead of JSON; nothing is done."""
    return Fault(kind=FaultKind.SERVER_ERROR)


def timeout(seconds: float = 120) -> Fault:
    """Hold the request this long, then close without an answer; nothing is done."""
    return Fault(kind=FaultKind.TIMEOUT, seconds=seconds)


def drop_before() -> Fault:
    """Close the connection at once; nothing is done."""
    return Fault(kind=FaultKind.DROP_BEFORE)


def drop_after() -> Fault:
    """Do what was asked, then close without saying so."""
    return Fault(kind=FaultKind.DROP_AFTER)
