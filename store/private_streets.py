"""How an address in a street is written, by language."""

import re

_NAME = r"[A-ZÀ-ÖØ-Þ][\w'’.-]*"
_NAMES = rf"{_NAME}(?: {_NAME}){{0,3}}"
_NOT_A_STREET = (
    r"(?!km\b|m\b|miles?\b|minutes?\b|hours?\b|more\b|the\b|years?\b|lanes?\b|of\b|times\b)"
)
_STREET = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Square|Sq"
    r"|Place|Pl|Terrace|Close|Crescent)"
)
_RUE = r"(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Cc]hemin|[Aa]llée|[Ii]mpasse|[Qq]uai)"
_CALLE = (
    r"(?:[Cc]alle|C/|[Aa]venida|[Aa]vda\.|[Aa]v\.|[Pp]laza|[Pp]aseo|[Cc]amino|[Cc]arrera) ?"
    r"(?:(?:de|del|la|los|las|el) )*"
)
_RUA = (
    r"(?:[Rr]ua|[Tt]ravessa|[Pp]raça|[Ll]adeira|[Ee]strada|[Aa]lameda) (?:(?:da|do|das|dos|de) )*"
)
_VIA = r"(?:[Vv]ia|[Vv]iale|[Pp]iazza|[Cc]orso|[Vv]icolo|[Ll]argo) (?:(?:del|della|dei|di|delle) )*"

STREETS: dict[str, "re.Pattern[str]"] = {
    "English": re.compile(
        rf"\b\d{{1,5}}[a-zA-Z]?,? (?:[A-Z][\w'.-]* ){{1,4}}{_STREET}\b\.?"
        rf"|\b\d{{1,5}}[a-z]? {_NOT_A_STREET}(?:[a-z]+ ){{1,2}}"
        r"(?:street|road|avenue|lane|boulevard|crescent)\b"
    ),
    "French": re.compile(
        rf"\b\d{{1,4}}(?: ?bis| ?ter)?,? {_RUE}(?: (?:de|du|des|la|le|les|d'|l'))* ?"
        r"[A-Z][\w'-]*(?: [A-Z][\w'-]*)*"
    ),
    "German": re.compile(
        r"\b(?:[A-ZÄÖÜ][\wäöüß-]{0,40}(?:straße|strasse|str\.|weg|gasse|platz|allee|ufer|damm)"
        r"|[A-ZÄÖÜ][\wäöüß-]{0,40} (?:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Ufer|Damm)"
        r"|[a-zäöü]{3,40}(?:straße|strasse|str\.|gasse)) \d{1,4} ?[a-z]?\b"
    ),
    "Spanish": re.compile(
        rf"\b{_CALLE}{_NAME}(?: (?:de |del |la )*{_NAME}){{0,3}},? (?:n[.º°]? ?|#)?\d{{1,4}}\b"
    ),
    "Italian": re.compile(rf"\b{_VIA}{_NAMES},? (?:n[.°]? ?)?\d{{1,4}}(?:/?[a-zA-Z])?\b"),
    "Portuguese": re.compile(
        rf"\b{_RUA}{_NAME}(?: (?:da |do |de |dos )*{_NAME}){{0,3}},? (?:n[.º°]? ?)?\d{{1,5}}\b"
    ),
    "Dutch": re.compile(
        r"\b[A-Z][a-z]{2,30}(?:straat|laan|weg|gracht|plein|kade|singel|dijk)"
        r" \d{1,4} ?[a-zA-Z]?\b"
    ),
    "Polish": re.compile(rf"\b(?:ul|al|pl|os)\. ?{_NAMES} \d{{1,4}}[a-zA-Z]?(?:/\d{{1,4}})?\b"),
    "Russian": re.compile(
        r"\b(?:ул\.?|улица|пр-?т?\.?|проспект|пер\.|переулок|наб\.) ?[А-ЯЁ][\w-]*"
        r"(?: [А-ЯЁ][\w-]*){0,2},? (?:д\.? ?|дом )?\d{1,4}(?: ?[а-я]\b)?(?:,? кв\.? ?\d{1,4})?"
    ),
    "Swedish": re.compile(
        r"\b[A-ZÅÄÖ][a-zåäö]{2,30}(?:gatan|vägen|gränd|torget|stigen) \d{1,4} ?[A-Z]?\b"
    ),
    "Turkish": re.compile(
        rf"\b{_NAMES} (?:Sokak|Sok\.|Sk\.|Caddesi|Cad\.|Bulvarı|Mah\.)"
        r"[^\n]{0,12}?\d{1,4}(?:/\d{1,4})?"
    ),
    "Japanese": re.compile(
        r"〒? ?\d{3}-\d{4}[^\n。、]{0,4}[^\W\d_]{2,3}[都道府県][^\n。、]{2,40}\d"
        r"|[^\W\d_]{2,3}[都道府県][^\n。、 ]{1,20}[区市町村][^\n。、 ]{1,20}"
        r"\d{1,3}(?:[-丁目番地号]+\d{0,3}){1,4}"
    ),
    "Chinese": re.compile(
        r"[一-龥]{2,12}(?:路|街|大道|巷|弄) ?\d{1,5} ?号(?:[一-龥\d]{0,10}[室楼层栋])?"
    ),
}
"""Patterns of a street with the number of a house."""
