"""Turns and what becomes history, on SQLite and on Postgres."""

import pytest

from store.conversations import Conversations
from store.database import Database
from store.domain import (
    FinishReason,
    Message,
    PartKind,
    Place,
    Prompt,
    PromptPart,
    SentKind,
    TurnState,
)
from store.errors import TurnNotFound
from tests.fakes import Clock
from tests.store.talk import ADA, BOB, GROUP, begin, meet, talk
from tests.store.threads import at_once

TOPIC = Place(chat_id=GROUP.chat_id, thread_id=7)
PARTS = (
    PromptPart(kind=PartKind.SYSTEM, message=0, starts_at=0, ends_at=9),
    PromptPart(kind=PartKind.QUESTION, message=1, starts_at=0, ends_at=4),
)
MESSAGES = (Message(role="system", content="Be brief."), Message(role="user", content="why?"))


@pytest.fixture
def conversations(database: Database) -> Conversations:
    return Conversations(database)


def history(conversations: Conversations, **options: int) -> list[tuple[str, str]]:
    pairs = conversations.history(conversations.current(GROUP).id, **options)
    return [(each.question, each.reply) for each in pairs]


def test_a_conversation_is_begun_where_there_is_none(
    conversations: Conversations, clock: Clock
) -> None:
    conversation = conversations.current(TOPIC)
    assert conversation.place == TOPIC
    assert conversation.started_at == clock()


def test_a_conversation_goes_on(conversations: Conversations, clock: Clock) -> None:
    begun = conversations.current(GROUP)
    clock.advance(seconds=60)
    assert conversations.current(GROUP) == begun


def test_a_conversation_asked_for_at_once_is_begun_once(conversations: Conversations) -> None:
    for chat_id in range(5):
        place = Place(chat_id=chat_id)
        begun = at_once(8, lambda _, place=place: conversations.current(place).id)
        assert len(set(begun)) == 1


def test_topics_and_chats_are_separate(database: Database, conversations: Conversations) -> None:
    talk(database, "in the topic", place=TOPIC)
    talk(database, "elsewhere", place=Place(chat_id=5))
    talk(database, "in the group")
    assert history(conversations) == [("in the group", "because")]


def test_new_starts_with_nothing_and_keeps_what_was(
    database: Database, conversations: Conversations
) -> None:
    turn_id = talk(database, "old")
    started = conversations.start_new(GROUP)
    assert conversations.current(GROUP) == started
    assert history(conversations) == []
    assert conversations.turn(turn_id).question == "old"


def test_new_in_a_topic_leaves_the_other_topics_alone(
    database: Database, conversations: Conversations
) -> None:
    talk(database, "kept")
    conversations.start_new(TOPIC)
    assert history(conversations) == [("kept", "because")]


def test_a_turn_is_there_before_it_is_answered(
    database: Database, conversations: Conversations, clock: Clock
) -> None:
    turn = conversations.turn(begin(database, "why?"))
    assert (turn.state, turn.question, turn.completion) == (TurnState.PENDING, "why?", "")
    assert (turn.person_id, turn.place, turn.model) == (ADA, GROUP, "starter")
    assert turn.created_at == clock()


def test_a_turn_keeps_exactly_what_the_model_was_given(
    database: Database, conversations: Conversations
) -> None:
    turn_id = begin(database)
    sampling = {"temperature": 0.3, "seed": 7, "stop": ["\n"]}
    conversations.record_prompt(turn_id, Prompt(messages=MESSAGES, parts=PARTS), dict(sampling))
    turn = conversations.turn(turn_id)
    assert (turn.messages, turn.parts, turn.sampling) == (MESSAGES, PARTS, sampling)


def test_a_finished_turn_keeps_how_it_ended(
    database: Database, conversations: Conversations
) -> None:
    turn_id = begin(database)
    finished = conversations.finish_turn(
        turn_id,
        state=TurnState.FINAL,
        completion="because",
        adapter="a1-0123abcd",
        prompt_tokens=12,
        completion_tokens=3,
        seconds=0.25,
        finish_reason=FinishReason.LENGTH,
    )
    assert conversations.turn(turn_id) == finished
    assert (finished.state, finished.completion) == (TurnState.FINAL, "because")
    assert (finished.adapter, finished.finish_reason) == ("a1-0123abcd", FinishReason.LENGTH)
    assert (finished.prompt_tokens, finished.completion_tokens) == (12, 3)
    assert finished.seconds == 0.25


def test_long_text_of_any_script_comes_back_as_it_was(
    database: Database, conversations: Conversations
) -> None:
    text = "naïve 👩‍👩‍👧 שלום 日本\r\n\t'\"\\%s :name " * 2000
    turn = conversations.turn(talk(database, text, text))
    assert turn.question == turn.completion == turn.messages[-1].content == text


def test_a_zero_byte_that_a_model_writes_loses_no_reply(
    database: Database, conversations: Conversations
) -> None:
    turn = conversations.turn(talk(database, "why?", "be\0cause"))
    assert turn.state == TurnState.FINAL
    assert turn.completion in ("be\0cause", "because", "be\ufffdcause")


def test_a_turn_of_another_chat_is_not_found(
    database: Database, conversations: Conversations
) -> None:
    turn_id = talk(database, place=TOPIC)
    assert conversations.turn(turn_id, chat_id=TOPIC.chat_id).id == turn_id
    with pytest.raises(TurnNotFound, match=f"no turn {turn_id} here"):
        conversations.turn(turn_id, chat_id=TOPIC.chat_id + 1)


def test_a_turn_that_does_not_exist_is_not_found(conversations: Conversations) -> None:
    with pytest.raises(TurnNotFound):
        conversations.turn(404)
    with pytest.raises(TurnNotFound):
        conversations.record_prompt(404, Prompt(messages=(), parts=()), {})
    with pytest.raises(TurnNotFound):
        conversations.finish_turn(404, state=TurnState.FINAL)
    with pytest.raises(TurnNotFound):
        conversations.record_sent(404, GROUP.chat_id, (1,), SentKind.REPLY)
    with pytest.raises(TurnNotFound):
        conversations.versions(404)


def test_history_is_oldest_first(database: Database, conversations: Conversations) -> None:
    for number in range(3):
        talk(database, f"q{number}", f"r{number}")
    assert history(conversations) == [("q0", "r0"), ("q1", "r1"), ("q2", "r2")]


def test_only_finished_turns_are_history(database: Database, conversations: Conversations) -> None:
    begin(database, "pending")
    talk(database, "failed", state=TurnState.FAILED)
    talk(database, "cancelled", "half a re", state=TurnState.CANCELLED)
    talk(database, "final")
    assert history(conversations) == [("final", "because")]


def test_an_answer_given_again_stands_where_the_first_stood(
    database: Database, conversations: Conversations
) -> None:
    first = talk(database, "q1", "first")
    talk(database, "q2", "r2")
    talk(database, "q1", "second", regenerates_id=first)
    talk(database, "q1", "third", regenerates_id=first)
    talk(database, "q3", "r3")
    assert history(conversations) == [("q1", "third"), ("q2", "r2"), ("q3", "r3")]


def test_a_regeneration_that_failed_leaves_the_answer_before_it(
    database: Database, conversations: Conversations
) -> None:
    first = talk(database, "q1", "first")
    talk(database, "q1", "", regenerates_id=first, state=TurnState.FAILED)
    assert history(conversations) == [("q1", "first")]


def test_history_before_a_turn_leaves_out_that_turn_and_later_ones(
    database: Database, conversations: Conversations
) -> None:
    talk(database, "q1", "r1")
    second = talk(database, "q2", "r2")
    talk(database, "q3", "r3")
    assert history(conversations, before=second) == [("q1", "r1")]


def test_a_limited_history_is_the_newest_part(
    database: Database, conversations: Conversations
) -> None:
    for number in range(5):
        talk(database, f"q{number}", f"r{number}")
    assert history(conversations, limit=2) == [("q3", "r3"), ("q4", "r4")]


def test_an_old_answer_given_again_does_not_become_the_newest_of_a_limited_history(
    database: Database, conversations: Conversations
) -> None:
    first = talk(database, "q1", "r1")
    talk(database, "q2", "r2")
    talk(database, "q3", "r3")
    talk(database, "q1", "again", regenerates_id=first)
    assert history(conversations, limit=2)[-1] == ("q3", "r3")


def test_the_last_turn_is_the_newest_finished_one(
    database: Database, conversations: Conversations
) -> None:
    conversation_id = conversations.current(GROUP).id
    assert conversations.last_turn(conversation_id) is None
    talk(database, "q1")
    second = talk(database, "q2")
    begin(database, "pending")
    talk(database, "failed", state=TurnState.FAILED)
    last = conversations.last_turn(conversation_id)
    assert last == conversations.turn(second)


def test_versions_are_found_from_any_of_them_oldest_first(
    database: Database, conversations: Conversations
) -> None:
    first = talk(database, "q1")
    talk(database, "q2")
    second = talk(database, "q1", regenerates_id=first)
    third = talk(database, "q1", regenerates_id=first, state=TurnState.CANCELLED)
    for turn_id in (first, second, third):
        found = conversations.versions(turn_id)
        assert [turn.id for turn in found] == [first, second, third]


def test_a_long_reply_is_found_by_each_of_its_messages(
    database: Database, conversations: Conversations
) -> None:
    turn_id = talk(database)
    message_ids = tuple(range(1, 501))
    conversations.record_sent(turn_id, 5, message_ids, SentKind.REPLY)
    assert conversations.shown_by(turn_id, 5) == message_ids
    assert {conversations.shown_in(5, each, SentKind.REPLY) for each in (1, 250, 500)} == {turn_id}


def test_messages_are_told_apart_by_chat_and_kind(
    database: Database, conversations: Conversations
) -> None:
    turn_id = talk(database)
    conversations.record_sent(turn_id, 5, (9,), SentKind.CORRECTION_PROMPT)
    assert conversations.shown_in(5, 9, SentKind.CORRECTION_PROMPT) == turn_id
    assert conversations.shown_in(5, 9, SentKind.REPLY) is None
    assert conversations.shown_in(6, 9, SentKind.CORRECTION_PROMPT) is None
    assert conversations.shown_by(turn_id, 5) == ()


def test_a_message_that_is_edited_shows_its_newest_turn(
    database: Database, conversations: Conversations
) -> None:
    first = talk(database)
    second = talk(database, regenerates_id=first)
    conversations.record_sent(first, 5, (9,), SentKind.REPLY)
    conversations.record_sent(first, 5, (9, 10), SentKind.REPLY)
    conversations.record_sent(second, 5, (9,), SentKind.REPLY)
    assert conversations.shown_in(5, 9, SentKind.REPLY) == second
    assert conversations.shown_by(first, 5) == (10,)


def test_ids_as_large_as_telegrams_are_kept(
    database: Database, conversations: Conversations
) -> None:
    large = 2**52 - 1
    meet(database, large)
    turn_id = talk(database, person_id=large, place=Place(chat_id=-large, thread_id=large))
    conversations.record_sent(turn_id, -large, (2**31 - 1,), SentKind.REPLY)
    assert conversations.turn(turn_id, chat_id=-large).person_id == large


def test_finished_turns_are_counted(database: Database, conversations: Conversations) -> None:
    assert conversations.count() == 0
    talk(database)
    talk(database, person_id=BOB, place=TOPIC)
    begin(database)
    talk(database, state=TurnState.FAILED)
    assert conversations.count() == 2
