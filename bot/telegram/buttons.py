"""The data of buttons, which Telegram sends back at a tap, built and parsed in one place.

Each record is one kind of button. `data` is what the button carries, at most 64 bytes, and `parse`
reads it back; None means that the data is not of this kind. No two kinds share a first word.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias, cast

MAX_DATA_BYTES = 64
"""Telegram's limit for the data of a button."""

HASH_CHARS = 16
"""Characters of a hash in a button."""

ANYBODY = 0
"""Stands for any person's id: whoever taps the button answers for themselves."""

_ID = "([0-9]{1,18})"
_PERSON_ID = "(-?[0-9]{1,18})"
"""The id of a person, or of a group in whose name an anonymous admin writes."""

_YES_NO = {True: "yes", False: "no"}


class ReplyAction(StrEnum):
    """An action of a person on a reply, by its buttons."""

    UP = "up"
    DOWN = "down"
    CLEAR = "clear"
    AGAIN = "again"
    FIX = "fix"


@dataclass(frozen=True, kw_only=True)
class ReplyButton:
    """A button under a reply: 👍, 👎, ✖, 🔄 or ✏️."""

    action: ReplyAction
    turn_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"{self.action}:{self.turn_id}"

    @classmethod
    def parse(cls, data: object) -> "ReplyButton | None":
        """Read the data of a tapped button."""
        match = _match(f"(up|down|clear|again|fix):{_ID}", data)
        return cls(action=ReplyAction(match[1]), turn_id=int(match[2])) if match else None


class AccessAction(StrEnum):
    """An action on a person's access, by themselves or by an admin."""

    ASK = "ask"
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, kw_only=True)
class AccessButton:
    """A button with which a person asks for access, or an admin lets them in or keeps them out."""

    action: AccessAction
    person_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"access:{self.action}:{self.person_id}"

    @classmethod
    def parse(cls, data: object) -> "AccessButton | None":
        """Read the data of a tapped button."""
        match = _match(f"access:(ask|allow|deny):{_PERSON_ID}", data)
        return cls(action=AccessAction(match[1]), person_id=int(match[2])) if match else None

    @classmethod
    def parse_request(cls, data: object) -> "AccessButton | None":
        """Read the data of a button with which somebody asks for access."""
        button = cls.parse(data)
        return button if button is not None and button.action is AccessAction.ASK else None


@dataclass(frozen=True, kw_only=True)
class GroupButton:
    """A button that switches a rule of a group on or off."""

    rule: Literal["answers", "teaches"]
    on: bool

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"group:{self.rule}:{_YES_NO[self.on]}"

    @classmethod
    def parse(cls, data: object) -> "GroupButton | None":
        """Read the data of a tapped button."""
        match = _match("group:(answers|teaches):(yes|no)", data)
        if match is None:
            return None
        rule = cast(Literal["answers", "teaches"], match[1])
        return cls(rule=rule, on=match[2] == "yes")


@dataclass(frozen=True, kw_only=True)
class ForgetButton:
    """The answer to "Delete everything?", for the person who was asked."""

    yes: bool
    person_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"forget:{_YES_NO[self.yes]}:{self.person_id}"

    @classmethod
    def parse(cls, data: object) -> "ForgetButton | None":
        """Read the data of a tapped button."""
        match = _match(f"forget:(yes|no):{_PERSON_ID}", data)
        return cls(yes=match[1] == "yes", person_id=int(match[2])) if match else None


@dataclass(frozen=True, kw_only=True)
class ConsentButton:
    """The answer to "May I learn from you?", for the person who was asked or for `ANYBODY`."""

    yes: bool
    person_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"consent:{_YES_NO[self.yes]}:{self.person_id}"

    @classmethod
    def parse(cls, data: object) -> "ConsentButton | None":
        """Read the data of a tapped button."""
        match = _match(f"consent:(yes|no):{_PERSON_ID}", data)
        return cls(yes=match[1] == "yes", person_id=int(match[2])) if match else None


@dataclass(frozen=True, kw_only=True)
class ReleaseButton:
    """A button that lets the ratings of a person in quarantine count again."""

    person_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"release:{self.person_id}"

    @classmethod
    def parse(cls, data: object) -> "ReleaseButton | None":
        """Read the data of a tapped button."""
        match = _match(f"release:{_ID}", data)
        return cls(person_id=int(match[1])) if match else None


@dataclass(frozen=True, kw_only=True)
class ApprovalButton:
    """A button that lets an answer help in every chat, or refuses it.

    `sha256` begins the hash of the words that were shown, so that no others are approved.
    """

    approved: bool
    turn_id: int
    sha256: str

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"{'approve' if self.approved else 'refuse'}:{self.turn_id}:{self.sha256}"

    @classmethod
    def parse(cls, data: object) -> "ApprovalButton | None":
        """Read the data of a tapped button."""
        match = _match(f"(approve|refuse):{_ID}:([0-9a-f]{{{HASH_CHARS}}})", data)
        if match is None:
            return None
        return cls(approved=match[1] == "approve", turn_id=int(match[2]), sha256=match[3])


@dataclass(frozen=True, kw_only=True)
class CancelButton:
    """A button that cancels a training run."""

    run_id: int

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"cancel:{self.run_id}"

    @classmethod
    def parse(cls, data: object) -> "CancelButton | None":
        """Read the data of a tapped button."""
        match = _match(f"cancel:{_ID}", data)
        return cls(run_id=int(match[1])) if match else None


class VersionAction(StrEnum):
    """An action of an admin on a version; `FORCE` promotes one that the gate rejected."""

    PROMOTE = "promote"
    FORCE = "force"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class VersionButton:
    """A button that confirms a change of the active version."""

    action: VersionAction
    name: str

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return f"{self.action}:{self.name}"

    @classmethod
    def parse(cls, data: object) -> "VersionButton | None":
        """Read the data of a tapped button; None also for a name that no button can carry."""
        match = _match(r"(promote|force|rollback):(\S{1,50})", data)
        if match is None or len(match[0].encode()) > MAX_DATA_BYTES:
            return None
        return cls(action=VersionAction(match[1]), name=match[2])


@dataclass(frozen=True, kw_only=True)
class NoButton:
    """A button that leaves everything as it is."""

    @property
    def data(self) -> str:
        """The data that the button carries."""
        return "no:"

    @classmethod
    def parse(cls, data: object) -> "NoButton | None":
        """Read the data of a tapped button."""
        return cls() if data == "no:" else None


TrainingButton: TypeAlias = CancelButton | VersionButton | NoButton


KINDS = (
    ReplyButton,
    AccessButton,
    GroupButton,
    ForgetButton,
    ConsentButton,
    ReleaseButton,
    ApprovalButton,
    CancelButton,
    VersionButton,
    NoButton,
)
"""Every kind of button."""


def parse_training(data: object) -> TrainingButton | None:
    """Read the data of a button under a message about training."""
    return CancelButton.parse(data) or VersionButton.parse(data) or NoButton.parse(data)


def _match(pattern: str, data: object) -> re.Match[str] | None:
    return re.fullmatch(pattern, data) if isinstance(data, str) else None
