"""The buttons under a reply, and what their taps are answered with."""

from contextlib import suppress

from telegram import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message
from telegram.error import BadRequest

from store.domain import Tally


def keyboard(turn_id: int, tally: Tally, *, private: bool) -> InlineKeyboardMarkup:
    """The buttons under a reply; they show what was recorded."""

    def label(emoji: str, count: int) -> str:
        if not count:
            return emoji
        return f"{emoji} ✓" if private else f"{emoji} {count}"

    buttons = [
        InlineKeyboardButton(label("👍", tally.up), callback_data=f"up:{turn_id}"),
        InlineKeyboardButton(label("👎", tally.down), callback_data=f"down:{turn_id}"),
        InlineKeyboardButton("🔄", callback_data=f"again:{turn_id}"),
        InlineKeyboardButton("✏️", callback_data=f"fix:{turn_id}"),
    ]
    if tally.up or tally.down:
        buttons.append(InlineKeyboardButton("✖", callback_data=f"clear:{turn_id}"))
    return InlineKeyboardMarkup([buttons])


async def acknowledge(query: CallbackQuery, text: str = "") -> None:
    """End the button's waiting, with a short notice; too late is no error, the tap counts."""
    with suppress(BadRequest):
        await query.answer(text or None)


async def show(
    query: CallbackQuery, text: str, buttons: InlineKeyboardMarkup | None = None
) -> None:
    """In place of the message with the button; if it is too old or gone, in a new one."""
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
