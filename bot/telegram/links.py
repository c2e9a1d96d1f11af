"""Links in replies: what a model wrote is what is shown, and only the web is linked.

A model may have been made to write a link by somebody's document or question. So a link whose text
differs from its target shows the target, too, and nothing but http and https can be tapped. A
mention, or an address of Telegram itself, is shown as code, which Telegram neither links nor
notifies anybody of. Telegram finds links in plain text by itself; what is looked for here is all
that it might find (tdlib, MessageEntity.cpp).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from telegramify_markdown import utf16_len
from telegramify_markdown.entity import MessageEntity as Entity

LITERAL = frozenset({"code", "pre"})
"""Entities in which Telegram finds no links."""

_MENTION = re.compile(r"(?<!\w)@[A-Za-z]\w{2,31}")
_ENDS = r"\s<>\"()…»«“”„•·\u200b-\u200f\u2028-\u202f\u2060-\u206f"
"""Characters at which Telegram takes an address to end."""

_ADDRESS = re.compile(
    rf"[A-Za-z][A-Za-z0-9+.-]*://[^{_ENDS}]+"  # with a scheme
    rf"|(?<!\w)(?:(?:[\w-]+\.)+[^\W\d_]{{2,24}}|(?:\d{{1,3}}\.){{3}}\d{{1,3}})"
    rf"(?::\d+)?(?:[/?#][^{_ENDS}]*)?"
)
_OF_TELEGRAM = ("t.me", "telegram.me", "telegram.dog")


def shown(
    text: str, entities: Sequence[Entity], *, hosts: Collection[str] = (), known: str = ""
) -> tuple[str, list[Entity]]:
    """Return text and entities with links as they may be shown.

    `hosts` are those that may be linked, with all under them; empty means any. `known` is text of
    the admin's, from which mentions and addresses of Telegram may be repeated.
    """
    text, kept = _with_targets(text, entities)
    repeated = {
        found.group() for pattern in (_MENTION, _ADDRESS) for found in pattern.finditer(known)
    }
    for start, end in _forbidden(text, hosts, repeated):
        offset, stop = utf16_len(text[:start]), utf16_len(text[:end])
        touched = [
            each for each in kept if each.offset < stop and offset < each.offset + each.length
        ]
        code = [each for each in touched if each.type in LITERAL]
        if any(each.offset <= offset and stop <= each.offset + each.length for each in code):
            continue
        # Code cannot be combined with anything: it takes in other code that it touches.
        offset = min([offset, *(each.offset for each in code)])
        stop = max([stop, *(each.offset + each.length for each in code)])
        kept = [each for each in kept if each.offset >= stop or each.offset + each.length <= offset]
        kept.append(Entity("code", offset, stop - offset))
    return text, sorted(kept, key=lambda each: (each.offset, -each.length))


def _forbidden(
    text: str, hosts: Collection[str], repeated: Collection[str]
) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each address and mention that must not be linked."""
    allowed: list[tuple[int, int]] = []
    for found in _ADDRESS.finditer(text):
        if found.group() in repeated or _may_be_linked(found.group(), hosts):
            allowed.append(found.span())
        else:
            yield found.span()
    for found in _MENTION.finditer(text):
        in_address = any(start < found.start() < end for start, end in allowed)
        if found.group() not in repeated and not (in_address and text[found.start() - 1] == "/"):
            yield found.span()


def _with_targets(text: str, entities: Iterable[Entity]) -> tuple[str, list[Entity]]:
    """Write the target of each link behind its text, unless the text is the target."""
    kept = list(entities)
    for link in [each for each in kept if each.type == "text_link"]:
        kept.remove(link)
        units = text.encode("utf-16-le")
        end = link.offset + link.length
        label = units[2 * link.offset : 2 * end].decode("utf-16-le", "replace")
        target = link.url or ""
        if _bare(label) == _bare(target):
            continue
        addition = f" ({target})"
        before = units[: 2 * end].decode("utf-16-le", "replace")
        text = before + addition + units[2 * end :].decode("utf-16-le", "replace")
        longer = utf16_len(addition)
        for each in kept:
            if each.offset >= end:
                each.offset += longer
            elif each.offset + each.length > end:
                each.length += longer
    return text, kept


def _bare(address: str) -> str:
    return address.strip().removeprefix("https://").removeprefix("http://").rstrip("/").lower()


def _may_be_linked(address: str, hosts: Collection[str]) -> bool:
    scheme, separator, _ = address.partition("://")
    if "\\" in address or (separator and scheme.lower() not in ("http", "https")):
        return False
    try:
        parts = urlsplit(address if separator else f"http://{address}")
        host = (parts.hostname or "").rstrip(".").removeprefix("www.")
    except ValueError:  # http://[your-server]
        return False
    if re.fullmatch(r"[\w.:-]*", host) is None:
        return False
    if any(_is_under(host, each) for each in _OF_TELEGRAM):
        return False
    return not hosts or any(_is_under(host, each.lower()) for each in hosts)


def _is_under(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")
