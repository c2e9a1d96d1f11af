"""Indexes new documents while the bot runs, whichever process has added them."""

import asyncio
import logging

from store.documents.documents import Documents
from store.errors import StoreError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks for new documents."""

RETRY_SECONDS = 30.0
"""Time between two looks while the index cannot be used."""


class Indexer:
    """Indexes pending documents about once a second."""

    def __init__(self, knowledge: Documents) -> None:
        self._knowledge = knowledge
        self._last_problem = ""

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            fine = await self.look()
            await asyncio.sleep(LOOK_SECONDS if fine else RETRY_SECONDS)

    async def look(self) -> bool:
        """Index pending documents once; return whether the index could be used."""
        try:
            if not await asyncio.to_thread(self._knowledge.settled):
                indexed = await asyncio.to_thread(self._knowledge.index_pending)
                logger.info("indexed %d documents", indexed)
        except StoreError as error:
            if str(error) != self._last_problem:  # log each problem once, not twice a minute
                logger.warning("documents cannot be indexed: %s", error)
            self._last_problem = str(error)
            return False
        except Exception:  # the edge of this task, which must outlive any error
            logger.exception("indexing failed")
            return False
        self._last_problem = ""
        return True
