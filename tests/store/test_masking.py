"""Masking: private text in examples is masked, and other text is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.masking import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ada.l+x@mail.example.org.", "Write to [email]."),
        ("Call +49 170 1234567 now", "Call [phone] now"),
        ("(212) 555-0123 or 020 7946 0958", "[phone] or [phone]"),
        ("Card 4111 1111 1111 1111, please", "Card [card], please"),
        ("card 5500-0000-0000-0004", "card [card]"),
        ("4111 1111 1111 1111 12/26 123", "[card] 12/26 123"),
        ("4111111111111111 1226", "[card] 1226"),
        ("de89 3704 0044 0532 0130 00", "[account]"),
        ("sk-ant-api03-abcDEF123-ghi456JKL", "[key]"),
        ("01 42 68 53 00", "[phone]"),
        ("DE89 3704 0044 0532 0130 00 AND MORE", "[account] AND MORE"),
        ("iban GB82WEST12345698765432.", "iban [account]."),
        ("I live at 12 Baker Street, London", "I live at [address], London"),
        ("Hauptstraße 5a in Ulm", "[address] in Ulm"),
        ("10 rue de Rivoli à Paris", "[address] à Paris"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("bot 123456789:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc", "bot [key]"),
        ("ghp_" + "a1B2" * 9, "[key]"),
        ("sk-abcdefghij1234567890ABCDEF", "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nbye", "[key]\nbye"),
        ("sk-abcdefghij1234567890ABCDEF.", "[key]."),
        ("my password is hunter2!", "my password is [key]"),
        ("The password of the choir is banita128!", "The password of the choir is [key]"),
        ("The password for the choir: banita128!", "The password for the choir: [key]"),
        ("Das Passwort für den Chor lautet banita128!", "Das Passwort für den Chor lautet [key]"),
        (f"see {'/' * 1000} there", "see [data] there"),
        ("PIN: 4711", "PIN: [key]"),
        (
            "geboren am 03.10.1990, bezahlt am 01.02.2024",
            "geboren am [date], bezahlt am 01.02.2024",
        ),
        ("server 192.168.1.10, not 2001:db8::1", "server [ip], not [ip]"),
        ("card 00:1b:44:11:3a:b7", "card [mac]"),
        ("we met at 48.85837, 2.29448 once", "we met at [coordinates] once"),
        ("https://x.example/reset?token=abcDEF12&a=1", "https://x.example/reset?token=[key]&a=1"),
        ("SSN 536-90-4399", "SSN [id]"),
        ("mein PESEL to 44051401359", "mein PESEL to [id]"),
        ("passport no. C01X00T47 is mine", "passport no. [id] is mine"),
        ("account number: 1234567890", "account number: [account]"),
        ("密码是abc123!", "密码是[key]"),
        ("пароль: солнышко7", "пароль: [key]"),
        ("ada (at) example (dot) org", "[email]"),
        ("ул. Ленина, д. 5", "[address]"),
        ("南京东路88号", "[address]"),
        ("４１１１　１１１１　１１１１　１１１１", "[card]"),
        ("+4\u200b9 170 12\u200b34567", "[phone]"),
        ("١٣٨ ١٢٣٤ ٥٦٧٨", "[phone]"),
        ("token 0123456789abcdef0123456789abcdef", "token [key]"),
    ],
)
def test_what_is_private_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "bezahlt am 01.02.2024, born in 1990, a good year",
        "0.123456789 und 0,123456789",
        "0 1 1 2 3 5 8 13 21",
        "a-very-long-name-of-a-page-about-2026",
        "12 + 30 = 42, and 2 ** 10 is 1024.",
        "On 10 May 1969 at 10:30; 1939-1945; 2026-11-22; pages 100-120.",
        "The population is 67413000.",
        "3.14159265358979 and 1,234,567.89",
        "ISBN 978-3-16-148410-0, version 1.2.3.4, section 4.3.2.1",
        "RFC 7231 and DIN 5008, article 12345 of 2026",
        "Order 12345678 costs 1,234.50 €.",
        "The passport photo is 35 mm wide. Where is the PIN? On page 1023.",
        "Open 08:00-17:00, room 101, 20 % off, 5 kg.",
        "The password is required.",
        f"https://example.org/{'a-b/' * 100}",
        "明日は10時です。" * 300,
        "The password for the wifi? It is on page 1023.",
        "antidisestablishmentarianism and Donaudampfschifffahrtsgesellschaft",
        "https://example.org/articles/a1b2c3d4e5f6g7h8i9j0k1l2m3",
        "Take the street to the left; 3 roads meet there.",
        "Приходите завтра в 10 часов. 明日は10時です。",
        "",
    ],
)
def test_what_is_not_private_is_left_alone(text: str) -> None:
    assert mask(text) == text


@given(st.text(max_size=200))
def test_any_text_can_be_masked_and_a_second_time_changes_nothing(text: str) -> None:
    assert mask(mask(text)) == mask(text)
