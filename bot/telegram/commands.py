"""The commands, as menus show them: people see theirs, admins see theirs too."""

from telegram import BotCommand

FOR_GROUPS = (
    BotCommand("new", "Start over"),
    BotCommand("why", "How a reply came about"),
    BotCommand("group", "What I do in this group"),
    BotCommand("help", "What I understand"),
)
FOR_EVERYBODY = (
    *FOR_GROUPS,
    BotCommand("privacy", "What is kept about you"),
    BotCommand("export", "Get everything I hold about you"),
    BotCommand("forget", "Delete everything I hold about you"),
    BotCommand("optout", "Keep what you write out of training"),
    BotCommand("optin", "Let what you write into training"),
)
FOR_ADMINS = (
    *FOR_EVERYBODY,
    BotCommand("status", "How I am"),
    BotCommand("train", "Learn from what was rated"),
    BotCommand("runs", "How the last runs went"),
    BotCommand("adapters", "The versions, and what the gate said"),
    BotCommand("promote", "Answer with a version"),
    BotCommand("rollback", "Go back to the version before"),
    BotCommand("approve", "Let a good answer help in every chat"),
    BotCommand("stats", "How people like each version"),
    BotCommand("quarantine", "Whose ratings are held back"),
    BotCommand("documents", "What I know"),
    BotCommand("remove", "Take a document out"),
    BotCommand("invite", "A link that lets people in"),
    BotCommand("allow", "Let somebody in"),
    BotCommand("deny", "Keep somebody out"),
    BotCommand("audit", "What admins told me to do"),
)
NAMES = frozenset({"start", *(each.command for each in FOR_ADMINS)})
