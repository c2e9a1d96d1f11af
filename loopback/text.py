"""Telegram's rules for text, entities and keyboards, with its error texts.

Offsets and lengths are UTF-16 code units throughout, as Telegram counts them. Of the parse
modes only HTML is read; Ratchet sends entities, so Markdown is refused rather than guessed.
"""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from loopback.wire import JsonObject, Params, bad_request

MAX_TEXT = 4096
MAX_CAPTION = 1024
MAX_ENTITIES = 100
MAX_CALLBACK_BYTES = 64

COMMAND = re.compile(r"(?<![\w/<>])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/<>])")
MENTION = re.compile(r"(?<![\w/])@[A-Za-z0-9_]{3,32}(?!\w)")
LINK = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;:!?)\]]")

TAGS = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "code": "code",
    "pre": "pre",
    "a": "text_link",
    "blockquote": "blockquote",
    "tg-spoiler": "spoiler",
}
BUTTON_ACTIONS = (
    "url",
    "callback_data",
    "web_app",
    "login_url",
    "switch_inline_query",
    "switch_inline_query_current_chat",
    "switch_inline_query_chosen_chat",
    "copy_text",
    "callback_game",
    "pay",
)


def utf16_length(text: str) -> int:
    """Return the length of `text` in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def _boundaries(text: str) -> set[int]:
    """Return every offset at which an entity may begin or end: none inside a surrogate pair."""
    edges, at = {0}, 0
    for character in text:
        at += 2 if ord(character) > 0xFFFF else 1
        edges.add(at)
    return edges


def automatic_entities(text: str) -> list[JsonObject]:
    """Return the bot_command, mention and url entities Telegram finds in plain text itself."""
    found: list[JsonObject] = []
    taken: list[tuple[int, int]] = []
    for kind, pattern in (("url", LINK), ("bot_command", COMMAND), ("mention", MENTION)):
        for match in pattern.finditer(text):
            start, end = match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            taken.append((start, end))
            offset = utf16_length(text[:start])
            length = utf16_length(match.group())
            found.append({"type": kind, "offset": offset, "length": length})
    return sorted(found, key=lambda entity: int(entity["offset"]))


def _with_automatic(text: str, explicit: list[JsonObject]) -> list[JsonObject]:
    """Add automatic entities where code and links given by the sender leave room."""
    closed = [
        (int(entity["offset"]), int(entity["offset"]) + int(entity["length"]))
        for entity in explicit
        if entity["type"] in ("code", "pre", "text_link", "text_mention", "url", "mention")
    ]
    free = [
        entity
        for entity in automatic_entities(text)
        if not any(
            int(entity["offset"]) < end and start < int(entity["offset"]) + int(entity["length"])
            for start, end in closed
        )
    ]
    merged = sorted([*explicit, *free], key=lambda item: (item["offset"], -int(item["length"])))
    return merged[:MAX_ENTITIES]


def _checked_entities(text: str, entities: Sequence[JsonObject]) -> list[JsonObject]:
    edges = _boundaries(text)
    kept = []
    for entity in entities:
        try:
            offset, length, kind = int(entity["offset"]), int(entity["length"]), entity["type"]
        except (KeyError, TypeError, ValueError):
            raise bad_request("can't parse MessageEntity") from None
        if offset < 0 or length < 0 or offset not in edges or offset + length not in edges:
            raise bad_request("ENTITY_BOUNDS_INVALID")
        if length > 0:
            kept.append({**entity, "type": kind, "offset": offset, "length": length})
    return sorted(kept, key=lambda item: (item["offset"], -item["length"]))[:MAX_ENTITIES]


def _trimmed(text: str, entities: list[JsonObject]) -> tuple[str, list[JsonObject]]:
    """Trim outer white space as Telegram does, except where an entity begins with it."""
    start = utf16_length(text) - utf16_length(text.lstrip())
    if entities:
        start = min(start, int(entities[0]["offset"]))
    # White space is never astral here, so code units and characters agree at the start.
    text = text[start:].rstrip()
    end = utf16_length(text)
    shifted = []
    for entity in entities:
        offset = int(entity["offset"]) - start
        length = min(int(entity["length"]), end - offset)
        if length > 0:
            shifted.append({**entity, "offset": offset, "length": length})
    return text, shifted


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.entities: list[JsonObject] = []
        self._open: list[tuple[str, JsonObject]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise bad_request(f'can\'t parse entities: unsupported start tag "{tag}"')
        entity: JsonObject = {"type": TAGS[tag], "offset": utf16_length(self.text)}
        if tag == "a":
            entity["url"] = dict(attrs).get("href") or ""
        self._open.append((tag, entity))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            raise bad_request(f'can\'t parse entities: unexpected end tag "{tag}"')
        _, entity = self._open.pop()
        self.entities.append({**entity, "length": utf16_length(self.text) - entity["offset"]})

    def handle_data(self, data: str) -> None:
        self.text += data

    def finish(self) -> tuple[str, list[JsonObject]]:
        self.close()
        if self._open:
            raise bad_request(f"can't parse entities: can't find end tag of {self._open[-1][0]!r}")
        return self.text, self.entities


def formatted(
    params: Params, *, field: str, entities_field: str, limit: int, may_be_empty: bool = False
) -> tuple[str, tuple[JsonObject, ...]]:
    """Return the text of a call after parsing, trimming and every check, with its entities.

    Raises:
        ApiError: 400 in Telegram's words for text or entities it would refuse.
    """
    text, entities = params.text(field), params.records(entities_field)
    mode = params.text("parse_mode")
    if mode and not entities:
        if mode.lower() != "html":
            raise bad_request(f"parse_mode {mode} is not offered by this loopback server")
        parser = _Html()
        parser.feed(text)
        text, entities = parser.finish()
    text, kept = _trimmed(text, _checked_entities(text, entities))
    if not text and not may_be_empty:
        raise bad_request("message text is empty")
    if utf16_length(text) > limit:
        caption = field == "caption"
        raise bad_request("message caption is too long" if caption else "message is too long")
    return text, tuple(_with_automatic(text, kept))


def checked_markup(markup: JsonObject | None, *, inline_only: bool = False) -> JsonObject | None:
    """Return a reply_markup if Telegram would accept it; an empty inline keyboard counts as none.

    Raises:
        ApiError: 400 for a keyboard or button it would refuse.
    """
    if not markup:
        return None
    if "inline_keyboard" not in markup:
        if inline_only:
            raise bad_request("inline keyboard expected")
        if not {"force_reply", "keyboard", "remove_keyboard"} & markup.keys():
            raise bad_request("object expected as reply markup")
        return markup
    rows = [row for row in markup["inline_keyboard"] if row]
    for button in (button for row in rows for button in row):
        _check_button(button)
    return {"inline_keyboard": rows} if rows else None


def _check_button(button: JsonObject) -> None:
    if not str(button.get("text", "")).strip():
        raise bad_request('can\'t parse inline keyboard button: Field "text" must be non-empty')
    if not any(action in button for action in BUTTON_ACTIONS):
        raise bad_request(
            "can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard"
        )
    data = button.get("callback_data")
    if data is not None and not 1 <= len(str(data).encode()) <= MAX_CALLBACK_BYTES:
        raise bad_request("BUTTON_DATA_INVALID")
