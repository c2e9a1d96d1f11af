"""The welcome and the list of commands: `/start` and `/help`."""

from telegram import Update
from telegram.ext import ContextTypes

from bot.telegram.commands import help_lines

WELCOME = """\
I am an assistant that runs on somebody's own machine, and I learn from the people I talk to.

Ask me anything. In a group, mention me or reply to one of my messages.

Under every reply are 👍 and 👎; a reaction on the message counts as well. What people rate is \
what I am trained on, so a thumb makes me better at your kind of question. ✏️ lets you write what \
I should have said, 🔄 lets me try again.

What is kept: your messages, my replies, your ratings and corrections, on that machine and \
nowhere else. /privacy tells more, /export gives you all of it, /forget deletes it, /optout keeps \
it out of training.

/help lists what I understand."""

HELP = """\
Write to me and I answer; in a group, mention me or reply to one of my messages. If you edit a \
message I do not see the change: send it again.

"""

ADMIN_HELP = """

For admins, in private:
send a file – add it to what I know (.txt .md .pdf .docx .html .csv .json .jsonl, up to 20 MB)
"""


class WelcomeHandlers:
    """The handlers of `/start` and `/help`."""

    def __init__(self, *, admins: frozenset[int]) -> None:
        self._admins = admins

    async def on_start(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/start`: send the welcome."""
        assert update.effective_message is not None
        await update.effective_message.reply_text(WELCOME)

    async def on_help(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/help`: send the list of commands, with those for admins to admins."""
        assert update.effective_message is not None
        assert update.effective_user is not None
        text = HELP + help_lines(for_admins=False)
        if update.effective_user.id in self._admins:
            text += ADMIN_HELP + help_lines(for_admins=True)
        await update.effective_message.reply_text(text)
