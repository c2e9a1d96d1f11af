"""Finds private data in text: what each kind looks like, and how it is checked.

Phone numbers are found by `phonenumbers` (Google's libphonenumber); cards, accounts and the
national numbers of people by their form and then by `python-stdnum`, which knows their check
digits; keys by `detect-secrets`; the rest by patterns. A number that could as well be something
else is taken for private only behind a word that says what it is.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import phonenumbers
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.ip_public import IPPublicDetector
from stdnum import iban, luhn

from store.private_streets import STREETS

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "IN", "BR", "RU", "PL", "JP")
"""Countries whose phone numbers are found without a country code, too."""


class Found(NamedTuple):
    """A stretch of text that is private, and its kind."""

    start: int
    end: int
    kind: str


Finder = Callable[[str], Iterable[Found]]


def _by(kind: str, *patterns: "re.Pattern[str]", group: int | str = 0) -> Finder:
    """Return a finder of what patterns match; `group` is the part of a match that is private."""

    def find(text: str) -> Iterator[Found]:
        for pattern in patterns:
            for match in pattern.finditer(text):
                yield Found(*match.span(group), kind)

    return find


# Keys, passwords, links -------------------------------------------------------------------------

_DATA = re.compile(r"[!-~]{1000,}")
"""A thousand ASCII characters without a space: not language, and slow for some patterns."""

_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_WORD = re.compile(
    r"(?<![\w/.-])(?:(?=\w*\d)(?=\w*[A-Za-z])\w{20,}"
    r"|(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{20,}"
    r"|[a-z]{2,4}-(?=\w*\d)(?=\w*[A-Za-z])\w{16,})(?![\w/-]|\.\w)"
)
"""Long words with both digits and letters: keys and tokens, not language."""

_DETECTORS: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
_KEYS: tuple["re.Pattern[str]", ...] = (
    _BLOCK,
    *(
        pattern
        for detector in _DETECTORS
        if detector is not IPPublicDetector
        for pattern in getattr(detector(), "denylist", ())  # detectors without patterns use entropy
    ),
    _WORD,
)

_SAYS = r"(?:is|was|ist|war|lautet|est|es|é|è|to|jest|är|на|это|является|是|は)\b"
_SECRET = (
    r"(?:password|passwd|passphrase|passcode|pin(?: code)?|passwort|kennwort|mot de passe"
    r"|code secret|contraseña|clave|senha|palavra-passe|parola d'ordine|parola|wachtwoord|hasło"
    r"|пароль|пин-?код|şifre(?:m)?|lösenord|adgangskode|passord|salasana|heslo|jelszó|κωδικός"
    r"|密码|密碼|口令|パスワード|暗証番号|비밀번호|كلمة السر|كلمة المرور|पासवर्ड|סיסמה)"
)
_PASSWORD = re.compile(
    rf"(?i)(?<!\w){_SECRET}(?!\w)"
    r"(?: (?:of|for|to|von|für|zu[mr]?|de|du|del|da|do|per|pour|para|voor|от|для|till|do)\b"
    rf"[^.?!\n]{{1,40}}?(?= {_SAYS}| ?[:=：]))?"
    rf"(?: ?{_SAYS})?[ :=：]{{1,3}}[\"'«„“]?"
    r"(?P<secret>(?=\S{0,100}[\d!$#%&*@])[^\s\"'»“”]{4,}"
    r"|(?<=[:=：] )[^\s\"'.,;]{6,}(?=[.;]?(?:\n|$)))"
)
_CJK_PASSWORD = re.compile(
    r"(?:密码|密碼|口令|パスワード|暗証番号|비밀번호)[^\s\w]*(?:是|は|为|為|[:：])?\s*"
    r"(?P<secret>(?=[!-~]*\d)[!-~]{4,})"
)
_LINK = re.compile(
    r"(?i)https?://[^\s<>\"]*?[?&#/](?:(?:access_?|reset_?|auth_?|id_?|session_?|invite_?)?"
    r"(?:token|key|code|sig|signature|password|pass|secret|session|sid|otp|reset|invite|confirm)"
    r"[=/])(?P<secret>[^\s<>\"&#)/]{6,})"
)
_SEED = re.compile(
    r"(?i)\b(?:seed|recovery|mnemonic|wallet|backup)(?: \w+)?(?: phrase| words)?"
    r"[^a-z\n]{1,4}(?:is |are )?"
    r"(?P<secret>(?:[a-z]{3,8}[ ,]+){11,23}[a-z]{3,8})\b"
)
_WORDS = re.compile(r"(?m)^(?P<secret>(?:[a-z]{3,8} ){11,23}[a-z]{3,8})$")
_COMMON = frozenset(
    {
        *("the", "and", "for", "are", "with", "that", "this", "have", "not", "was", "but", "they"),
        *("from", "his", "her", "has", "had", "were", "what", "when", "your", "can", "there"),
        *("each", "which", "she", "how", "will", "them", "then", "these", "some", "would", "you"),
    }
)
"""Words that a sentence can hardly do without."""


def _seed_words(text: str) -> Iterator[Found]:
    """Find lines of as many plain words as a wallet's seed has, and no word of a sentence."""
    for match in _WORDS.finditer(text):
        words = match["secret"].split()
        if len(words) % 3 == 0 and _COMMON.isdisjoint(words):
            yield Found(*match.span("secret"), "key")


# Numbers of people, cards and accounts ------------------------------------------------------------

_IBAN = re.compile(r"(?i)(?<![A-Z0-9])[A-Z]{2}[ .-]?\d{2}(?:[ .-]?[A-Z0-9]){11,30}")
_CARD = re.compile(r"(?<![\w.])[2-6]\d{3}(?:[ .\n-]{0,2}\d){9,15}(?!\d)")

_FORMS: tuple[tuple[str, str], ...] = (
    (r"\d{3}-\d{2}-\d{4}", "us.ssn"),
    (r"\d{3} \d{3} \d{4}", "gb.nhs"),
    (r"\d{2} \d{3} \d{3} \d{3}", "de.idnr"),
    (r"[12] ?\d{2} ?\d{2} ?[\dAB]{2} ?\d{3} ?\d{3} ?\d{2}", "fr.nir"),
    (r"\d{8}-?[A-Z]", "es.dni"),
    (r"[XYZ]-?\d{7}-?[A-Z]", "es.nie"),
    (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale"),
    (r"\d{4}\.\d{2}\.\d{3}", "nl.bsn"),
    (r"\d{4} \d{4} \d{4}", "in_.aadhaar"),
    (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan"),
    (r"\d{17}[\dX]", "cn.ric"),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf"),
    (r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer"),
    (r"\d{6}-\d{4}", "dk.cpr"),
    (r"\d{6}[-+A]\d{3}[0-9A-Z]", "fi.hetu"),
    (r"\d{6} \d{5}", "no.fodselsnummer"),
    (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn"),
    (r"756\.\d{4}\.\d{4}\.\d{2}", "ch.ssn"),
    (r"\d{6}/\d{3,4}", "cz.rc"),
    (r"[1-9]\d{12}", "ro.cnp"),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp"),
    (r"\d{2}-\d{8}-\d", "ar.cuit"),
    (r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]", "cl.rut"),
    (r"\d{6}-\d{7}", "kr.rrn"),
    (r"\d-\d{4}-\d{5}-\d{2}-\d", "th.pin"),
    (r"\d{6}-\d{2}-\d{4}", "my.nric"),
    (r"\d{3}-\d{3}-\d{3}", "ca.sin"),
    (r"\d{11}", "pl.pesel"),
    (r"\d{11}", "tr.tckimlik"),
    (r"\d{11}", "lt.asmens"),
    (r"\d{7}[A-W][A-IW]?", "ie.pps"),
    (r"\d{13}", "za.idnr"),
)
"""Forms in which national numbers are written, and the module of stdnum that checks them."""

_FORMED = tuple(
    (re.compile(rf"(?<![\w.-]){form}(?![\w-]|\.\d)"), module) for form, module in _FORMS
)
_UNCHECKED_IDS = re.compile(
    r"(?<!\w)(?:[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"  # NINO
    r"|\d{3}-\d{3}-\d{3} \d{2})(?!\w)"  # SNILS
)
_ID_WORDS = (
    r"social security|ssn|national insurance|nino|nhs|tax (?:id|file|number)|tfn|utr|itin|passport"
    r"|driv\w+ licen[cs]e|licen[cs]e plate|number plate|plate|national id|identity (?:card|number)"
    r"|id (?:card|number|no)|steuer-?id\w*|steuer-?nummer|identifikationsnummer|svnr|ahv"
    r"|sozialversicherungs\w*|personalausweis\w*|ausweis\w*|reisepass\w*|kennzeichen"
    r"|num[ée]ro (?:de )?s[ée]cu\w*|s[ée]curit[ée] sociale|nir|passeport|carte d'identit[ée]"
    r"|plaque|nif|nie|dni|pasaporte|matr[íi]cula|c[ée]dula|codice fiscale|c\.?f\.|passaporto|targa"
    r"|carta d'identit[àa]|cpf|rg|passaporte|cart[ãa]o de cidad[ãa]o|contribuinte|niss|pesel|nip"
    r"|dow[óo]d(?: osobisty)?|paszport\w*|bsn|burgerservicenummer|paspoort\w*|personnummer"
    r"|samordningsnummer|f[øo]dselsnummer|cpr|hetu|henkil[öo]tunnus|rijksregister\w*"
    r"|rodn[ée] [čc][íi]slo"
    r"|cnp|egn|егн|oib|emšo|amka|αμκα|αφμ|tc kimlik|kimlik(?: no)?|t\.c\.|aadhaar|pan(?: card)?"
    r"|mykad|nric|curp|rut|cuil|cuit|инн|снилс|паспорт\w*|іпн|身份证\w*|护照\w*|統一編號"
    r"|マイナンバー|個人番号|旅券番号|주민등록번호|여권번호|תעודת זהות|ת\.?ז\.?|الهوية|جواز"
)
_LABELLED_ID = re.compile(
    rf"(?i)(?<!\w)(?:{_ID_WORDS})(?!\w)(?: ?(?:number|no\.?|nr\.?|nummer|num[ée]ro|n[°ºo]\.?|#))?"
    r"(?: (?:is|ist|est|es|é|è|to|jest|är|er|on|:)|是|は|는|은)?[ :=#：]{0,3}"
    r"(?P<id>(?=(?:[A-Za-z ./-]*\d){4})[A-Za-z0-9](?:[ ./-]?[A-Za-z0-9]){4,20})"
)
_LABELLED_ACCOUNT = re.compile(
    r"(?i)(?<!\w)(?:account|acct|a/c|routing|sort code|bsb|konto|kontonummer|cuenta|compte|conto"
    r"|conta|rekening|счет|счёт|р/с|账号|账户|口座|hesap)"
    r"(?: (?:number|no\.?|nr\.?|#|corrente|номер))?"
    r"[ :=#：]{1,3}(?P<id>\d(?:[ -]?\d){5,19})(?!\d)"
)
_TRAILING_WORD = re.compile(r"(?: [A-Za-z]+)+$")


def _accounts(text: str) -> Iterator[Found]:
    """Find account numbers: the longest prefix that is valid; words may follow it."""
    for match in _IBAN.finditer(text):
        for end in range(len(match[0]), 14, -1):
            if match[0][end - 1].isalnum() and iban.is_valid(match[0][:end].replace(".", "")):
                yield Found(match.start(), match.start() + end, "account")
                break


def _cards(text: str) -> Iterator[Found]:
    """Find card numbers: the longest prefix that is valid; its date and code may follow it."""
    for match in _CARD.finditer(text):
        ends = [each.end() for each in re.finditer(r"\d(?!\d)", match[0])]
        for end in reversed(ends):
            digits = re.sub(r"\D", "", match[0][:end])
            if 13 <= len(digits) <= 19 and luhn.is_valid(digits):
                yield Found(match.start(), match.start() + end, "card")
                break


def _national_ids(text: str) -> Iterator[Found]:
    for pattern, module in _FORMED:
        for match in pattern.finditer(text):
            if _is_valid(module, match[0]):
                yield Found(*match.span(), "id")


def _is_valid(module: str, number: str) -> bool:
    check: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return check(number)


def _labelled(kind: str, pattern: "re.Pattern[str]") -> Finder:
    def find(text: str) -> Iterator[Found]:
        for match in pattern.finditer(text):
            end = match.end("id")
            words = _TRAILING_WORD.search(match["id"])
            if words is not None:  # the sentence goes on behind the number
                end = match.start("id") + words.start()
            yield Found(match.start("id"), end, kind)

    return find


# Where and when -----------------------------------------------------------------------------------

_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_SPELLED_EMAIL = re.compile(
    r"(?i)\b[\w.+-]{1,64} ?[\[({] ?(?:at|ät|arroba) ?[\])}] ?[\w-]{1,63}"
    r"(?: ?(?:\.|[\[({] ?(?:dot|punkt|point|punto) ?[\])}]) ?[\w-]{1,63})+"
)
_MAC = re.compile(r"(?i)(?<![\w:-])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(
    r"(?i)(?<![\w:.])(?=(?:[0-9a-f]*:){2})[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])"
)
_IS_A_VERSION = re.compile(r"(?i)(?:version|v|release|build|firmware|§|section|chapter|rfc)\.? ?$")
_COORDINATES = re.compile(
    r"(?<![\w.])-?\d{1,3}\.\d{4,8}°?(?: ?[NS])?[,;]? ?-?\d{1,3}\.\d{4,8}°?(?: ?[EWO])?(?![\w.])"
    r"|\d{1,3}° ?\d{1,2}['′] ?(?:\d{1,2}(?:[.,]\d+)?[\"″] ?)?[NS],? ?\d{1,3}° ?\d{1,2}['′] ?"
    r"(?:\d{1,2}(?:[.,]\d+)?[\"″] ?)?[EWO]"
)
_DATE = (
    r"(?:\d{1,4}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}\.? (?:de )?[^\W\d]{3,12}\.?,? (?:de )?\d{4}"
    r"|[^\W\d]{3,12} \d{1,2}(?:st|nd|rd|th)?,? \d{4}|\d{4}[年년] ?\d{1,2}[月월] ?\d{1,2}[日일])"
)
_BIRTH = re.compile(
    r"(?i)(?:\b(?:born|date of birth|birth ?date|birthday|dob|d\.o\.b\.|geboren|geb\.|geburts\w+"
    r"|née? le|date de naissance|naci(?:ó|o|da|do)|fecha de nacimiento|nat[oa] il"
    r"|data di nascita|nascid[oa]"
    r"|data de nascimento|urodz\w+|data urodzenia|рожд\w+|родил\w+|geboortedatum|f[öo]dd|f[øo]dt"
    r"|syntynyt|narozen\w*|doğum\w*|γεννή\w+)\b|生年月日|出生|生まれ|생년월일)"
    rf"[^.?!\n\d]{{0,20}}?(?P<date>{_DATE})"
)
_DIGIT = re.compile(r"\d")
_NO_PHONE = re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}|\d+[.,]\d+|(?:.*\b\d\b){3}.*")
"""Dates, decimals, and lists of single digits, which look like phone numbers."""

_CHINESE_MOBILE = re.compile(r"(?<![\w.-])1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\w-]|\.\d)")
FEWEST_DIGITS = 6
"""Digits of the shortest number that libphonenumber knows, with its country code (+43, +49)."""

MIN_DIGITS = 9
"""Digits from which a number without a country code is taken for a phone number."""


def _ips(text: str) -> Iterator[Found]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if _IS_A_VERSION.search(text[max(0, match.start() - 12) : match.start()]):
                continue
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.version == 6 or not match[0].startswith("0."):
                yield Found(*match.span(), "ip")


def _phones(text: str) -> Iterator[Found]:
    """Find phone numbers; of overlapping ones, the longest."""
    yield from (Found(*match.span(), "phone") for match in _CHINESE_MOBILE.finditer(text))
    if len(_DIGIT.findall(text)) < FEWEST_DIGITS:
        return
    found = set[tuple[int, int]]()
    for region in REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            if _is_phone(match.raw_string):
                found.add((match.start, match.end))
    for start, end in sorted(found, key=lambda place: (place[0], -place[1])):
        yield Found(start, end, "phone")


def _is_phone(text: str) -> bool:
    """Return whether a match is a phone number; digits alone, without a leading 0, are not."""
    if text.startswith("+"):
        return True
    if text.isdigit() and not text.startswith("0"):
        return False
    digits = sum(character.isdigit() for character in text)
    return digits >= MIN_DIGITS and not _NO_PHONE.fullmatch(text)


FINDERS: tuple[Finder, ...] = (
    _by("data", _DATA),
    _accounts,
    _by("key", *_KEYS),
    _by("key", _LINK, _SEED, _PASSWORD, _CJK_PASSWORD, group="secret"),
    _seed_words,
    _by("email", _EMAIL, _SPELLED_EMAIL),
    _cards,
    _by("mac", _MAC),
    _by("coordinates", _COORDINATES),
    _national_ids,
    _by("id", _UNCHECKED_IDS),
    _labelled("account", _LABELLED_ACCOUNT),
    _labelled("id", _LABELLED_ID),
    _by("date", _BIRTH, group="date"),
    _ips,
    _by("address", *STREETS.values()),
    _phones,
)
"""Finders of every kind of private data; of two things that overlap, the first is taken."""
