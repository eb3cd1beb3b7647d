"""What a model is given, as `mads-ray inspect --model` shows it."""

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.capture.shown import marked
from mads_ray.corpus.conversation import Conversation, Message

TALK = Conversation((Message("user", "Who wrote Emma?"), Message("assistant", "Jane Austen.")))


def test_own_text_is_marked(smollm2, renderer):
    text = marked(renderer, smollm2[1], TALK)
    assert "«Who wrote Emma?»<|im_end|>" in text
    assert "assistant\n«Jane Austen.»" in text
    example = renderer(TALK)
    own = int(example.own_T.sum())
    assert text.startswith(f"{len(example.ids_T)} tokens, {own} of them own\n")


def test_long_and_useless_rows(smollm2, renderer):
    long = Conversation((Message("user", "word " * 5000), Message("assistant", "A\x1b[2J")))
    text = marked(PromptRenderer(smollm2[1], 300), smollm2[1], long)
    assert len(text) < 2000
    assert "cut\n" in text
    assert "\x1b" not in text
    lone = marked(renderer, smollm2[1], Conversation((Message("system", "S"),)))
    assert lone.startswith("would quarantine: no_own_tokens")
