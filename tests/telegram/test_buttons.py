"""Buttons: what is built is read back, and nothing else is read."""

import pytest

from bot.telegram.buttons import (
    KINDS,
    MAX_DATA_BYTES,
    ApprovalButton,
    CancelButton,
    ConsentButton,
    ForgetButton,
    GroupButton,
    NoButton,
    ReleaseButton,
    ReplyAction,
    ReplyButton,
    VersionAction,
    VersionButton,
)

LARGEST = 10**18 - 1
BUTTONS = (
    *(ReplyButton(action=action, turn_id=LARGEST) for action in ReplyAction),
    *(VersionButton(action=action, name="a3-1f2e3d4c") for action in VersionAction),
    GroupButton(rule="answers", on=False),
    GroupButton(rule="teaches", on=True),
    ForgetButton(yes=True, person_id=LARGEST),
    ConsentButton(yes=False, person_id=LARGEST),
    ReleaseButton(person_id=LARGEST),
    ApprovalButton(approved=True, turn_id=LARGEST, sha256="0123456789abcdef"),
    ApprovalButton(approved=False, turn_id=LARGEST, sha256="0123456789abcdef"),
    CancelButton(run_id=LARGEST),
    NoButton(),
)


@pytest.mark.parametrize("button", BUTTONS, ids=lambda button: button.data)
def test_only_its_own_kind_reads_a_button_back(button: ReplyButton) -> None:
    read = [kind.parse(button.data) for kind in KINDS]

    assert [each for each in read if each is not None] == [button]
    assert len(button.data.encode()) <= MAX_DATA_BYTES


@pytest.mark.parametrize(
    "data", ["", "up:", "up:x", "up:1:2", "group:name:no", "no", "up:1\n", None]
)
def test_other_data_is_no_button(data: str | None) -> None:
    assert [kind.parse(data) for kind in KINDS if kind.parse(data) is not None] == []


def test_a_name_that_no_button_can_carry_is_no_button() -> None:
    assert VersionButton.parse("promote:" + "é" * 40) is None
