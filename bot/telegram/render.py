"""Turns a model's Markdown into text and entities, in messages that Telegram accepts.

The entities are valid whatever the model writes; Telegram would refuse the message otherwise.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from telegram import MessageEntity
from telegramify_markdown import convert, split_entities, utf16_len
from telegramify_markdown.config import RenderConfig
from telegramify_markdown.entity import MessageEntity as Entity

from bot.telegram.links import LITERAL, shown
from store.domain import Passage

MOST_UNITS = 4096
"""Longest text of one message, in UTF-16 units."""

ROOM_FOR_A_LINE = 100
"""UTF-16 units kept for the last line of a list, which tells how to see the rest."""

MAX_ENTITIES = 100
"""Telegram ignores any further entities of a message."""

EMPTY_REPLY = "(The reply was empty.)"

BRACKET = "\ue000"
"""Replaces "<" while Markdown is parsed: CommonMark would take `vector<int>` for an HTML tag."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The text and entities of one Telegram message."""

    text: str
    entities: tuple[MessageEntity, ...] = ()


def render(
    markdown: str, passages: Sequence[Passage] = (), *, link_hosts: Collection[str] = ()
) -> tuple[Part, ...]:
    """Return the messages of a reply, with its sources at the end of the last; none is empty.

    `link_hosts` are those that may be linked; empty means any.
    """
    text, entities = convert(markdown.replace("<", BRACKET), config=_config())
    text = text.replace(BRACKET, "<").rstrip()
    if not text:
        text, entities = EMPTY_REPLY, []
    if passages:
        note = f"\n\n📎 {sources_line(passages)}"
        entities.append(Entity("italic", utf16_len(text) + 2, utf16_len(note) - 2))
        text += note
    known = "\n".join(each.text for each in passages)
    text, entities = shown(text, entities, hosts=link_hosts, known=known)
    parts = split_entities(text, entities, MOST_UNITS)
    return tuple(_part(part, inside) for part, inside in parts if part.strip())


def preview(markdown: str, *, link_hosts: Collection[str] = ()) -> Part:
    """Return an unfinished reply as one message, which shows its end if it is long."""
    last = render(markdown, link_hosts=link_hosts)[-1]
    return Part(text=last.text, entities=last.entities)


def sources_line(passages: Sequence[Passage]) -> str:
    """Return title and section of every passage, best first, without repetitions."""
    return " · ".join(dict.fromkeys(passage.source for passage in passages))


def _config() -> RenderConfig:
    config = RenderConfig.isolated()
    symbol = config.markdown_symbol
    symbol.heading_level_1 = symbol.heading_level_2 = symbol.heading_level_3 = ""
    symbol.heading_level_4 = symbol.heading_level_5 = symbol.heading_level_6 = ""
    return config


def units(text: str) -> int:
    """Return the length of a text as Telegram counts it, in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def lines_that_fit(lines: Sequence[str]) -> int:
    """Return how many lines one message takes from the first on, with room for one more."""
    left = MOST_UNITS - ROOM_FOR_A_LINE
    for number, line in enumerate(lines):
        left -= units(line) + 1
        if left < 0:
            return number
    return len(lines)


def _part(text: str, entities: Sequence[Entity]) -> Part:
    end = utf16_len(text)  # an entity may reach into white space that was cut off at the end
    return Part(
        text=text,
        entities=tuple(
            MessageEntity(
                type=each.type,
                offset=each.offset,
                length=min(each.length, end - each.offset),
                url=each.url,
                language=each.language,
            )
            for each in _most_needed(entities)
            if each.offset < end
        ),
    )


def _most_needed(entities: Sequence[Entity]) -> list[Entity]:
    """Return as many entities as Telegram takes: code first, since nothing is linked in it."""
    kept = sorted(entities, key=lambda each: each.type not in LITERAL)[:MAX_ENTITIES]
    return sorted(kept, key=lambda each: (each.offset, -each.length))
