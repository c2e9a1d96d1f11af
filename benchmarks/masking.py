"""How much private data is masked, and how much that only looks like it.

The command is `python -m benchmarks.masking`.

Made-up numbers of 25 countries with right check digits, as people write them, and as many innocent
strings. Recall is the share of private strings of which nothing is left; a false alarm is an
innocent string that is changed.
"""

import argparse
import random
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from stdnum import iban, luhn
from stdnum.iso7064 import mod_97_10

from benchmarks.results import keep, show
from store.masking import mask

SEED = 7
TRIES = 200_000
"""Draws of a number until its check digits are right."""

IDS: tuple[tuple[str, str, str, str], ...] = (
    ("US", "us.ssn", "###-##-####", "My social security number is {}."),
    ("GB", "gb.nhs", "### ### ####", "NHS number {}"),
    ("DE", "de.idnr", "## ### ### ###", "Meine Steuer-ID lautet {}"),
    ("FR", "fr.nir", "1 ## 0# 75 ### ### ##", "Numéro de sécurité sociale : {}"),
    ("ES", "es.dni", "########@", "DNI {}"),
    ("ES", "es.nie", "X#######@", "mi NIE es {}"),
    ("NL", "nl.bsn", "#########", "BSN: {}"),
    ("IN", "in_.aadhaar", "#### #### ####", "Aadhaar {}"),
    ("CN", "cn.ric", "1101011990030####X", "身份证号 {}"),
    ("BR", "br.cpf", "###.###.###-##", "CPF {}"),
    ("SE", "se.personnummer", "8503##-####", "personnummer {}"),
    ("DK", "dk.cpr", "1203##-####", "CPR {}"),
    ("FI", "fi.hetu", "1203##-###@", "henkilötunnus {}"),
    ("BE", "be.nn", "85.07.30-###.##", "rijksregisternummer {}"),
    ("CH", "ch.ssn", "756.####.####.##", "AHV {}"),
    ("CZ", "cz.rc", "8507##/####", "rodné číslo {}"),
    ("PL", "pl.pesel", "8507#######", "PESEL {}"),
    ("TR", "tr.tckimlik", "###########", "TC Kimlik No: {}"),
    ("RO", "ro.cnp", "18507###40###", "CNP {}"),
    ("CL", "cl.rut", "##.###.###-#", "RUT {}"),
    ("AR", "ar.cuit", "20-########-#", "CUIT {}"),
    ("KR", "kr.rrn", "8507##-1######", "주민등록번호 {}"),
    ("PT", "pt.nif", "2########", "contribuinte {}"),
    ("CA", "ca.sin", "###-###-###", "SIN {}"),
    ("ZA", "za.idnr", "850730####08#", "national id {}"),
    ("IL", "il.idnr", "#########", "תעודת זהות {}"),
)
"""Country, module of stdnum, form (# a digit, @ a capital letter), and a sentence."""

PHONES = (
    *("+1 212 555 0{}", "+44 20 7946 0{}", "+49 30 901820{}", "+33 1 42 68 5{}", "+34 91 411 1{}"),
    *("+39 06 698 8{}", "+31 20 624 1{}", "+91 22 2778 2{}", "+55 11 3247 8{}", "+7 495 697 0{}"),
    *("+48 22 694 7{}", "+81 3 3213 1{}", "+86 138 1234 5{}", "+90 212 455 1{}", "+46 8 508 2{}"),
    *("020 7946 0{}", "030 901820{}", "01 42 68 53 {0:.2}", "(212) 555-0{}", "138 1234 5{}"),
    *("8 (495) 697-0{0:.1}-{0:.2}", "03-3213-1{}"),
)
ADDRESSES = (
    *(
        "I live at {} Baker Street",
        "send it to {} old mill road",
        "{} Rue de Rivoli",
        "Hauptstraße {}",
    ),
    *("Lange Gasse {}", "hauptstraße {}", "Calle de Alcalá, {}", "Avenida de la Constitución {}"),
    *("Via Garibaldi {}", "Piazza San Marco, {}", "Keizersgracht {}", "Dorpsstraat {}"),
    *("ul. Marszałkowska {}", "al. Jana Pawła {}", "ул. Ленина, д. {}", "пр. Мира, {}"),
    *("Rua Augusta, {}", "Praça da Sé, {}", "南京东路{}号", "人民大道 {} 号", "Drottninggatan {}"),
    *(
        "Atatürk Caddesi No: {}",
        "東京都千代田区丸の内1丁目{}番地",
        "〒100-0005 東京都千代田区丸の内1-{}",
    ),
)
PASSWORDS = (
    *("my password is {}", "das Passwort lautet {}", "mot de passe : {}", "la contraseña es {}"),
    *("minha senha: {}", "parola d'ordine: {}", "wachtwoord: {}", "hasło to {}", "пароль: {}"),
    *("密码是{}", "パスワードは{}", "비밀번호: {}", "şifre: {}", "lösenord: {}", "heslo: {}"),
)
BIRTHS = (
    *(
        "I was born on {1} May {0}",
        "geboren am {1}.05.{0}",
        "née le {1}/05/{0}",
        "nacido el {1}/05/{0}",
    ),
    *("data di nascita: {1}/05/{0}", "geboortedatum {1}-05-{0}", "data urodzenia: {1}.05.{0}"),
    *("дата рождения {1}.05.{0}", "生年月日 {0}年5月{1}日", "date of birth: {0}-05-{1}"),
)
LINKS = (
    *("https://x.example/login?token={}", "https://x.example/reset?key={}&a=1"),
    *("https://x.example/a#access_token={}", "https://x.example/invite/{}"),
)
WORDS = (
    *("apple", "river", "stone", "cloud", "tiger", "lemon", "ocean", "piano", "rocket", "silver"),
    *("window", "garden"),
)

INNOCENT = (
    *("Order {n8} was shipped on {d}.{m}.2026.", "The population is {n8}.", "Page {n3} to {n3}."),
    *(
        "ISBN 978-3-16-148410-0, edition {n1}",
        "Version {n1}.{n2}.{n1}.{n1} is out",
        "v{n1}.{n1}.{n2}",
    ),
    *(
        "It costs {n3},{n2} € and weighs {n2} kg.",
        "Open {h}:00-{h}:30, room {n3}",
        "{n4}-{n4} in history",
    ),
    *("{n3} × {n3} = {n5}", "pi is 3.14159265358979", "{n1}, {n1}, {n1}, {n1}, {n1}, {n1}, {n2}"),
    *(
        "The meeting is on {d} May 2026 at {h}:15.",
        "Lot {n6}, shelf {n2}",
        "Flight LH{n3} at gate B{n2}",
    ),
    *(
        "Article {n5} of section {n1}.{n1}",
        "The score was {n1}:{n1}.",
        "{n3},{n3},{n3} people voted",
    ),
    *(
        "The password is required.",
        "Your password must have {n2} characters.",
        "Das Passwort fehlt noch.",
    ),
    *("Where is the PIN? On page {n3}.", "Use a passport photo of {n2} mm.", "Bring your ID card."),
    *(
        "Train {n4} leaves in {n2} minutes.",
        "It is {n2} km down the road.",
        "Walk {n1} miles to the lane.",
    ),
    *("RFC {n4} says so.", "Model XR-{n4} has {n2} GB.", "Serial part {n3}-{n2} fits.", "DIN {n5}"),
    *("The address of the museum is on the website.", "10.{m}.2026", "{n4} kWh in {n2} days"),
    *(
        "Temperature {n2}.{n1} °C, pressure {n4} hPa",
        "Ratio {n1}.{n4} and {n1}.{n3}",
        "CAS 7732-18-5",
    ),
    *(
        "Bundesliga 20{n2}/{n2}",
        "Die Straße ist lang.",
        "La calle es larga, {n2} metros.",
        "第{n2}章 第{n1}节",
    ),
    *(
        "明日は{h}時です。",
        "Приходите в {h} часов, комната {n3}.",
        "La via {n1} è chiusa.",
        "Chapter {n1}.{n1}.{n1}.{n1}",
    ),
    *("https://example.org/articles/{n4}/what-is-new", "https://example.org/?page={n3}&sort=up"),
    *("A wallet holds money and cards.", "Born in {n4}, a good year.", "She was born in Paris."),
    *("EAN 4006381333931", "Ticket {n6} is closed.", "Bus {n3} stops at {h}:{m}.", "PLZ {n5}"),
    *(
        "Account managers meet at {h}.",
        "The account has {n3} users.",
        "Plate of {n2} dumplings, please.",
    ),
    *(
        "Call me at {h} o'clock.",
        "Step {n1} of {n2}",
        "grep -n {n3} file{n1}.txt",
        "x = {n4} if y else {n4}",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Private:
    """A text with a private string in it."""

    kind: str
    text: str
    secret: str


def private(draw: random.Random) -> Iterator[Private]:
    """Draw private strings of every kind."""

    def one(kind: str, sentence: str, secret: str) -> Private:
        return Private(kind=kind, text=sentence.format(secret), secret=secret)

    for country, module, form, sentence in IDS:
        for number in _numbers(draw, module, form, 3):
            yield one(f"id {country}", sentence, number)
    for _ in range(3):
        for each in PHONES:
            number = each.format(_digits(draw, 3))
            yield Private(kind="phone", text=f"Call {number} please", secret=number)
        for each in ADDRESSES:
            text = each.format(draw.randrange(2, 180))
            yield Private(kind="address", text=text, secret=_from_first_capital(text, each))
        for each in PASSWORDS:
            yield one("password", each, draw.choice(WORDS) + _digits(draw, 3) + draw.choice("!x#"))
        for each in BIRTHS:
            year, day = draw.randrange(1940, 2010), draw.randrange(10, 28)
            text = each.format(year, day)
            date = re.search(r"\d.*\d|\d+", text)
            assert date is not None
            yield Private(kind="date of birth", text=text, secret=date[0])
        for each in LINKS:
            yield one("link", each, _letters(draw, 12))
        yield from _others(draw, one)


def _others(draw: random.Random, one: Callable[[str, str, str], Private]) -> Iterator[Private]:
    card = _with_luhn("4" + _digits(draw, 14))
    for separator in ("", " ", "-", ".", "\n"):
        written = separator.join(card[start : start + 4] for start in range(0, 16, 4))
        yield one("card", "My card {} expires soon", written)
    for country, body in (("DE", 18), ("FR", 23), ("GB", 18), ("NL", 14), ("ES", 20), ("IT", 23)):
        yield one("account", "IBAN {}", _iban(draw, country, body))
    yield one("account", "account number: {}", _digits(draw, 10))
    yield one(
        "account", "sort code: {}", f"{_digits(draw, 2)}-{_digits(draw, 2)}-{_digits(draw, 2)}"
    )
    name = draw.choice(WORDS)
    yield one("email", "write to {}", f"{name}.x@mail.example.org")
    yield one("email", "write to {}", f"{name} (at) example (dot) org")
    yield one("email", "write to {}", f"{name}[at]example.org")
    yield one("ip", "server {}", ".".join(str(draw.randrange(11, 250)) for _ in range(4)))
    yield one(
        "ip", "server {}", "2001:db8:" + ":".join(f"{draw.randrange(65536):x}" for _ in range(6))
    )
    yield one("mac", "card {}", ":".join(f"{draw.randrange(256):02x}" for _ in range(6)))
    yield one(
        "coordinates", "we meet at {}", f"{draw.uniform(1, 80):.5f}, {draw.uniform(1, 80):.5f}"
    )
    yield one("seed phrase", "my seed phrase is {}", " ".join(draw.choices(WORDS, k=12)))
    yield one("seed phrase", "{}", " ".join(draw.choices(WORDS, k=12)))
    yield one("id", "passport no. {}", "C" + _digits(draw, 8))
    yield one("id", "Reisepass {}", "C01X" + _digits(draw, 5))
    yield one("id", "license plate {}", "ABC " + _digits(draw, 4))
    yield one(
        "id", "My NINO is {}", f"AB {_digits(draw, 2)} {_digits(draw, 2)} {_digits(draw, 2)} C"
    )
    hidden = "+49 170 " + _digits(draw, 7)
    yield one(
        "full-width", "Call {}", hidden.translate({ord(d): 0xFF10 + int(d) for d in "0123456789"})
    )
    yield one("zero-width", "Call {}", "\u200b".join(hidden))
    arabic = hidden.translate({ord(d): 0x0660 + int(d) for d in "0123456789"})
    yield one("Arabic digits", "اتصل {}", arabic)


def innocent(draw: random.Random, count: int) -> Iterator[str]:
    """Draw strings that only look private."""
    for number in range(count):
        numbers = {f"n{size}": _digits(draw, size) for size in range(1, 9)}
        given = {
            "d": draw.randrange(1, 29),
            "m": draw.randrange(10, 13),
            "h": draw.randrange(8, 23),
        }
        yield INNOCENT[number % len(INNOCENT)].format(**numbers, **given)


def is_hidden(each: Private) -> bool:
    """Return whether nothing of a private string is left but what gives nothing away."""
    masked = mask(each.text)
    if masked == each.text or each.secret in masked:
        return False
    left = re.sub(r"\[[a-z]+\]", "", masked)
    return not any(piece in left for piece in re.findall(r"\w{4,}", each.secret))


def _numbers(draw: random.Random, module: str, form: str, count: int) -> Iterator[str]:
    is_valid = import_module(f"stdnum.{module}").is_valid
    for _ in range(count):
        for _ in range(TRIES):
            number = re.sub("#", lambda _: draw.choice(string.digits), form)
            number = re.sub("@", lambda _: draw.choice(string.ascii_uppercase), number)
            if is_valid(number):
                yield number
                break
        else:
            raise RuntimeError(f"no {module} number was found")


def _from_first_capital(text: str, template: str) -> str:
    """Return the part of an address sentence that is the address."""
    before = template.split("{}", maxsplit=1)[0]
    prose = re.match(r"(?:I live at |send it to )", before)
    return text[prose.end() if prose else 0 :]


def _digits(draw: random.Random, count: int) -> str:
    return draw.choice("123456789") + "".join(draw.choices(string.digits, k=count - 1))


def _letters(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.ascii_letters + string.digits, k=count))


def _with_luhn(number: str) -> str:
    return number + luhn.calc_check_digit(number)


def _iban(draw: random.Random, country: str, length: int) -> str:
    while True:
        body = _digits(draw, length)
        if country == "GB":
            body = "WEST" + body[4:]
        if country == "NL":
            body = "ABNA" + body[4:]
        if country == "IT":
            body = "X" + body[1:]
        digits = mod_97_10.calc_check_digits(body + country)
        found = f"{country}{digits}{body}"
        if iban.is_valid(found):
            return " ".join(found[start : start + 4] for start in range(0, len(found), 4))


def main() -> None:
    """Print recall and false alarms, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missed", action="store_true", help="print what is missed or changed")
    options = parser.parse_args()
    draw = random.Random(SEED)
    strings = list(private(draw))
    hidden, every = Counter[str](), Counter[str]()
    for each in strings:
        kind = each.kind.split()[0] if each.kind.startswith("id ") else each.kind
        every[kind] += 1
        hidden[kind] += is_hidden(each)
        if options.missed and not is_hidden(each):
            print(
                "missed:", each.kind, repr(each.text), "→", repr(mask(each.text)), file=sys.stderr
            )
    plain = list(innocent(draw, len(strings)))
    changed = [each for each in plain if mask(each) != each]
    if options.missed:
        for text in changed:
            print("changed:", repr(text), "→", repr(mask(text)), file=sys.stderr)
    rows = [(kind, f"{hidden[kind]} of {every[kind]}") for kind in every]
    rows.append(("recall", f"{sum(hidden.values()) / len(strings):.1%} of {len(strings)}"))
    rows.append(("false alarms", f"{len(changed) / len(plain):.1%} of {len(plain)}"))
    show(("kind", "masked"), rows)
    keep("masking", [{"kind": kind, "masked": value} for kind, value in rows])


if __name__ == "__main__":
    main()
