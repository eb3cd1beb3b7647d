"""What the shell shows on a terminal: no text of others acts on it."""

import pytest
import typer
from terminal import on_a_terminal

from mads_ray.cli.friendly import friendly
from mads_ray.errors import ConfigError

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


@pytest.mark.parametrize(
    ("error", "code"), [(KeyError, 1), (OSError, 2), (ConfigError, 2), (UnicodeError, 1)]
)
def test_errors_of_any_kind_and_length_are_plain_and_short(capsys, error, code):
    with pytest.raises(typer.Exit) as left, friendly():
        raise error(HOSTILE + "x" * 10**6)
    assert left.value.exit_code == code
    shown = capsys.readouterr().err
    assert error.__name__ in shown or "error: " in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert len(shown) < 100_000
