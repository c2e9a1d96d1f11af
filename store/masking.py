"""Masks private data in training texts, so that a version cannot repeat it.

The store keeps the original texts, and people are shown them; training uses masked ones, and so do
the copies of answers that an admin approves for every chat. Phone numbers are found by
`phonenumbers` (Google's libphonenumber), account and card numbers are checked by `python-stdnum`,
keys are found by `detect-secrets`, e-mail and postal addresses by patterns. Names are not masked:
no library finds them in every language without a model of its own.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import phonenumbers
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.ip_public import IPPublicDetector
from stdnum import iban, luhn

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "IN", "BR", "RU")
"""Countries whose phone numbers are found without a country code, too."""

_DATA = re.compile(r"[!-~]{1000,}")
"""A thousand ASCII characters without a space: not language, and slow for some patterns."""

_DIGIT = re.compile(r"\d")
_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_CARD = re.compile(r"(?<![\w.])[3-6]\d{3}(?:[ -]?\d+)+")
_CARD_DIGITS = range(13, 20)
_IBAN = re.compile(r"(?i)\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_ADDRESS = re.compile(
    r"\b\d{1,5}[a-zA-Z]? (?:[A-Z][\w'.-]* ){1,4}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr"
    r"|Boulevard|Blvd|Way|Court|Ct|Square|Sq|Place|Pl|Terrace|Close|Crescent)\b\.?"
    r"|\b\d{1,4}(?: ?bis| ?ter)?,? (?:rue|avenue|boulevard|place|chemin|allée|impasse|quai)"
    r"(?: (?:de|du|des|la|le|les|d'|l'))* ?[A-Z][\w'-]*(?: [A-Z][\w'-]*)*"
    r"|\b(?:[A-ZÄÖÜ][\wäöüß-]{0,40}(?:straße|strasse|str\.|weg|gasse|platz|allee|ufer|damm)"
    r"|[A-ZÄÖÜ][\wäöüß-]{0,40} (?:Straße|Strasse|Str\.|Weg|Platz|Allee)) \d{1,4}[a-z]?\b"
)
_SAYS = r"(?:is|was|ist|war|lautet|est|es)\b"
_PASSWORD = re.compile(
    r"(?i)\b((?:password|passwort|kennwort|passcode|pin|mot de passe|contraseña)\b"
    rf"(?: (?:of|for|to|von|für|zu[mr]?|de|du|pour)\b[^.?!\n]{{1,40}}?(?= {_SAYS}| ?[:=]))?"
    rf"(?: {_SAYS})?[ :=]{{1,3}}[\"']?)(?=\S{{0,100}}[\d!$#%&*@])[^\s\"']{{4,}}"
)
_WORD = re.compile(
    r"(?<![\w/.-])(?:(?=\w*\d)(?=\w*[A-Za-z])\w{20,}"
    r"|(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{20,}"
    r"|[a-z]{2,4}-(?=\w*\d)(?=\w*[A-Za-z])\w{16,})(?![\w/-]|\.\w)"
)
"""Long words with both digits and letters: keys and tokens, not language."""

_NO_PHONE = re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}|\d+[.,]\d+|(?:.*\b\d\b){3}.*")
"""Dates, decimals, and lists of single digits, which look like phone numbers."""

FEWEST_DIGITS = 6
"""Digits of the shortest number that libphonenumber knows, with its country code (+43, +49)."""

MIN_DIGITS = 9
"""Digits from which a number without a country code is taken for a phone number."""

_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)

_DETECTORS: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
_KEYS: tuple[re.Pattern[str], ...] = (
    _BLOCK,
    *(
        pattern
        for detector in _DETECTORS
        if detector is not IPPublicDetector
        for pattern in getattr(detector(), "denylist", ())  # detectors without patterns use entropy
    ),
    _WORD,
)


@lru_cache(maxsize=4096)
def mask(text: str) -> str:
    """Replace private data, where it is found, with its kind in brackets, such as [email]."""
    text = _DATA.sub("[data]", text)
    text = _IBAN.sub(_account, text)
    for pattern in _KEYS:
        text = pattern.sub("[key]", text)
    text = _PASSWORD.sub(r"\1[key]", text)
    text = _EMAIL.sub("[email]", text)
    text = _CARD.sub(_card, text)
    text = _ADDRESS.sub("[address]", text)
    for start, end in reversed(_phones(text)):
        text = f"{text[:start]}[phone]{text[end:]}"
    return text


def _account(match: re.Match[str]) -> str:
    """Mask the longest prefix that is a valid account number; words may follow it."""
    text = match[0]
    for end in range(len(text), 14, -1):
        if text[end - 1] != " " and iban.is_valid(text[:end]):
            return f"[account]{text[end:]}"
    return text


def _card(match: re.Match[str]) -> str:
    """Mask the longest prefix that is a valid card number; its date and code may follow it."""
    text = match[0]
    ends = [end.start() for end in re.finditer(r"(?<=\d)(?!\d)", text)]
    for end in reversed(ends):
        digits = re.sub(r"\D", "", text[:end])
        if len(digits) in _CARD_DIGITS and luhn.is_valid(digits):
            return f"[card]{text[end:]}"
    return text


def _phones(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each phone number, in order; of overlapping ones, the longest."""
    if len(_DIGIT.findall(text)) < FEWEST_DIGITS:
        return []
    found = set[tuple[int, int]]()
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            if _is_phone(match.raw_string):
                found.add((match.start, match.end))
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda place: (place[0], -place[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _is_phone(text: str) -> bool:
    """Return whether a match is a phone number; digits alone, without a leading 0, are not."""
    if text.startswith("+"):
        return True
    if text.isdigit() and not text.startswith("0"):
        return False
    digits = sum(character.isdigit() for character in text)
    return digits >= MIN_DIGITS and not _NO_PHONE.fullmatch(text)
