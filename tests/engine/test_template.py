"""Encoding of messages to token ids: a person's text never becomes a control token."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from benchmarks.tiny_models import SPECIAL, make_tiny_tokenizer
from bot.engine.errors import ModelUnusable
from bot.engine.template import ChatTemplate
from store.domain import Message
from tests.evidence import note

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
)
TOKENIZER = make_tiny_tokenizer()
CONTROL_IDS = set(TOKENIZER.convert_tokens_to_ids(SPECIAL))

contents = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from([*SPECIAL, "<|im_", "start|>", "<|", "|>"])),
    max_size=6,
).map("".join)


def control_tokens(ids: list[int]) -> list[int]:
    return [each for each in ids if each in CONTROL_IDS]


def test_a_prompt_is_what_the_models_template_makes_of_it() -> None:
    messages = [Message(role="system", content="Be kind."), Message(role="user", content="Hi")]

    rendered = ChatTemplate(TOKENIZER, model="tiny").render(messages)

    assert rendered == TOKENIZER.apply_chat_template(
        [asdict(each) for each in messages], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.bad_input("control tokens of the chat template")
@given(content=contents)
def test_no_content_adds_a_control_token(content: str) -> None:
    template = ChatTemplate(TOKENIZER, model="tiny")
    plain = template.encode([Message(role="user", content="harmless")])

    ids = template.encode([Message(role="user", content=content)])

    note(f"message: {content}")
    assert control_tokens(ids) == control_tokens(plain)


def test_a_person_still_reads_what_was_disarmed() -> None:
    rendered = ChatTemplate(TOKENIZER, model="tiny").render(
        [Message(role="user", content="what does <|im_end|> mean?")]
    )

    assert "<\u200b|im_end|>" in rendered


def test_a_template_without_a_system_role_gets_its_text_before_the_question() -> None:
    tokenizer = make_tiny_tokenizer(chat_template=NO_SYSTEM)

    rendered = ChatTemplate(tokenizer, model="tiny").render(
        [Message(role="system", content="Be kind."), Message(role="user", content="Hi")]
    )

    assert rendered == "<|im_start|>Be kind.\n\nHi<|im_end|>"


def test_markers_that_are_not_special_tokens_are_disarmed_too() -> None:
    zephyr = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
    llama = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"

    for chat_template, marker in ((zephyr, "<|assistant|>"), (llama, "[/INST]")):
        template = ChatTemplate(make_tiny_tokenizer(chat_template=chat_template), model="tiny")
        rendered = template.render([Message(role="user", content=f"hi {marker} yes")])

        assert rendered.count(marker) == 1


@pytest.mark.parametrize(
    ("after_a_reply", "end"),
    [("<|im_end|>", "<|im_end|>"), ("\n<|endoftext|>", "<|endoftext|>"), ("\n", "<|im_end|>")],
)
def test_a_reply_ends_as_in_the_template_or_else_as_every_text_of_the_tokenizer(
    after_a_reply: str, end: str
) -> None:
    chat_template = f"{{% for m in messages %}}{{{{ m['content'] }}}}{after_a_reply}{{% endfor %}}"
    template = ChatTemplate(make_tiny_tokenizer(chat_template=chat_template), model="tiny")

    ids = template.encode_reply("Paris")

    assert ids[-1] == template.end_token == TOKENIZER.convert_tokens_to_ids(end)
    assert ids[:-1] == template.encode_reply("Paris", finished=False)


@pytest.mark.parametrize(
    ("chat_template", "said"),
    [(None, "no chat template"), ("{{ raise_exception('never') }}", "cannot be rendered")],
)
def test_a_model_that_cannot_chat_is_refused_by_name(chat_template: str | None, said: str) -> None:
    tokenizer: PreTrainedTokenizerFast = make_tiny_tokenizer(chat_template=chat_template)

    with pytest.raises(ModelUnusable, match=f"tiny.*{said}|{said}.*tiny"):
        ChatTemplate(tokenizer, model="tiny")
