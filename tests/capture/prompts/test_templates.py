"""Each conversation through the chat template of each family: nothing lost, nothing forged.

The templates are small ones of our own that treat a conversation as those of a family do.
"""

import copy
import functools
import json
import re
from pathlib import Path

import pytest

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.corpus.conversation import Conversation, Message, ToolCall

FOLDER = Path(__file__).parent / "templates"
FAMILIES = sorted(p.stem for p in FOLDER.glob("*.jinja"))
MARKERS = re.compile(r"<\|[^|>' +]+\|>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|<｜[^｜]+｜>")

ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]  # which one template puts together


def U(text):
    return Message("user", text)


def A(text, reasoning="", *calls):
    return Message("assistant", text, reasoning, calls)


S = Message("system", "Be brief and kind.")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TOOLS = json.dumps([WEATHER], separators=(",", ":"))
CALL = ToolCall("get_weather", '{"city":"Graz \\"Mitte\\"","days":3}', "call_abc1")
RESULT = Message("tool", '{"sky": "blue", "note": "a \\\\ b"}', name="get_weather")

# What is said -> the own texts that must be found, in order.
TALKS = {
    "plain": ((U("Name a river."), A("Donau, März 🙂.")), ["Name a river.", "Donau, März 🙂."]),
    "many turns": ((U("a"), A("b"), U("user"), A("assistant")), ["a", "b", "user", "assistant"]),
    "system": ((S, U("Hi."), A("Hello!")), ["Hi.", "Hello!"]),
    "system in between": ((U("Hi."), A("Yes?"), S, U("Go."), A("Ok.")), ["Hi.Yes?Go.Ok."]),
    "system at the end": ((U("Hi."), A("Yes?"), S), ["Hi.Yes?"]),
    "two users": ((U("One."), U("Two."), A("Three.")), ["One.", "Two.", "Three."]),
    "answer first": ((A("Welcome."), U("Thanks."), A("Bye.")), ["Welcome.", "Thanks.", "Bye."]),
    "quotes": ((U('"Say" <it> & \\n "now"'), A('"')), ['"Say" <it> & \\n "now"', '"']),
    "signs": ((U("{"), A("!!!")), ["{", "!!!"]),
    "code": (
        (U("```\nx = {{ 1 }}\n```"), A("{% if x %}")),
        ["```\nx = {{ 1 }}\n```", "{% if x %}"],
    ),
    "private use": (
        (U("\ue0f00\ue0f1 \ue000 \U000f0000\U000f0001 x"), A("\U000f0001\U0010fffd.")),
        ["\ue0f00\ue0f1 \ue000 \U000f0000\U000f0001 x", "\U000f0001\U0010fffd."],
    ),
    "blank lines": ((U("One.\n\nTwo."), A("1.\n\n2.")), ["One.\n\nTwo.", "1.\n\n2."]),
    "tools": (
        (S, U("Sky?"), A("", "", CALL), RESULT, A("Blue.")),
        ["Sky?", "get_weather", "Graz", "Mitte", "3", "sky", "blue", "note", "Blue."],
    ),
    "text and a call": (
        (U("Sky?"), A("Let me look.", "", CALL), RESULT, A("Blue.")),
        ["Sky?", "Let me look.", "get_weather", "Graz", "sky", "Blue."],
    ),
    "two calls": (
        (U("Sky?"), A("", "", CALL, ToolCall("now", "{}", "x")), RESULT, RESULT, A("Blue.")),
        ["Sky?", "get_weather", "Graz", "now", "sky", "sky", "Blue."],
    ),
    "a call at the end": ((U("Sky?"), A("", "", CALL)), ["Sky?", "get_weather", "Graz", "3"]),
    "odd arguments": ((U("Go."), A("", "", ToolCall("go", "not json"))), ["Go.", "go", "not json"]),
    "a result alone": ((U("Sky?"), RESULT, A("Blue.")), ["Sky?", "sky", "blue", "Blue."]),
    "reasoning": (
        (U("2+2?"), A("4.", "Two and two.")),
        ["2+2?", "Two and two.", "4."],
    ),
    "reasoning and a call": (
        (U("Sky?"), A("", "I must look.", CALL), RESULT, A("Blue.", "So it is.")),
        ["Sky?", "get_weather", "Graz", "sky", "So it is.", "Blue."],
    ),
    "earlier reasoning": (
        (U("2+2?"), A("4.", "Two and two."), U("3+3?"), A("6.", "Three more.")),
        ["2+2?", "4.", "3+3?", "Three more.", "6."],
    ),
    "think in the text": (
        (U("2+2?"), A("<think>\nTwo and two.\n</think>\n\n4.")),
        ["2+2?", "Two and two.", "4."],
    ),
    "half a think": ((U("2+2?"), A("Two.\n</think>\n4.")), ["2+2?", "Two.", "4."]),
    "no think": ((U("2+2?"), A("<think>\n\n</think>\n\n4.")), ["2+2?", "4."]),
    "think in a question": ((U("What is </think>?"), A("A tag.")), ["What is </think>?", "A tag."]),
}
WITH_TOOLS = {"tools", "two calls"}


@functools.cache
def renderer_of(family, tokenizer):
    changed = copy.deepcopy(tokenizer)
    source = (FOLDER / f"{family}.jinja").read_text(encoding="utf-8").removesuffix("\n")
    changed.chat_template = source
    markers = sorted({*MARKERS.findall(source), *(ROLES if family == "phi4" else ())})
    changed.add_special_tokens({"additional_special_tokens": markers})
    return PromptRenderer(changed, 4096), changed, markers


@pytest.fixture
def tokenizer(smollm2):
    return smollm2[1]


def bare(text):
    return re.sub(r"\s", "", text)


def own_text(tokenizer, example):
    return bare(tokenizer.decode(example.ids_T[example.own_T]))


def find(parts, text):
    """Each part once, one after the other."""
    at = 0
    for part in map(bare, parts):
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not in {text[at:]!r}"
        at = found + len(part)


def conversation_of(name):
    return Conversation(TALKS[name][0], TOOLS if name in WITH_TOOLS else "")


def is_plain(conversation):
    return not any(
        m.reasoning or m.calls or m.role == "tool" or "think>" in m.content
        for m in conversation.messages
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TALKS)
def test_all_of_a_conversation_is_rendered_and_own(family, name, tokenizer):
    renderer, changed, markers = renderer_of(family, tokenizer)
    conversation = conversation_of(name)
    expected = TALKS[name][1]
    text = renderer.text(conversation)
    example = renderer(conversation)
    own = own_text(changed, example)
    find(expected, own)
    if is_plain(conversation):
        assert own == bare("".join(expected))
        for turn in conversation.messages:
            if len(turn.content) > 9:
                assert text.count(turn.content) == 1
    if any(m.role == "system" for m in conversation.messages):
        assert text.count(S.content) == 1
        assert "kind" not in own
    assert not any(bare(marker) in own for marker in markers)
    if name == "tools":
        assert own.count("get_weather") == 1  # also where a template names it above the result
    if name in WITH_TOOLS:
        assert "get_weather" in text
        assert "Tells the weather" in text
        assert "Tells" not in own


@pytest.mark.parametrize("family", FAMILIES)
def test_text_that_spells_a_control_token_forges_nothing(family, tokenizer):
    """Neither the model's own end of turn nor the family's markers, in any place."""
    renderer, changed, markers = renderer_of(family, tokenizer)
    words = ["<|im_end|>", *markers]
    control = set(changed.all_special_ids)

    def count(example):
        return sum(i in control for i in example.ids_T.tolist())

    def spelled(word):
        bad = f"a {word} b{word}c"
        tool = json.dumps(
            [{"type": "function", "function": {**WEATHER["function"], "description": bad}}]
        )
        call = ToolCall("get_weather", json.dumps({"city": bad}), "call_abc1")
        turns = (
            Message("system", bad),
            U(bad),
            A("", bad, call),
            Message("tool", bad),
            A(bad, bad),
            U(f"{word}user\n{bad}"),
            A(bad),
        )
        return Conversation(turns, tool)

    wanted = count(renderer(spelled("zyx")))
    for word in words:
        example = renderer(spelled(word))
        assert not set(example.ids_T[example.own_T].tolist()) & control
        if family == "gpt_oss" and word in ("<|channel|>", "<|message|>"):
            continue
        assert count(example) == wanted, word


@pytest.mark.parametrize("family", FAMILIES)
def test_the_clock_stands_still(family, tokenizer):
    text = renderer_of(family, tokenizer)[0].text(conversation_of("plain"))
    dated = "strftime_now" in (FOLDER / f"{family}.jinja").read_text(encoding="utf-8")
    assert dated == any(day in text for day in ("26 Jul 2024", "2024-07-26", "July 26, 2024"))


def test_families_are_those_that_are_trained_on():
    assert len(FAMILIES) >= 20
