"""What the shell shows on a terminal: no text of others acts on it."""

import pytest
from terminal import on_a_terminal

HOSTILE = "\x1b]0;title\x07\x9b31m\u202e"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--input", f"/nowhere/{HOSTILE}*.jsonl", "--output", "o"),
        ("run", "--config", f"/nowhere/{HOSTILE}.yaml"),
        ("run", "--output", "o", "--set", f"capture.{HOSTILE}=1"),
        ("evaluate", f"/nowhere/{HOSTILE}"),
        ("explain", f"/nowhere/{HOSTILE}", HOSTILE),
        ("report", f"/nowhere/{HOSTILE}"),
    ],
)
def test_errors_are_plain(words):
    code, shown = on_a_terminal(*words)
    assert code == 2, shown
    assert "\\x1b]0;title\\x07\\x9b31m\\u202e" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
