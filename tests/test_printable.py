"""Nothing in the text of others acts on its reader."""

import logging
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.printable import PlainFormatter, one_line, printable, shortened

HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\rA\u202eB\u2066\ud83d\u2028\x00\x7f"


def test_what_acts_is_spelled_out():
    assert printable(HOSTILE) == (
        "\\x1b]0;title\\x07\\x1b[31m\\x9b2J\\x0dA\\u202eB\\u2066\\ud83d\\u2028\\x00\\x7f"
    )


def test_what_people_write_stays():
    text = "Zürich\t東京\n👩\u200d👩\u200d👧 नमस्\u200dते שלום e\u0301 \xa0"
    assert printable(text) == text
    assert printable("a\r\nb") == "a\nb"
    assert one_line("a\r\n\tb\n") == "a b "


@given(st.text())
def test_it_can_be_shown_anywhere(text):
    shown = printable(text)
    shown.encode()
    assert not any(unicodedata.category(c) == "Cc" for c in re.sub("[\n\t]", "", shown))
    assert not any(unicodedata.bidirectional(c) in BIDI for c in shown)
    assert printable(shown) == shown


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(min_size=50, max_size=400))
def test_a_long_text_is_cut_in_its_middle(text):
    cut = shortened(text, 50)
    assert len(cut) <= 50
    assert (cut == text) == (len(text) == 50)
    if len(text) > 50:
        assert f"({len(text)} characters)" in cut
        assert cut[0] == text[0]


def test_a_log_line_and_its_traceback_are_plain_and_short():
    try:
        raise KeyError("\x1b[31m" + "x" * 10**6)
    except KeyError:
        record = logging.LogRecord("mads_ray", 30, "f", 1, "row %s", (HOSTILE,), sys.exc_info())
    line = PlainFormatter("%(message)s").format(record)
    assert "\x1b" not in line
    assert line.startswith("row \\x1b]0;")
    assert "KeyError" in line
    assert len(line) < 10_000


@pytest.mark.parametrize("longest", [0, 10])
def test_no_room_is_no_error(longest):
    assert shortened("x" * 99, longest)
