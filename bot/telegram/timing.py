"""The pauses and rates of the Telegram side, as one record that the composition root hands on."""

from dataclasses import dataclass

from bot.allowance import Rate
from bot.telegram import announcements, dispatcher, inbox, listener, rating, retries, stream


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Pauses, rates and limits; each default is the constant of the file that it is used in."""

    first_words_seconds: float = stream.FIRST_WORDS_SECONDS
    draft_seconds: float = stream.DRAFT_SECONDS
    edit_seconds: float = stream.EDIT_SECONDS
    tally_seconds: float = rating.TALLY_SECONDS
    look_seconds: float = announcements.LOOK_SECONDS
    finish_seconds: float = listener.FINISH_SECONDS
    store_again_seconds: float = inbox.FIRST_PAUSE_SECONDS
    update_again_seconds: float = dispatcher.FIRST_PAUSE_SECONDS
    call_again_seconds: float = retries.FIRST_PAUSE_SECONDS
    calls: int = retries.TRIES
    persons_rate: Rate = inbox.PERSONS_RATE
    chats_rate: Rate = inbox.CHATS_RATE
