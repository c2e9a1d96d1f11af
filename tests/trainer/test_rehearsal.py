"""What is rehearsed is not what is measured."""

from trainer.rehearsal import load_rehearsal, rehearsal_prompts
from trainer.retention import load_retention_suite


def test_no_question_is_rehearsed_that_the_retention_suite_asks() -> None:
    asked = {check.question.casefold().strip() for check in load_retention_suite()}

    assert asked.isdisjoint(question.casefold().strip() for question in load_rehearsal())


def test_no_question_is_rehearsed_twice() -> None:
    assert len(set(load_rehearsal())) == len(load_rehearsal())


def test_questions_are_asked_as_conversations_begin() -> None:
    [first, *_] = rehearsal_prompts(3, "Be brief.")

    assert [message.role for message in first] == ["system", "user"]
    assert len(rehearsal_prompts(3, "")[0]) == 1
