"""The buttons under a reply, and ways to answer the tap on any button."""

from contextlib import suppress

from telegram import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message
from telegram.error import BadRequest, TelegramError

from bot.telegram.buttons import ReplyAction, ReplyButton
from store.domain import Tally


def keyboard(turn_id: int, tally: Tally, *, private: bool) -> InlineKeyboardMarkup:
    """Return the buttons under a reply, with the ratings recorded so far."""

    def label(emoji: str, count: int) -> str:
        if not count:
            return emoji
        return f"{emoji} ✓" if private else f"{emoji} {count}"

    def button(text: str, action: ReplyAction) -> InlineKeyboardButton:
        data = ReplyButton(action=action, turn_id=turn_id).data
        return InlineKeyboardButton(text, callback_data=data)

    buttons = [
        button(label("👍", tally.up), ReplyAction.UP),
        button(label("👎", tally.down), ReplyAction.DOWN),
        button("🔄", ReplyAction.AGAIN),
        button("✏️", ReplyAction.FIX),
    ]
    if tally.up or tally.down:
        buttons.append(button("✖", ReplyAction.CLEAR))
    return InlineKeyboardMarkup([buttons])


async def acknowledge(query: CallbackQuery, text: str = "") -> None:
    """Stop the button's spinner and show a short notice, if Telegram can be reached."""
    with suppress(TelegramError):  # the tap is too old, or the network is away
        await query.answer(text or None)


async def show(
    query: CallbackQuery, text: str, buttons: InlineKeyboardMarkup | None = None
) -> None:
    """Replace the button's message by `text`; send a new one if it cannot be edited."""
    message = query.message
    if isinstance(message, Message):
        try:
            await message.edit_text(text, reply_markup=buttons)
        except BadRequest as error:
            if "not modified" in str(error):
                return
        else:
            return
    if message is not None:
        await query.get_bot().send_message(message.chat.id, text, reply_markup=buttons)
