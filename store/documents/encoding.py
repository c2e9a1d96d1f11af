"""Text encodings: by the byte order mark, then UTF-8, then the best guess; rubbish is refused."""

import codecs
import re

from charset_normalizer import from_bytes

from store.errors import UnreadableDocument

_MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Encodings of people's older files. Among all of Python's codecs, the guess for a short text would
# be a teletext or mainframe alphabet as readily as the right one.
_CANDIDATES = (
    *("cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r"),
    *("cp932", "gb18030", "big5", "euc_jp", "cp949", "cp874"),
)
# Encodings a page may name that are plain tables. Others that Python knows under such a name
# (unicode_escape, punycode, utf_7) run code of their own over a stranger's bytes.
_DECLARABLE = re.compile(
    r"(?:windows|cp|iso|koi8|shift|sjis|euc|gb|big5|mac|tis|latin|us-ascii|utf-?(?:8|16|32))", re.I
)
_RUBBISH = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd\ue000-\uf8ff]")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_RUBBISH_SHARE = 0.02
_MAX_FOREIGN_SHARE = 0.4  # of bytes over 127, in a Western text: French has a tenth of that
_INTACT_PER_BROKEN = 10  # characters that make UTF-8 with a few bad bytes more than a coincidence


def decode(name: str, data: bytes, declared: str | None = None) -> str:
    """Return the bytes as text; `declared` is the encoding the file itself claims, if any.

    Raises UnreadableDocument for binary data and for text that no encoding explains.
    """
    text = _marked(data)
    if text is None and b"\0" not in data:
        text = _utf8(data) or _as_declared(data, declared) or _damaged_utf8(data) or _guess(data)
    if text is None or "\0" in text or _is_rubbish(text):
        raise UnreadableDocument(
            f"{name} is not text that can be read: it is binary data, or in an unknown "
            "encoding; save it as UTF-8"
        )
    return text


def _marked(data: bytes) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    return None


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _as_declared(data: bytes, declared: str | None) -> str | None:
    if declared is None or not _DECLARABLE.match(declared):
        return None
    try:
        return data.decode(declared)
    except (UnicodeError, LookupError):
        return None


def _damaged_utf8(data: bytes) -> str | None:
    """Return UTF-8 with a few bad bytes as text; a guess would make it another alphabet."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    intact = sum(character > "\x7f" for character in text) - broken
    return text if intact > broken * _INTACT_PER_BROKEN else None


def _guess(data: bytes) -> str | None:
    matches = from_bytes(data, cp_isolation=list(_CANDIDATES))
    best = matches.best()
    if best is None:
        return _western(data)
    for match in matches:
        as_good = (match.chaos, match.coherence) == (best.chaos, best.coherence)
        if as_good and "cp1252" in match.could_be_from_charset:
            return data.decode("cp1252", errors="replace")
    return str(best)


def _western(data: bytes) -> str | None:
    """Return a short line with many accents as text; it is too short for a statistical guess."""
    foreign = sum(byte > 0x7F for byte in data)
    if _CONTROL_BYTES.search(data) or foreign > len(data) * _MAX_FOREIGN_SHARE:
        return None
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None


def _is_rubbish(text: str) -> bool:
    rubbish = len(text) - len(_RUBBISH.sub("", text))
    return rubbish > len(text) * _MAX_RUBBISH_SHARE
