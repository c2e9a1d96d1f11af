"""Markdown as models write it → text and entities as Telegram takes them, in parts of legal length.

Whatever a model writes, the entities are valid; Telegram refuses a message whose entities are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from telegram import MessageEntity
from telegramify_markdown import convert, split_entities, utf16_len
from telegramify_markdown.config import RenderConfig
from telegramify_markdown.entity import MessageEntity as Entity

from store.domain import Passage

MOST_UNITS = 4096
"""UTF-16 units that one Telegram message holds."""

MAX_ENTITIES = 100
"""Telegram reads no more than this in one message."""

EMPTY_REPLY = "(The reply was empty.)"

BRACKET = "\ue000"
"""Stands for "<" while Markdown is read: CommonMark would swallow `vector<int>` as an HTML tag."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One Telegram message's worth of text."""

    text: str
    entities: tuple[MessageEntity, ...] = ()


def render(markdown: str, passages: Sequence[Passage] = ()) -> tuple[Part, ...]:
    """The parts of a reply, its sources at the end of the last; never none, never an empty one."""
    text, entities = convert(markdown.replace("<", BRACKET), config=_config())
    text = text.replace(BRACKET, "<").rstrip()
    if not text:
        text, entities = EMPTY_REPLY, []
    if passages:
        note = f"\n\n📎 {sources_line(passages)}"
        entities.append(Entity("italic", utf16_len(text) + 2, utf16_len(note) - 2))
        text += note
    parts = split_entities(text, entities, MOST_UNITS)
    return tuple(_part(*each) for each in parts if each[0].strip())


def preview(markdown: str) -> Part:
    """What there is of a reply so far, as one message; a long one shows its end."""
    last = render(markdown)[-1]
    return Part(text=last.text, entities=last.entities)


def sources_line(passages: Sequence[Passage]) -> str:
    """Title and section of every passage, each once, best first."""
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


def _part(text: str, entities: Sequence[Entity]) -> Part:
    end = utf16_len(text)  # white space at the end is gone, and an entity may have reached into it
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
            for each in entities[:MAX_ENTITIES]
            if each.offset < end
        ),
    )
