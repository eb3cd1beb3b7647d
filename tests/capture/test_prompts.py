import copy

import numpy as np
import pytest

from mads_ray.capture.prompts import PromptRenderer
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import RowError

USER, BOT, SYSTEM = (lambda t: Message("user", t)), (lambda t: Message("assistant", t)), None
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}\n"
    "{% endfor %}"
)


def talk(*turns):
    return Conversation(tuple(turns))


def own_text(tokenizer, example):
    return tokenizer.decode(example.ids_T[example.own_T])


@pytest.fixture
def tokenizer(smollm2):
    return smollm2[1]


def with_template(tokenizer, template, max_tokens=2048):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return PromptRenderer(changed, max_tokens)


def test_the_ids_are_those_of_the_models_own_template(tokenizer, renderer):
    turns = [USER("What is 2+2?"), BOT("4, of course."), USER("Why?"), BOT("Peano.")]
    chat = [{"role": m.role, "content": m.content} for m in turns]
    expected = tokenizer.apply_chat_template(chat, tokenize=True)["input_ids"]
    assert renderer(talk(*turns)).ids_T.tolist() == expected


def test_own_tokens_are_exactly_the_contents(tokenizer, renderer):
    turns = [Message("system", "Be terse."), USER("Name a river."), BOT("Donau, März 🙂.")]
    assert own_text(tokenizer, renderer(talk(*turns))) == "Name a river.Donau, März 🙂."


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [("prompt", "Name a river.Why?"), ("response", "Donau.It flows."), ("last", ".")],
)
def test_whose_tokens_count(tokenizer, tokens, expected):
    turns = [Message("system", "Hm"), USER("Name a river."), BOT("Donau."), USER("Why?")]
    example = PromptRenderer(tokenizer, 2048, tokens)(talk(*turns, BOT("It flows.")))
    assert own_text(tokenizer, example) == expected
    every = PromptRenderer(tokenizer, 2048)(talk(*turns, BOT("It flows.")))
    assert example.ids_T.tolist() == every.ids_T.tolist()


def test_a_row_without_such_tokens_is_a_row_error(tokenizer):
    with pytest.raises(RowError, match="no token of this row is its own text of its response"):
        PromptRenderer(tokenizer, 2048, "response")(talk(USER("Hello?")))


def test_a_content_that_repeats_the_template_marks_only_itself(tokenizer, renderer):
    example = renderer(talk(USER("user"), BOT("assistant")))
    assert own_text(tokenizer, example) == "userassistant"
    assert example.own_T.sum() < len(example.own_T) / 2


def test_every_sample_row_marks_its_own_text(tokenizer, renderer, sample_rows):
    for row in sample_rows[::7]:
        expected = "".join(m.content.strip() for m in row.messages if m.role != "system")
        assert own_text(tokenizer, renderer(row)) == expected


@pytest.mark.parametrize("limit", [64, 65, 200])
def test_an_over_long_row_loses_the_middle_of_its_prompt(tokenizer, limit):
    words = " ".join(f"word{i}" for i in range(400))
    renderer = PromptRenderer(tokenizer, limit)
    example = renderer(talk(USER("BEGIN " + words + " END?"), BOT("The answer.")))
    text = tokenizer.decode(example.ids_T)
    assert len(example.ids_T) == limit
    assert example.cut > 0
    assert "BEGIN" in text or limit == 64  # the template's own header comes first
    assert "END?" in text
    assert "The answer." in text
    assert "word200" not in text


def test_a_long_answer_keeps_at_least_half(tokenizer):
    renderer = PromptRenderer(tokenizer, 100)
    example = renderer(talk(USER("go " * 300), BOT("yes " * 300)))
    text = tokenizer.decode(example.ids_T)
    assert len(example.ids_T) == 100
    assert text.count("yes") >= 45
    assert text.count("go") >= 10


def test_a_row_of_a_megabyte(tokenizer, renderer):
    example = renderer(talk(USER("lorem ipsum " * 90_000), BOT("fine")))
    assert len(example.ids_T) == 2048
    assert example.cut > 100_000


def test_a_template_without_system_role_gets_it_folded(tokenizer):
    strict = with_template(tokenizer, STRICT)
    turns = [Message("system", "Be kind."), USER("Hi"), USER("there"), BOT("Hello")]
    text = tokenizer.decode(strict(talk(*turns)).ids_T)
    assert text == "<user>Be kind.\n\nHi\n\nthere\n<assistant>Hello\n"


def test_an_answer_first_conversation_is_folded_too(tokenizer):
    strict = with_template(tokenizer, STRICT)
    text = tokenizer.decode(strict(talk(BOT("Welcome!"), USER("Hi"), BOT("Bye"))).ids_T)
    assert text == "<user>\n<assistant>Welcome!\n<user>Hi\n<assistant>Bye\n"


def test_a_template_that_refuses_everything_is_a_row_error(tokenizer):
    never = with_template(tokenizer, "{{ raise_exception('not today') }}")
    with pytest.raises(RowError, match="not today") as e:
        never(talk(USER("Hi")))
    assert e.value.reason == "chat_template"


def test_without_a_template_contents_are_joined(tokenizer):
    plain = with_template(tokenizer, None)
    example = plain(talk(USER("Question"), BOT("Answer")))
    assert tokenizer.decode(example.ids_T) == "Question\n\nAnswer"
    assert own_text(tokenizer, example) == "QuestionAnswer"


def test_a_template_that_shows_no_content_is_a_row_error(tokenizer):
    with pytest.raises(RowError, match=r"leaves out the text of turn 1 \(user\)") as e:
        with_template(tokenizer, "fixed")(talk(USER("Hi")))
    assert e.value.reason == "chat_template"


def test_lengths_of_ids_and_mask_agree(renderer, sample_rows):
    for row in sample_rows[:40]:
        example = renderer(row)
        assert example.ids_T.shape == example.own_T.shape
        assert example.ids_T.dtype == np.int32
