"""Any text through templates that look into it: exactly that text is own."""

import copy
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.capture.prompts.folding import Piece
from mads_ray.capture.prompts.located import Marker, Unit, locate
from mads_ray.corpus.conversation import Conversation, Message

TEMPLATES = Path(__file__).parent / "templates"
WORDS = ["user", "model", "a", '"', "\\", "\\n", "<", ">", "&", "{", "}}", "[INST]", "<|im_end|>"]
WORDS += ["\n", "\n\n", " ", "\t", "é", "🙂", "\ue000", "\ue0f00\ue0f1", "\U000f0000", "\U0010fffd"]
WORDS += [
    "<tool_response>",
    "assistant\n",
    "12",
    "'",
    "%}",
    "{{ x }}",
    "<end_of_turn>",
    "\x0b",
    "ẞ",
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map("".join)
texts = texts.filter(lambda t: t.strip() and not t.strip().endswith("<|im_end|>"))


@pytest.fixture(scope="module")
def renderers(smollm2):
    made = {}
    for family in ("chatml", "llama31", "qwen3", "gemma3", "granite", "pixtral"):
        tokenizer = copy.deepcopy(smollm2[1])
        tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
        made[family] = PromptRenderer(tokenizer, 4096)
    return made


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(texts, min_size=1, max_size=5), st.none() | texts)
def test_own_text_is_the_contents(renderers, contents, system):
    turns = [Message(("user", "assistant")[i % 2], c) for i, c in enumerate(contents)]
    first = [] if system is None else [Message("system", system)]
    for renderer in renderers.values():
        found = renderer._render(renderer._stripped(Conversation((*first, *turns))))
        shown = {}
        for span in found.spans:
            piece = found.pieces[span.unit]
            text = found.text[span.start : span.end]
            shown[piece.turn] = shown.get(piece.turn, "") + text
        expected = [m.content.strip() for m in (*first, *turns)]
        assert [shown[i + 1] for i in range(len(expected))] == expected


@given(st.sets(st.text("<|>ab", min_size=1, max_size=5), min_size=1), st.text("<|>ab", max_size=9))
def test_control_tokens_are_found_by_their_longest_match(words, text):
    longest = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    expected = re.sub(longest, lambda m: "\U000f0007" * len(m.group()), text)
    assert Marker([], sorted(words)).control(text, 7) == expected


@given(texts, texts)
def test_escaped_text_is_found_whole(before, text):
    """As in results that a template quotes."""
    marker = Marker(["</think>", '"'], ["<|im_end|>"])
    unit = Unit(Piece(text, "text", 1, "tool"), text)
    unit.copy = marker.copy(text, 0)
    unit.codes = sum(c >= "\U000f0000" for c in unit.copy)
    if not unit.codes:
        unit.copy, unit.codes, unit.wrapped = marker.wrap(text, 0), 2, True
    before = before.encode("ascii", "ignore").decode()
    real, copied = (before + json.dumps(t, ensure_ascii=False) for t in (text, unit.copy))
    found = locate(real, copied, [unit])
    assert found is not None
    spans, shown = found
    assert shown.tolist() == [unit.codes]
    (span,) = spans
    assert json.loads(f'"{real[span.start : span.end]}"') == text
