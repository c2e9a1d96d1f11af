"""The table of commands: menus, help and registration are all made from it.

A new command is a row here and a method of a handler.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from telegram import BotCommand, Update
from telegram.ext import ContextTypes

if TYPE_CHECKING:  # the handlers import this module
    from bot.telegram.handlers import Handlers

Handler: TypeAlias = Callable[[Update, ContextTypes.DEFAULT_TYPE], Coroutine[Any, Any, None]]


class Audience(StrEnum):
    """The people whom a command is for."""

    EVERYONE = "everyone"
    GROUP_ADMINS = "group admins"
    ADMINS = "admins"
    """The people in `RATCHET_ADMINS`, in private chats only."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, with its texts and its handler."""

    name: str
    menu: str
    """Text beside it in Telegram's menu; empty keeps it out of the menus."""
    help: str
    """Text beside it in /help; empty keeps it out of the list."""
    handler: Callable[["Handlers"], Handler]
    audience: Audience = Audience.EVERYONE
    arguments: str = ""
    """Arguments that /help shows behind the name."""
    in_groups: bool = False
    """True if the menu of groups shows it; it works in groups in any case."""


def _start(handlers: "Handlers") -> Handler:
    """Return a handler that welcomes somebody, then asks whether they take part in training."""

    async def on_start(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        await handlers.welcome.on_start(update, context)
        await handlers.privacy.on_start(update, context)

    return on_start


COMMANDS = (
    Command(name="start", menu="", help="", handler=_start),
    Command(
        name="new",
        menu="Start over",
        help="start over; I forget what was said before",
        handler=lambda handlers: handlers.talking.on_new,
        in_groups=True,
    ),
    Command(
        name="why",
        menu="How an answer came about",
        help="how an answer of mine came about; reply to it with /why",
        handler=lambda handlers: handlers.talking.on_why,
        in_groups=True,
    ),
    Command(
        name="group",
        menu="What I do in this group",
        help="in a group, for its admins: whether I answer there, and whether I learn",
        handler=lambda handlers: handlers.group.on_group,
        audience=Audience.GROUP_ADMINS,
        in_groups=True,
    ),
    Command(
        name="help",
        menu="All commands",
        help="this list",
        handler=lambda handlers: handlers.welcome.on_help,
        in_groups=True,
    ),
    Command(
        name="privacy",
        menu="What is kept about you",
        help="what is kept about you",
        handler=lambda handlers: handlers.privacy.on_privacy,
    ),
    Command(
        name="export",
        menu="Get everything I hold about you",
        help="get everything I hold about you as a file",
        handler=lambda handlers: handlers.privacy.on_export,
    ),
    Command(
        name="forget",
        menu="Delete everything I hold about you",
        help="delete everything I hold about you",
        handler=lambda handlers: handlers.privacy.on_forget,
    ),
    Command(
        name="optout",
        menu="Keep what you write out of training",
        help="keep what you write out of training",
        handler=lambda handlers: handlers.privacy.on_opt_out,
    ),
    Command(
        name="optin",
        menu="Let what you write into training",
        help="let what you write into training",
        handler=lambda handlers: handlers.privacy.on_opt_in,
    ),
    Command(
        name="status",
        menu="How I am doing",
        help="how I am doing",
        handler=lambda handlers: handlers.admin.on_status,
        audience=Audience.ADMINS,
    ),
    Command(
        name="train",
        menu="Learn from what was rated",
        help="learn from what was rated",
        handler=lambda handlers: handlers.learning.on_train,
        audience=Audience.ADMINS,
    ),
    Command(
        name="runs",
        menu="How the last training runs went",
        help="how the last training runs went",
        handler=lambda handlers: handlers.learning.on_runs,
        audience=Audience.ADMINS,
    ),
    Command(
        name="adapters",
        arguments="[NAME]",
        menu="All versions, or the checks of one",
        help="all versions; with a name, the checks that this version passed or failed",
        handler=lambda handlers: handlers.learning.on_adapters,
        audience=Audience.ADMINS,
    ),
    Command(
        name="promote",
        arguments="NAME",
        menu="Answer with a version",
        help="answer everybody with this version",
        handler=lambda handlers: handlers.learning.on_promote,
        audience=Audience.ADMINS,
    ),
    Command(
        name="rollback",
        menu="Go back to the version before",
        help="go back to the version before",
        handler=lambda handlers: handlers.learning.on_rollback,
        audience=Audience.ADMINS,
    ),
    Command(
        name="approve",
        menu="Let a good answer help in every chat",
        help="look at liked and corrected answers, and let them help in every chat",
        handler=lambda handlers: handlers.approval.on_approve,
        audience=Audience.ADMINS,
    ),
    Command(
        name="golden",
        arguments="[NUMBER] [off]",
        menu="Answers that I must always know",
        help="reply with it to an answer of mine that every version must still know; it is "
        "measured, and never trained on",
        handler=lambda handlers: handlers.golden.on_golden,
        audience=Audience.ADMINS,
    ),
    Command(
        name="stats",
        menu="How people like each version",
        help="how people like each version, as a picture",
        handler=lambda handlers: handlers.learning.on_stats,
        audience=Audience.ADMINS,
    ),
    Command(
        name="quarantine",
        menu="People whose ratings are held back",
        help="people whose ratings teach nothing until you release them",
        handler=lambda handlers: handlers.quarantine.on_quarantine,
        audience=Audience.ADMINS,
    ),
    Command(
        name="documents",
        menu="The documents I know",
        help="the documents I know, with their numbers",
        handler=lambda handlers: handlers.documents.on_documents,
        audience=Audience.ADMINS,
    ),
    Command(
        name="remove",
        arguments="NUMBER",
        menu="Remove a document",
        help="remove the document with this number",
        handler=lambda handlers: handlers.documents.on_remove,
        audience=Audience.ADMINS,
    ),
    Command(
        name="invite",
        arguments="[DAYS PEOPLE]",
        menu="Make a link that lets people in",
        help="make a link that lets people in",
        handler=lambda handlers: handlers.invitation.on_invite,
        audience=Audience.ADMINS,
    ),
    Command(
        name="allow",
        arguments="ID",
        menu="Let somebody in",
        help="let somebody in by number or @name; or reply with /allow to a message of theirs that "
        "you forwarded here",
        handler=lambda handlers: handlers.access.on_allow,
        audience=Audience.ADMINS,
    ),
    Command(
        name="deny",
        arguments="ID",
        menu="Keep somebody out",
        help="keep somebody out; works as /allow does",
        handler=lambda handlers: handlers.access.on_deny,
        audience=Audience.ADMINS,
    ),
    Command(
        name="people",
        menu="Who is let in",
        help="who is let in and who is kept out",
        handler=lambda handlers: handlers.access.on_people,
        audience=Audience.ADMINS,
    ),
    Command(
        name="audit",
        menu="What changed me",
        help="what changed me, by whom and when",
        handler=lambda handlers: handlers.admin.on_audit,
        audience=Audience.ADMINS,
    ),
)

NAMES = frozenset(command.name for command in COMMANDS)


def _menu(commands: list[Command]) -> tuple[BotCommand, ...]:
    return tuple(BotCommand(each.name, each.menu) for each in commands if each.menu)


FOR_GROUPS = _menu([each for each in COMMANDS if each.in_groups])
"""The menu in groups."""

FOR_EVERYBODY = _menu([each for each in COMMANDS if each.audience is not Audience.ADMINS])
"""The menu in private chats."""

FOR_ADMINS = _menu(list(COMMANDS))
"""The menu in an admin's private chat."""


def help_lines(*, for_admins: bool) -> str:
    """Return one line for each command: those for admins, or those for everybody else."""
    return "\n".join(
        f"/{each.name}{' ' if each.arguments else ''}{each.arguments} – {each.help}"
        for each in COMMANDS
        if each.help and (each.audience is Audience.ADMINS) == for_admins
    )
