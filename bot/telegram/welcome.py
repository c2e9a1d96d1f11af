"""The first words: `/start` and `/help`."""

from telegram import Update
from telegram.ext import ContextTypes

WELCOME = """\
I am an assistant that runs on somebody's own machine, and I learn from the people I talk to.

Ask me anything. In a group, mention me or answer one of my messages.

Under every reply are 👍 and 👎; a reaction on the message counts as well. What people rate is \
what I am trained on, so a thumb makes me better at your kind of question. ✏️ lets you write what \
I should have said, 🔄 lets me try again.

What is kept: your messages, my replies, your ratings and corrections, on that machine and \
nowhere else. /privacy tells more, /export gives you all of it, /forget deletes it, /optout keeps \
it out of training.

/help lists what I understand."""

HELP = """\
Write to me and I answer; in a group, mention me or answer one of my messages. If you edit a \
message I do not see the change: send it again.

/new – start over; I forget what was said before
/why – sent as an answer to a reply of mine: how it came about
/group – in a group, for its admins: whether I answer there, and learn
/privacy – what is kept about you
/export – get all of it as a file
/forget – delete all of it
/optout, /optin – keep what you write out of training, or let it in
/help – this list"""

ADMIN_HELP = """

For admins, in private:
send a file – add it to what I know (.txt .md .pdf .docx .html .csv .json .jsonl, up to 20 MB)
/documents – what I know, with numbers
/remove NUMBER – take a document out
/status – how I am
/train – learn from what was rated; /runs – how that went
/adapters – the versions; /adapters NAME – what the gate said of one
/promote NAME, /rollback – answer with a version, go back to the one before
/approve – liked and corrected answers that may help in every chat
/stats – how people like each version, as a picture
/invite – a link that lets people in
/allow ID, /deny ID – who may talk to me; or as an answer to a message that you forwarded
/quarantine – people whose ratings teach nothing until you release them
/audit – what admins told me to do"""


class WelcomeHandlers:
    """Says hello."""

    def __init__(self, *, admins: frozenset[int]) -> None:
        self._admins = admins

    async def on_start(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/start`."""
        assert update.effective_message is not None
        await update.effective_message.reply_text(WELCOME)

    async def on_help(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/help`."""
        assert update.effective_message is not None
        assert update.effective_user is not None
        extra = ADMIN_HELP if update.effective_user.id in self._admins else ""
        await update.effective_message.reply_text(HELP + extra)
