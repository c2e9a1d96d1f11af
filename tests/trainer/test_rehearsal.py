"""Rehearsed questions are never those that are measured."""

from bot.engine.local import Weights
from trainer.proving.retention import load_development_checks, load_retention_suite
from trainer.tuning.rehearsal import load_rehearsal, rehearse


def test_no_question_is_rehearsed_that_a_retention_check_asks() -> None:
    checks = (*load_retention_suite(), *load_development_checks())
    asked = {check.question.casefold().strip() for check in checks}

    assert asked.isdisjoint(question.casefold().strip() for question in load_rehearsal())


def test_no_question_is_rehearsed_twice() -> None:
    assert len(set(load_rehearsal())) == len(load_rehearsal())


def test_the_model_answers_as_conversations_begin(tiny_weights: Weights) -> None:
    replies = rehearse(tiny_weights, 3, "Be brief.")

    assert {reply.prompt[1].content for reply in replies} <= set(load_rehearsal()[:3])
    for reply in replies:
        assert [message.role for message in reply.prompt] == ["system", "user"]
        assert reply.text.strip()


def test_without_a_system_prompt_there_is_none(tiny_weights: Weights) -> None:
    assert {len(reply.prompt) for reply in rehearse(tiny_weights, 3, "")} <= {1}
