"""python-telegram-bot's network, replaced: records what is asked and answers what is plausible."""

import json
from itertools import count
from typing import Any

from telegram.error import TelegramError
from telegram.request import BaseRequest, RequestData

BOT = {"id": 42, "is_bot": True, "first_name": "Ratchet", "username": "ratchet_bot"}


class RecordingRequest(BaseRequest):
    """A network that answers every method; `failures` says which ones raise, and what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: dict[str, TelegramError] = {}
        self._ids = count(1000)

    @property
    def read_timeout(self) -> float | None:
        return 1.0

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass

    async def do_request(
        self,
        url: str,
        method: str,
        request_data: RequestData | None = None,
        **timeouts: object,
    ) -> tuple[int, bytes]:
        name = url.rpartition("/")[2]
        parameters = dict(request_data.parameters) if request_data else {}
        self.calls.append((name, parameters))
        if name in self.failures:
            raise self.failures[name]
        return 200, json.dumps({"ok": True, "result": self._result(name, parameters)}).encode()

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of every call of one method."""
        return [parameters for name, parameters in self.calls if name == method]

    def _result(self, name: str, parameters: dict[str, Any]) -> object:
        if name == "getMe":
            return BOT
        if not name.startswith(("send", "edit")) or name in ("sendChatAction", "sendMessageDraft"):
            return True
        chat_id = parameters.get("chat_id", 1)
        return {
            "message_id": parameters.get("message_id") or next(self._ids),
            "date": 0,
            "chat": {"id": chat_id, "type": "private" if chat_id > 0 else "supergroup"},
            "from": BOT,
            "text": parameters.get("text", ""),
        }
