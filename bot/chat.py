"""The chat: history → retrieve → prompt → generate → log. No Telegram, no torch.

Invariant: the question is stored before anything is done about it, the prompt before the model
sees it, and the reply before the caller gets it as final.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict, replace

import anyio

from bot.engine.base import Completion, Engine, SamplingParams
from bot.engine.errors import AdapterRefused, EngineBusy, EngineError
from bot.errors import ReplyFailed
from bot.lanes import Lanes
from bot.prompt import build_prompt
from bot.slots import leave_slot
from store.conversations import Conversations
from store.documents.documents import Documents
from store.domain import (
    Adapter,
    FinishReason,
    Memory,
    Message,
    PartKind,
    Passage,
    Place,
    Turn,
    TurnState,
)
from store.errors import StoreError
from store.logs import TURN
from store.memories import Memories
from store.settings_slices import ReplySettings, RetrievalSettings

logger = logging.getLogger(__name__)

REGENERATE_TEMPERATURE = 0.8
"""Least temperature for a second answer: a lower one would mostly say the same again."""


class Chat:
    """Answers messages of any number of people at once, in order within each place."""

    def __init__(
        self,
        *,
        reply: ReplySettings,
        retrieval: RetrievalSettings,
        conversations: Conversations,
        knowledge: Documents,
        memories: Memories,
        engine: Engine,
        choose_adapter: Callable[[], Adapter | None],
    ) -> None:
        self._settings = reply
        self._retrieval = retrieval
        self._conversations = conversations
        self._knowledge = knowledge
        self._memories = memories
        self._engine = engine
        self._choose_adapter = choose_adapter
        self._lanes = Lanes()
        self._answering: Adapter | None = None
        """The adapter with which the last reply was begun."""

    def in_order(self, place: Place) -> AbstractAsyncContextManager[None]:
        """Enter a place's lane: the block waits for everything that came before it there."""
        return self._lanes.enter(place)

    async def start_new(self, place: Place) -> None:
        """Begin a conversation that remembers nothing of the ones before."""
        await asyncio.to_thread(self._conversations.start_new, place)

    async def answer(
        self,
        place: Place,
        person_id: int,
        question: str,
        *,
        update_id: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> AsyncGenerator[str | Turn, None]:
        """Yield the turn as begun, the reply piece by piece, then the turn as finished.

        To be called in order (`in_order`). An update that was answered before is not answered
        again: its finished turn is yielded at once.

        `check` is called before the turn is stored, and may raise; see `Conversations.begin_turn`.
        Raises `QuestionTooLong`, `EngineBusy` or `ReplyFailed`; the turn is then kept as failed.
        Closing the generator cancels the reply; the text so far is kept.
        """
        conversation = await asyncio.to_thread(self._conversations.current, place)
        turn = await asyncio.to_thread(
            self._conversations.begin_turn,
            conversation.id,
            person_id,
            question,
            model=self._engine.model,
            update_id=update_id,
            check=check,
        )
        async with aclosing(self._reply(turn)) as pieces:
            async for piece in pieces:
                yield piece

    async def regenerate(
        self,
        turn: Turn,
        person_id: int,
        *,
        update_id: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> AsyncGenerator[str | Turn, None]:
        """Answer a turn's question again, from the history before it; see `answer`.

        The new turn is linked to the first answer, so that a thumb on either makes a pair.
        """
        again = await asyncio.to_thread(
            self._conversations.begin_turn,
            turn.conversation_id,
            person_id,
            turn.question,
            model=self._engine.model,
            regenerates_id=turn.regenerates_id or turn.id,
            update_id=update_id,
            check=check,
        )
        async with aclosing(self._reply(again)) as pieces:
            async for piece in pieces:
                yield piece

    async def _reply(self, turn: Turn) -> AsyncGenerator[str | Turn, None]:
        TURN.set(turn.id)
        if turn.state is TurnState.FINAL:  # the process died after the reply was written
            yield turn
            yield turn
            return
        text = ""
        finished: Turn | None = None
        try:
            yield turn
            adapter = await self._adapter()
            messages, sampling = await self._prepare(turn)
            leave_slot()
            stream = self._engine.stream(messages, sampling, adapter=adapter)
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        finished = await self._finish(turn.id, piece)
                    else:
                        text += piece
                        yield piece
        except (asyncio.CancelledError, GeneratorExit):
            await self._end(turn.id, TurnState.CANCELLED, text)
            raise
        except EngineBusy:
            await self._end(turn.id, TurnState.FAILED, text)
            raise
        except EngineError as error:
            await self._end(turn.id, TurnState.FAILED, text)
            raise ReplyFailed("I could not answer that. Please try again.") from error
        except Exception:  # no error leaves the turn pending
            await self._end(turn.id, TurnState.FAILED, text)
            raise
        assert finished is not None, "an engine's stream ends with its completion"
        yield finished  # outside the block: an error of the caller does not change the turn

    async def _prepare(self, turn: Turn) -> tuple[tuple[Message, ...], SamplingParams]:
        history = await asyncio.to_thread(
            self._conversations.history,
            turn.conversation_id,
            before=turn.regenerates_id or turn.id,
        )
        sampling = self._sampling(again=turn.regenerates_id is not None)
        prompt = await asyncio.to_thread(
            build_prompt,
            system_prompt=self._settings.system_prompt,
            history=history,
            passages=await asyncio.to_thread(self._retrieve, turn.question),
            memories=await asyncio.to_thread(self._recall, turn),
            question=turn.question,
            count_tokens=self._engine.count_tokens,
            budget_tokens=self._settings.prompt_tokens,
            limit_tokens=max(1, self._engine.context_tokens - sampling.max_new_tokens),
        )
        # The reply must be free to quote passages: a penalty costs one fact in fifteen.
        if prompt.kept(PartKind.PASSAGE):
            sampling = replace(sampling, repetition_penalty=1.0)
        await asyncio.to_thread(
            self._conversations.record_prompt,
            turn.id,
            prompt,
            asdict(sampling),
        )
        return prompt.messages, sampling

    def _retrieve(self, question: str) -> tuple[Passage, ...]:
        settings = self._retrieval
        try:
            return self._knowledge.search(
                question,
                count=settings.passages,
                floor=settings.passage_floor,
                margin=settings.passage_margin,
            )
        except StoreError as error:
            logger.warning("answering without sources: %s", error)
            return ()

    def _recall(self, turn: Turn) -> tuple[Memory, ...]:
        settings = self._retrieval
        if not settings.memories:
            return ()
        try:
            return self._memories.recall(
                turn.question,
                chat_id=turn.place.chat_id,
                conversation_id=turn.conversation_id,
                count=settings.memories,
                floor=settings.memory_floor,
            )
        except StoreError as error:
            logger.warning("answering without examples: %s", error)
            return ()

    def _sampling(self, *, again: bool) -> SamplingParams:
        settings = self._settings
        sampling = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=min(settings.max_new_tokens, self._engine.context_tokens // 2),
            seed=random.getrandbits(32),  # stored with the turn, to reproduce the reply
        )
        if not again:
            return sampling
        return replace(sampling, temperature=max(sampling.temperature, REGENERATE_TEMPERATURE))

    async def _adapter(self) -> str | None:
        """Return the version to answer with, or the one before while it cannot be loaded."""
        chosen = await asyncio.to_thread(self._choose_adapter)
        for adapter in (chosen, self._answering):
            if adapter is None:
                break
            try:
                await self._engine.load_adapter(adapter)
            except AdapterRefused as error:
                logger.error("answering without %s: %s", adapter.name, error)
            else:
                self._answering = adapter
                return adapter.name
        self._answering = None
        return None

    async def _finish(self, turn_id: int, completion: Completion) -> Turn:
        cancelled = completion.finish_reason == FinishReason.CANCELLED
        logger.info(
            "%d tokens in %.1f s by %s: %s",
            *(completion.completion_tokens, completion.seconds),
            *(completion.adapter or "the base model", completion.finish_reason),
        )
        return await asyncio.to_thread(
            self._conversations.finish_turn,
            turn_id,
            state=TurnState.CANCELLED if cancelled else TurnState.FINAL,
            completion=completion.text,
            adapter=completion.adapter,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            seconds=completion.seconds,
            finish_reason=completion.finish_reason,
        )

    async def _end(self, turn_id: int, state: TurnState, text: str) -> None:
        with anyio.CancelScope(shield=True):  # the caller may be going away
            await asyncio.to_thread(
                self._conversations.finish_turn, turn_id, state=state, completion=text
            )
