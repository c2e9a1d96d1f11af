"""Keeps the index up to date while the bot runs: whoever adds a document, the bot embeds it."""

import asyncio
import logging

from store.documents.documents import Documents
from store.errors import StoreError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
RETRY_SECONDS = 30.0


class Indexer:
    """Looks for pending documents, about once a second."""

    def __init__(self, knowledge: Documents) -> None:
        self._knowledge = knowledge
        self._last_trouble = ""

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            fine = await self.look()
            await asyncio.sleep(LOOK_SECONDS if fine else RETRY_SECONDS)

    async def look(self) -> bool:
        """Index what is pending; False when the index cannot be used at present."""
        try:
            if not await asyncio.to_thread(self._knowledge.settled):
                indexed = await asyncio.to_thread(self._knowledge.index_pending)
                logger.info("indexed %d documents", indexed)
        except StoreError as error:
            if str(error) != self._last_trouble:  # once, not every half minute
                logger.warning("documents cannot be indexed: %s", error)
            self._last_trouble = str(error)
            return False
        except Exception:  # the outermost edge of this task: it has to live as long as the bot
            logger.exception("indexing failed")
            return False
        self._last_trouble = ""
        return True
