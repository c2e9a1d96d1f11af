"""Preference files in TRL's formats, one JSON object a line: read whole or not at all, and written.

`{"prompt", "completion", "label"}` is an unpaired preference, `{"prompt", "chosen", "rejected"}` a
pair, `{"prompt", "completion"}` a demonstration. Each value is a string or a list of messages
(https://huggingface.co/docs/trl/dataset_formats).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from store.domain import AnyExample, Demonstration, Example, ExampleSet, Message, PreferencePair
from store.errors import PreferencesUnreadable
from store.imports import Preference

MAX_LINE_CHARS = 200_000

_MESSAGES = TypeAdapter(tuple[Message, ...])


def read_preferences(path: Path) -> tuple[Preference, ...]:
    """Return every line of a file. Raises `PreferencesUnreadable`, naming the first bad line."""
    preferences = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    preferences.append(_preference(line, f"{path}, line {number}"))
    except OSError as error:
        raise PreferencesUnreadable(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PreferencesUnreadable(f"{path} is not UTF-8 text: save it as UTF-8") from error
    if not preferences:
        raise PreferencesUnreadable(f"{path} holds no preferences")
    return tuple(preferences)


def write_preferences(examples: ExampleSet) -> Iterator[str]:
    """Yield all examples as lines of conversational TRL rows, imported ones included."""
    for each in examples.every:
        yield json.dumps(_row(each), ensure_ascii=False)


def _row(each: AnyExample) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": [asdict(message) for message in each.prompt]}
    match each:
        case PreferencePair():
            row |= {"chosen": _reply(each.chosen), "rejected": _reply(each.rejected)}
        case Example():
            row |= {"completion": _reply(each.completion), "label": each.label}
        case Demonstration():
            row |= {"completion": _reply(each.completion)}
    return row


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _preference(line: str, where: str) -> Preference:
    try:
        return _read(line)
    except (ValueError, RecursionError) as error:
        raise PreferencesUnreadable(f"{where}: {error}; nothing was imported") from error


def _read(line: str) -> Preference:
    if len(line) > MAX_LINE_CHARS:
        raise ValueError(f"it is longer than {MAX_LINE_CHARS} characters")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    keys = set(row)
    prompt = _prompt(row.get("prompt"))
    if keys == {"prompt", "chosen", "rejected"}:
        chosen, rejected = _completion(row, "chosen"), _completion(row, "rejected")
        if chosen == rejected:
            raise ValueError("chosen and rejected are the same")
        return Preference(prompt=prompt, completion=chosen, rejected=rejected)
    if keys == {"prompt", "completion", "label"}:
        if not isinstance(row["label"], bool):
            raise ValueError("label must be true or false")
        return Preference(
            prompt=prompt, completion=_completion(row, "completion"), label=row["label"]
        )
    if keys == {"prompt", "completion"}:
        return Preference(prompt=prompt, completion=_completion(row, "completion"))
    raise ValueError(
        "the keys must be prompt, completion and label, or prompt, chosen and rejected, "
        f"or prompt and completion; these are {', '.join(sorted(map(str, keys))) or 'none'}"
    )


def _prompt(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    messages = _messages(value, "prompt")
    if messages[-1].role != "user":
        raise ValueError("the prompt must end with a message of the user")
    return messages


def _completion(row: dict[str, object], name: str) -> str:
    value = row[name]
    if isinstance(value, list):
        messages = _messages(value, name)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise ValueError(f"{name} must be one message of the assistant")
        value = messages[0].content
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text or a list of messages")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    return storable(value, name)


def _messages(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a text or a list of messages")
    messages = to_messages(value, name)
    if not any(message.content.strip() for message in messages):
        raise ValueError(f"{name} is empty")
    return messages


def to_messages(value: list[Any], name: str) -> tuple[Message, ...]:
    """Return the messages in a list of JSON objects. Raises `ValueError`."""
    try:
        messages = _MESSAGES.validate_python(value)
    except ValidationError:
        raise ValueError(
            f"{name} holds something that is not a message with role and content"
        ) from None
    for message in messages:
        storable(message.content, name)
    return messages


def storable(text: str, name: str) -> str:
    """Return a text if every database and every model takes it. Raises `ValueError`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair") from None
    if "\0" in text:
        raise ValueError(f"{name} holds a zero byte")
    return text
